package ipvsadm

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/importing"
	"github.com/twotier/twotier/services/internal/importing/importingtest"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// The rules of forms are what ipvsadm 1.31 has saved of each of its forms.
func TestGolden(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"tutorial", "grown", "forms"} {
		rules, err := os.ReadFile("testdata/" + name + ".rules")
		if err != nil {
			t.Fatal(err)
		}
		services, report, err := Import(rules)
		if err != nil {
			t.Fatal(err)
		}
		importingtest.Complete(t, rules, report)
		importingtest.Golden(t, "testdata/"+name+".golden", services, report)
		parse(t, services)
	}
}

// Each line stands behind a service 10.10.60.22:80 with one real server; want is what is said about it.
func TestImport(t *testing.T) {
	t.Parallel()
	const before = "-A -t 10.10.60.22:80 -s rr\n-a -t 10.10.60.22:80 -r 192.168.60.78 -m\n"
	for _, c := range []struct{ line, want string }{
		{"# comment", "ignored"},
		{"/sbin/ipvsadm -C", "ignored"},
		{"-A -t 10.10.60.22:443 -s wrr", "taken"},
		{"--add-service --tcp-service=10.10.60.22:443 --scheduler wrr", "taken"},
		{"-A -t 10.10.60.22:443", "scheduler wlc"},
		{"-A -t 10.10.60.22:443 -s lc", "taken"},
		{"-A -t 10.10.60.22:443 -s sh", "-b sh-fallback"},
		{"-A -t 10.10.60.22:443 -s sh -b sh-fallback", "taken"},
		{"-A -t 10.10.60.22:443 -s mh -b mh-port", "-b mh-fallback,mh-port"},
		{"-A -t 10.10.60.22:443 -s mh -b mh-port,mh-fallback", "taken"},
		{"-A -t 10.10.60.22:443 -s wlc -b flag-1", "-b:"},
		{"-A -t 10.10.60.22:443 -s wlcr", `scheduler "wlcr"`},
		{"-A -t 10.10.60.22:443 -s wlc -p 360", "taken"},
		{"-A -t 10.10.60.22:443 -s wlc -p -M 255.255.255.0", "6m0s, the default"},
		{"-A -t 10.10.60.22:443 -s wlc -p 0", `-p "0"`},
		{"-A -t 10.10.60.22:443 -s wlc -p 86401", "24h0m0s, which is the longest"},
		{"-A -t 10.10.60.22:443 -s wlc -p 60 -M 255.0.255.0", `-M "255.0.255.0"`},
		{"-A -t 10.10.60.22:443 -s wlc -p 60 -M 24", `-M "24"`},
		{"-A -t [2001:db8::1]:443 -s wlc -p 60 -M 129", `-M "129"`},
		{"-A -t 10.10.60.22:443 -s wlc -M 255.255.255.0", "-M: it belongs to -p"},
		{"-A -t 10.10.60.22:443 -s wlc -o", "-o: it is for UDP only"},
		{"-A -u 10.10.60.22:443 -s wlc -o", "taken"},
		{"-A -u 10.10.60.22:443 -s wlc -p 60 -o", "-o: with -p"},
		{"-A -u 10.10.60.22:443 -s wlc -p 60 --pe sip", `--pe "sip"`},
		{"-A -t 10.10.60.22:443 -s wlc --colour red", `"--colour"`},
		{"-A -t 10.10.60.22:80 -s wlc", "line 1 has this service already"},
		{"-A -t 10.10.60.22:0 -s wlc", "all ports"},
		{"-A -t www.example.org:http -s wlc", "-S -n"},
		{"-A -t [2001:db8::1]:80 -s wlc", "taken"},
		{"-A -t [fe80::1]:80 -s wlc", "not an address of a host"},
		{"-A -t 127.0.0.1:80 -s wlc", "not an address of a host"},
		{"-A -u 10.10.60.22:80 -s wlc", "virtual-service/10.10.60.22-80-udp"},
		{"-A -f 1 -s wlc", "virtual-service/fwmark-1"},
		{"-A -f 1 -6 -s wlc", "virtual-service/fwmark-1-ipv6"},
		{"-A -f 0 -s wlc", "1 to 4294967295"},
		{"-A --sctp-service 10.10.60.22:80 -s wlc", "SCTP"},
		{"-A", "no service"},
		{"-E -t 10.10.60.22:80 -s wlc", `"-E"`},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 1", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 0", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 1 -x 0 -y 0", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 7", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m", "weight 1, the default"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w -1", "weight"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 65536", "weight"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 1 -x 100", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 1 -x 100 -y 80", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 1 -x many", `-x "many"`},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 1 -x 100 -y 101", "-y 101: it is above -x"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 1 --tun-type gue", "--tun-type: it belongs to -i"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 1 --colour red", `"--colour"`},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -g -w 1", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55 -w 1", "direct routing (-g), the default"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:81 -g -w 1", "port 80, that of the service"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.78:81 -g -w 1", "line 2 has this real server already"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -i -w 1", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -i -w 1 --tun-type gue --tun-port=6080 --tun-remcsum", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -i -w 1 --tun-type gue", `--tun-port ""`},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -i -w 1 --tun-type gre --tun-csum", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -i -w 1 --tun-type gre --tun-remcsum", "--tun-remcsum: not with"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -i -w 1 --tun-csum", "--tun-csum: not with"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -i -w 1 --tun-type vxlan", `--tun-type "vxlan"`},
		{"-a -t 10.10.60.22:80 -r [2001:db8::55]:80 -i -w 1", "taken"},
		{"-a -t 10.10.60.22:80 -r [2001:db8::55]:80 -m -w 1", "another family"},
		{"-a -t 10.10.60.22:80 -r [2001:db8::55] -g -w 1", "another family"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:0 -m -w 1", "all ports"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.78:80 -m -w 1", "line 2 has this real server already"},
		{"-a -t 10.10.60.22:80 -r 10.10.60.22:80 -m -w 1", "the VIP itself"},
		{"-a -t 10.10.60.22:80 -m -w 1", "no real server"},
		{"-a -t 10.10.60.22:81 -r 192.168.60.55:80 -m -w 1", "no line above"},
		{"what", `"what"`},
	} {
		services, report, err := Import([]byte(before + c.line))
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		line := report.GetLines()[2]
		if got := importingtest.Line(line); !strings.Contains(strings.TrimPrefix(got, "3"), c.want) {
			t.Errorf("%s: got %s, want %q", c.line, got, c.want)
		}
		if strings.Contains(line.GetMessage(), "%!") {
			t.Errorf("%s: got %s", c.line, line.GetMessage())
		}
		parse(t, services)
	}
}

