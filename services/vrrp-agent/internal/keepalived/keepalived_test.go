package keepalived

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/importing"
	"github.com/twotier/twotier/services/internal/importing/importingtest"

	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestGolden(t *testing.T) {
	t.Parallel()
	haproxy, haproxy2 := read(t, "keepalived-haproxy.conf"), read(t, "keepalived-haproxy2.conf")
	for name, files := range map[string][]File{
		"tutorial": {{Node: "haproxy", Text: haproxy}, {Node: "haproxy2", Text: haproxy2}},
		"tracked": {
			{Node: "haproxy", Text: haproxy, RouterHealth: "10.99.0.22:7402"},
			{Node: "haproxy2", Text: haproxy2, RouterHealth: "10.99.0.128:7402"},
		},
		"whole": {{Node: "lb1", Text: read(t, "whole-lb1.conf")}, {Node: "lb2", Text: read(t, "whole-lb2.conf")}},
		"every": {{Node: "lb1", Text: read(t, "every-lb1.conf")}, {Node: "lb2", Text: read(t, "every-lb2.conf")}},
		"grown": {{Node: "lb1", Text: read(t, "grown-lb1.conf")}, {Node: "lb2", Text: read(t, "grown-lb2.conf")}},
	} {
		instances, report, violations := Import(files)
		if len(violations) > 0 {
			t.Fatal(violations)
		}
		complete(t, files, report)
		valid(t, instances)
		importingtest.Golden(t, "testdata/"+name+".golden", instances, report)
		text := importingtest.Print(t, instances, report)
		for _, secret := range []string{"1111", "2222", "hunter2", "0a0b0c0d"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: %s is told", name, secret)
			}
		}
	}
}

// Every statement of keepalived.conf(5) that has to do with VRRP, of 2.2.7 and of 2.4.3, is known: what is not taken over is so
// for a reason.
func TestEvery(t *testing.T) {
	t.Parallel()
	_, report, violations := Import([]File{{Node: "lb1", Text: read(t, "every-lb1.conf")}, {Node: "lb2", Text: read(t, "every-lb2.conf")}})
	if len(violations) > 0 {
		t.Fatal(violations)
	}
	for _, line := range report.GetLines() {
		if text := importingtest.Line(line); strings.Contains(text, "not known to the importer") || strings.Contains(text, "means nothing") {
			t.Error(text)
		}
	}
}

// The tutorial's weight cannot do its work; the limit lies where the arithmetic says.
func TestArithmetic(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		weight string
		want   string // empty: no warning
	}{
		{"-5", "105 - 5 = 100, still above the 99 of haproxy2"},
		{"-6", "105 - 6 = 99, a tie"},
		{"-7", ""},
		{"0", ""},
		{"5", "105, still above the 99 + 5 = 104"},
		{"6", "105, a tie"},
		{"7", ""},
	} {
		var files []File
		for _, node := range []string{"haproxy", "haproxy2"} {
			text := strings.ReplaceAll(string(read(t, "keepalived-"+node+".conf")), "weight -5", "weight "+c.weight)
			text = strings.ReplaceAll(text, "smtp_server 192.168.60.128", "smtp_server 192.168.60.22") // the other warning
			files = append(files, File{Node: node, Text: []byte(text)})
		}
		_, report, violations := Import(files)
		got := strings.Join(report.GetWarnings(), "\n")
		if len(violations) > 0 || (got != "") != (c.want != "") || !strings.Contains(got, c.want) {
			t.Errorf("weight %s: got %q %v, want %q", c.weight, got, violations, c.want)
		}
	}
}

