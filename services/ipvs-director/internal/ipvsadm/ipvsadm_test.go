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

func TestGolden(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"tutorial", "grown"} {
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
		{"-A -t 10.10.60.22:443 -s wlc -p 360", "-p:"},
		{"-A -t 10.10.60.22:443 -s wlc -p -M 255.255.255.0", "-M:"},
		{"-A -t 10.10.60.22:443 -s wlc -o", `"-o"`},
		{"-A -t 10.10.60.22:80 -s wlc", "line 1 has this service already"},
		{"-A -t 10.10.60.22:0 -s wlc", "all ports"},
		{"-A -t www.example.org:http -s wlc", "-S -n"},
		{"-A -t [2001:db8::1]:80 -s wlc", "IPv4 only"},
		{"-A -t 127.0.0.1:80 -s wlc", "not an address of a host"},
		{"-A -u 10.10.60.22:53 -s wlc", "UDP"},
		{"-A -f 1 -s wlc", "firewall mark"},
		{"-A", "no service"},
		{"-E -t 10.10.60.22:80 -s wlc", `"-E"`},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 1", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 0", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 1 -x 0 -y 0", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 7", "taken"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m", "weight 1, the default"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w -1", "weight"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 65536", "weight"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 1 -x 100", "thresholds"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -m -w 1 --tun-type gue", `"--tun-type"`},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -g -w 1", "direct routing"},
		{"-a -t 10.10.60.22:80 -r 192.168.60.55:80 -i -w 1", "tunnelling"},
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

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	want := parse(t, []*directorv1.VirtualService{
		{Name: "10.10.60.23-443", Address: "10.10.60.23", Port: 443, Scheduler: "wrr"},
		{Name: "10.10.60.24-443", Address: "10.10.60.24", Port: 443, Scheduler: "sh"}, {Name: "10.10.60.25-443", Address: "10.10.60.25", Port: 443, Scheduler: "mh"},
		{Name: "10.10.60.22-80", Address: "10.10.60.22", Port: 80, RealServers: []*directorv1.RealServer{
			{Address: "192.168.60.78"}, {Address: "192.168.60.55", Port: 8080, Weight: proto.Uint32(0)}, {Address: "192.168.60.56", Weight: proto.Uint32(65535)},
		}},
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
	for _, name := range []string{"tutorial", "grown"} {
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