func TestImportBounds(t *testing.T) {
	t.Parallel()
	if _, _, err := Import(make([]byte, importing.MaxBytes+1)); !errors.Is(err, importing.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

// What is exported says the same when it is imported, and is taken line by line.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	const direct, tunnel = directorv1.Forwarding_FORWARDING_DIRECT, directorv1.Forwarding_FORWARDING_TUNNEL
	want := parse(t, []*directorv1.VirtualService{
		{Name: "10.10.60.23-443", Address: "10.10.60.23", Port: 443, Scheduler: "wrr", Persistence: &directorv1.Persistence{Prefix: 24}},
		{Name: "10.10.60.24-443", Address: "10.10.60.24", Port: 443, Scheduler: "sh"}, {Name: "10.10.60.25-443", Address: "10.10.60.25", Port: 443, Scheduler: "mh"},
		{Name: "10.10.60.22-80", Address: "10.10.60.22", Port: 80, RealServers: []*directorv1.RealServer{
			{Address: "192.168.60.78", UpperThreshold: 100, LowerThreshold: 50}, {Address: "192.168.60.55", Port: 8080, Weight: proto.Uint32(0)},
			{Address: "192.168.60.56", Weight: proto.Uint32(65535)}, {Address: "192.168.60.57", Forwarding: direct},
			{Address: "192.168.60.58", Forwarding: tunnel}, {Address: "2001:db8::58", Forwarding: tunnel},
			{Address: "192.168.60.59", Forwarding: tunnel, Tunnel: &directorv1.Tunnel{
				Type: directorv1.TunnelType_TUNNEL_TYPE_GUE, Port: 6080, Checksum: directorv1.TunnelChecksum_TUNNEL_CHECKSUM_REMOTE}},
			{Address: "192.168.60.60", Forwarding: tunnel, Tunnel: &directorv1.Tunnel{
				Type: directorv1.TunnelType_TUNNEL_TYPE_GRE, Checksum: directorv1.TunnelChecksum_TUNNEL_CHECKSUM_WHOLE}},
		}},
		{Name: "10.10.60.22-53-udp", Address: "10.10.60.22", Port: 53, Protocol: directorv1.Protocol_PROTOCOL_UDP, Scheduler: "sed", OnePacket: true},
		{Name: "fwmark-7", Fwmark: 7, RealServers: []*directorv1.RealServer{{Address: "192.168.60.78"}, {Address: "192.168.60.78", Port: 81}, {Address: "192.168.60.79", Forwarding: direct}}},
		{Name: "fwmark-7-ipv6", Fwmark: 7, Family: directorv1.Family_FAMILY_IPV6, Persistence: &directorv1.Persistence{Prefix: 64}},
		{Name: "2001-db8--22-80", Address: "2001:db8::22", Port: 80, RealServers: []*directorv1.RealServer{{Address: "2001:db8::78", Port: 81}}},
	})
	rules := Export(want)
	services, report, err := Import([]byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range report.GetLines() {
		if got := importingtest.Line(line); !strings.Contains(got, " taken | ") {
			t.Errorf("got %s", got)
		}
	}
	if got := parse(t, services); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v\n%s", got, want, rules)
	}
}

func TestExportOfTheTutorial(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile("testdata/tutorial.rules")
	if err != nil {
		t.Fatal(err)
	}
	services, _, err := Import(want)
	if err != nil {
		t.Fatal(err)
	}
	// The real servers of a virtual service are a set: ours stand in the order of their addresses.
	lines := strings.SplitAfter(string(want), "\n")
	lines[1], lines[2] = lines[2], lines[1]
	if got := Export(parse(t, services)); got != strings.Join(lines, "") {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func parse(t testing.TB, services []*directorv1.VirtualService) []spec.Service {
	t.Helper()
	var messages []proto.Message
	for _, s := range services {
		messages = append(messages, s)
	}
	want, violations := spec.Parse(messages, "lvs")
	if len(violations) > 0 {
		t.Errorf("%v of %v", violations, services)
	}
	return want.Services
}

func FuzzImport(f *testing.F) {
	for _, name := range []string{"tutorial", "grown", "forms"} {
		rules, err := os.ReadFile("testdata/" + name + ".rules")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(rules)
	}
	f.Fuzz(func(t *testing.T, rules []byte) {
		services, report, err := Import(rules)
		if err != nil {
			return
		}
		importingtest.Complete(t, rules, report)
		want := parse(t, services)
		again, _, err := Import([]byte(Export(want)))
		if err != nil || !reflect.DeepEqual(parse(t, again), want) {
			t.Errorf("%v; exported and imported again, %+v became %+v", err, want, again)
		}
	})
}