// Each line stands in the instance of node a; want is in what is said of it.
func TestLines(t *testing.T) {
	t.Parallel()
	const file = "vrrp_script chk {\n  script \"pidof haproxy\"\n}\nvrrp_instance VI_1 {\n  virtual_router_id 7\n  priority %d\n" +
		"  virtual_ipaddress {\n    10.0.0.7\n  }\n%s\n}\n"
	for _, c := range []struct{ line, want string }{
		{"  state MASTER", "ignored"},
		{"  interface eth0", `"eth0" has an address`},
		{"  advert_int 2", "advert_interval 2s"},
		{"  advert_int 0.5", "1s is taken"},
		{"  advert_int x", "want seconds"},
		{"  priority 101", "priority 101"},
		{"  priority x", "want a number"},
		{"  priority 255", "left out: members[0].priority: want 1 to 254"},
		{"  priority 50", "left out: members[1].priority: 50 is the priority"},
		{"  virtual_router_id 256", "left out: virtual_router_id: want 1 to 255"},
		{"  virtual_router_id x", "want a number"},
		{"  nopreempt", "nopreempt"},
		{"  version 3", "version 3"},
		{"  version 2", "version 2"},
		{"  authentication { auth_type AH", "there is PASS, which is taken, and hmac"},
		{"  auth_hmac { key 1 hunter2 }", "/run/secrets/VI_1-1.key"},
		{"  auth_hmac { key 1 file:/k }", "key 1 of /k"},
		{"  auth_hmac { key 300 file:/k }", "want key, 1 to 255"},
		{"  auth_hmac { key 1 file:k }", "does not sign its adverts"},
		{"  auth_hmac { active_key 9 }", "does not sign its adverts"},
		{"  authentication { auth_type PASS auth_pass hunter2 }", "/run/secrets/VI_1.pass"},
		{"  authentication { auth_pass hunter2hunter2 }", "first 8 bytes"},
		{"  virtual_ipaddress { 10.0.0.8/24 dev eth0 label eth0:1 }", "without dev"},
		{"  virtual_ipaddress { 10.0.0.8/24 }", "not /24"},
		{"  virtual_ipaddress { 10.0.0.8 10.0.0.9 }", "virtual address 10.0.0.9"},
		{"  virtual_ipaddress { 10.0.0.7 }", "there already"},
		{"  virtual_ipaddress { 127.0.0.1 }", "one machine can have"},
		{"  virtual_ipaddress { 2001:db8::1 }", "an instance of its own"},
		{"  virtual_ipaddress { www }", "want an IPv4 or IPv6 address"},
		{"  track_script { chk }", "tracker chk"},
		{"  track_script { chk weight -10 }", "in place of weight -10"},
		{"  track_script { nothing }", "no vrrp_script"},
		{"  track_interface { eth1 }", "tracker eth1"},
		{"  track_interface { eth1 weight -5 }", "fault in place of weight -5"},
		{"  track_interface { eth1 weight -60 }", "taken"},
		{"  track_interface { eth1 weight x }", "want -253 to 253"},
		{"  track_process { nothing }", "no vrrp_track_process"},
		{"  track_file { f }", "no track_file"},
		{"  track_interface { eth1 weight 60 reverse }", "taken"},
		{"  track_script { chk weight 60 reverse }", "cannot be reversed"},
		{"  use_vmac", "virtual_mac"},
		{"  vmac_xmit_base", "which is not there"},
		{"  garp_master_refresh 10", "announce_refresh 10s"},
		{"  garp_master_refresh 7200", "1m0s is taken"},
		{"  garp_master_refresh x", "want seconds"},
		{"  virtual_ipaddress_excluded { 10.0.0.8 }", "virtual address 10.0.0.8"},
		{"  virtual_ipaddress_excluded { 2001:db8::8 }", "an instance of its own"},
		{"  unicast_ttl 64", "time to live 255"},
		{"  mcast_dst_ip 224.0.0.18", "ignored"},
		{"  track_bfd { b }", "no BFD"},
		{"  preempt_delay 300", "preempt_delay 5m0s"},
		{"  preempt_delay 2000", "want 0s to 16m40s"},
		{"  preempt_delay x", "want seconds"},
		{"  smtp_alert", "does not say where mail goes"},
		{"  virtual_routes { 0.0.0.0/0 via 10.0.0.9 dev eth0 }", "virtual route to 0.0.0.0/0"},
		{"  virtual_routes { src 10.0.0.7 to default via 10.0.0.9 metric 3 }", "virtual route to 0.0.0.0/0"},
		{"  virtual_routes { 10.1.0.1 via 10.0.0.9 }", "virtual route to 10.1.0.1/32"},
		{"  virtual_routes { blackhole 10.1.0.0/16 }", "a route has a destination"},
		{"  virtual_routes { 10.1.0.0/16 via www }", "want the IPv4 address of a gateway"},
		{"  virtual_routes { src 10.0.0.99 to 10.1.0.0/16 }", "one of the virtual addresses"},
		{"  virtual_routes { 10.1.0.0/16 table 7 }", "a route has a destination"},
		{"  notify_fault /bin/x root", "notify_fault of the instance"},
		{"  notify_fault /bin/x root wheel", "in place of \"wheel\""},
		{"  notify_stop \"/bin/x stop\"", "nobody runs it"},
		{"  notify_master \"echo 1 >/proc/sys/net/ipv4/ip_forward\"", "a line for the shell"},
		{"  notify_deleted /bin/x", "no counterpart"},
		{"  unicast_src_ip 10.0.0.1", "first address of member a"},
		{"  notify_master \"/etc/init.d/haproxy start\"", "nothing is to be started"},
		{"  notify /bin/x", "notify of the instance"},
		{"  notify \"/bin/x --password=hunter2\"", "notify ***"},
		{"  unicast_peer { 10.0.0.2 }", "speaks by multicast"},
		{"  garp_master_delay 5", "ignored"},
		{"  mystery 1", `"mystery"`},
		{"  # the pass is hunter2", "# ***"},
		{"  }", "ends a block"},
	} {
		files := []File{
			{Node: "a", Text: fmt.Appendf(nil, file, 100, c.line), RouterHealth: "10.0.0.1:7402"},
			{Node: "b", Text: fmt.Appendf(nil, file, 50, ""), RouterHealth: "10.0.0.2:7402"},
		}
		instances, report, violations := Import(files)
		if len(violations) > 0 {
			t.Errorf("%s: %v", c.line, violations)
			continue
		}
		if got := importingtest.Line(report.GetLines()[9]); !strings.Contains(got, c.want) || strings.Contains(got, "%!") || strings.Contains(got, "hunter2") {
			t.Errorf("%s: got %s, want %q", c.line, got, c.want)
		}
		complete(t, files, report)
		valid(t, instances)
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	some := []byte("global_defs {\n}\n")
	for name, c := range map[string]struct {
		files []File
		want  string
	}{
		"none":     {nil, "files"},
		"no node":  {[]File{{Text: some}}, "files[0].node"},
		"twice":    {[]File{{Node: "a", Text: some}, {Node: "a", Text: some}}, "files[1].node"},
		"empty":    {[]File{{Node: "a", Text: some}, {Node: "b", Text: []byte(" \n")}}, "files[1].config"},
		"too much": {[]File{{Node: "a", Text: some}, {Node: "b", Text: make([]byte, importing.MaxBytes+1)}}, "files[1].config"},
		"too many": {make([]File, spec.MaxMembers+1), "files"},
	} {
		_, _, violations := Import(c.files)
		if len(violations) != 1 || violations[0].GetField() != c.want {
			t.Errorf("%s: got %v, want %s", name, violations, c.want)
		}
	}
}

func complete(t testing.TB, files []File, report *commonv1.ImportReport) {
	t.Helper()
	lines := report.GetLines()
	for _, file := range files {
		own := 0
		for own < len(lines) && lines[own].GetSource() == file.Node {
			own++
		}
		importingtest.Complete(t, file.Text, &commonv1.ImportReport{Lines: lines[:own]})
		lines = lines[own:]
	}
	if len(lines) > 0 {
		t.Errorf("%d lines too many", len(lines))
	}
}

// valid checks what Import promises: the objects can be applied one after the other.
func valid(t testing.TB, instances []*vrrpv1.Instance) {
	t.Helper()
	for i := range instances {
		if _, violations := spec.Parse(instances[:i+1]); len(violations) > 0 {
			t.Errorf("instances up to %d: %v", i, violations)
		}
	}
}

func FuzzImport(f *testing.F) {
	f.Add(read(f, "keepalived-haproxy.conf"), read(f, "keepalived-haproxy2.conf"), "10.99.0.22:7402")
	f.Add(read(f, "grown-lb1.conf"), read(f, "grown-lb2.conf"), "")
	f.Add(read(f, "every-lb1.conf"), read(f, "every-lb2.conf"), "")
	f.Fuzz(func(t *testing.T, a, b []byte, health string) {
		files := []File{{Node: "a", Text: a, RouterHealth: health}, {Node: "b", Text: b, RouterHealth: "10.0.0.1:1"}}
		instances, report, violations := Import(files)
		if len(violations) > 0 {
			return
		}
		complete(t, files, report)
		valid(t, instances)
	})
}

// An instance that is left out says why in its first line, with all that is wrong; what is wrong in other lines is told there.
func TestAllThatIsWrong(t *testing.T) {
	t.Parallel()
	text := "vrrp_instance VI_1 {\nvirtual_router_id 999\npriority abc\nadvert_int 1\nvirtual_ipaddress {\n300.1.1.1\n10.0.0.1/24\n}\n}\n"
	const along, wrongID = "unsupported: left out with line 1", "unsupported: the instance is left out: virtual_router_id: want 1 to 255, got 999"
	for name, c := range map[string]struct{ text, first, second string }{
		"a wrong id": {text, wrongID, wrongID},
		"no id":      {strings.Replace(text, "virtual_router_id 999", "state BACKUP", 1), `unsupported: vrrp_instance "VI_1" has no good virtual_router_id`, along},
	} {
		_, report, violations := Import([]File{{Node: "a", Text: []byte(c.text)}})
		if len(violations) > 0 {
			t.Fatal(violations)
		}
		want := []string{c.first, c.second, `unsupported: want a number, got "abc"`, along, along,
			`unsupported: "300.1.1.1": want an IPv4 or IPv6 address`, along, "it begins or ends a block", "it begins or ends a block"}
		var got []string
		for _, line := range report.GetLines() {
			got = append(got, line.GetMessage())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	noise := make([]byte, importing.MaxBytes/4)
	for n := range noise {
		noise[n] = byte(n * n >> 3)
	}
	for name, text := range map[string][]byte{
		"binary": noise, "deep": bytes.Repeat([]byte("a { "), 10_000), "closed": bytes.Repeat([]byte("}"), 10_000),
	} {
		_, report, violations := Import([]File{{Node: "a", Text: text}})
		if _, err := proto.Marshal(report); err != nil || len(violations) > 0 {
			t.Errorf("%s: the report cannot be sent: %v, %v", name, err, violations)
		}
	}
}
