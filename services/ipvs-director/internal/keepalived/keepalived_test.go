package keepalived

import (
	"errors"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/importing"
	"github.com/twotier/twotier/services/internal/importing/importingtest"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

func valid(t *testing.T, services []*directorv1.VirtualService) {
	t.Helper()
	var messages []proto.Message
	for _, s := range services {
		messages = append(messages, s)
	}
	if _, violations := spec.Parse(messages, "lvs"); len(violations) > 0 {
		t.Errorf("%v of %v", violations, services)
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/grown.conf")
	if err != nil {
		t.Fatal(err)
	}
	services, _, report, err := Import(text)
	if err != nil {
		t.Fatal(err)
	}
	importingtest.Complete(t, text, report)
	importingtest.Golden(t, "testdata/grown.golden", services, report)
	valid(t, services)
}

// Each statement stands in a virtual server; want is what is said of it, or what has become of it.
func TestStatements(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ statement, want string }{
		{"lb_algo rr", "scheduler rr"},
		{"lb_algo lvs", `unsupported: scheduler "lvs": wlc is taken`},
		{"lb_kind NAT", "forwarding NAT"},
		{"lb_kind LOCAL", `want NAT, DR or TUN`},
		{"persistence_timeout", "6 minutes"},
		{"persistence_timeout 50", "persistence_timeout 50s"},
		{"persistence_timeout soon", `want seconds, got "soon"`},
		{"persistence_granularity 24", "persistence.prefix 24"},
		{"persistence_granularity 255.255.0.255", "want a netmask"},
		{"protocol SCTP", "TCP is taken"},
		{"quorum x", `want a number, got "x"`},
		{"quorum 2", "without a sorry server"},
		{"sorry_server 192.168.60.200 80", "sorry_server 192.168.60.200:80"},
		{"sorry_server sorry", `want an address, got "sorry"`},
		{"sorry_server 192.168.60.78 80", "is a real server of the service already"},
		{"delay_loop 0.5", "delay_loop 500ms"},
		{"ha_suspend", "every director checks"},
		{"quorum_down /bin/true", "ask WatchServices"},
		{"ops", "ops is for UDP without persistence"},
		{"ops\nprotocol UDP", `"one_packet": true`},
		{"ops\nprotocol UDP\npersistence_timeout 50", "ops is for UDP without persistence"},
		{"something new", `"something" is not known`},
		{"real_server 192.168.60.79 80 { PING_CHECK { } }", "check of the service"},
		{"real_server 192.168.60.79 80 { FILE_CHECK { } }", "a program (exec)"},
		{"real_server 192.168.60.78 80 { }", "192.168.60.78:80 is"},
		{"real_server 192.168.60.79 80 { weight 70000 }", "want 0 to 65535"},
		{`real_server 192.168.60.79 80 { MISC_CHECK { misc_path "check" } }`, "real_server"},
	} {
		text := "virtual_server 10.10.60.22 80 {\n" + c.statement + "\nreal_server 192.168.60.78 80 {\n}\n}\n"
		services, _, report, err := Import([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		importingtest.Complete(t, []byte(text), report)
		if got := importingtest.Print(t, services, report); !strings.Contains(got, c.want) {
			t.Errorf("%s: want %q in\n%s", c.statement, c.want, got)
		}
		valid(t, services)
	}
}

// What is said of IPVS as a whole is taken, or what to do instead is said; nothing of it is passed over as the vrrp-agent's.
func TestGlobals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want, tuning string }{
		{"global_defs {\nlvs_timeouts tcp 7200 tcpfin 30 udp 60\n}\n", "udp 60s", `timeouts:{tcp:{seconds:7200} tcp_fin:{seconds:30} udp:{seconds:60}}`},
		{"global_defs {\nlvs_timeouts udp 60\n}\n", "udp 60s", `timeouts:{udp:{seconds:60}}`},
		{"global_defs {\nlvs_timeouts tcp 100000 udp 60\n}\n", "tcp 100000: ", `timeouts:{udp:{seconds:60}}`},
		{"global_defs {\nlvs_timeouts sctp 9\n}\n", `got "sctp 9"`, ""},
		{"global_defs {\nlvs_sync_daemon eth1 VI_1 id 7 port 8849\n}\n", "2 unsupported", ""},
		{"global_defs {\nrouter_id LVS_01\n}\n", "2 ignored", ""},
		{"global_defs {\nlvs_flush\n}\n", "takes over what is there", ""},
		{"vrrp_instance VI_1 {\nlvs_sync_daemon_interface eth1\n}\n", "2 unsupported", ""},
		{"vrrp_instance VI_1 {\nstate MASTER\n}\n", "2 ignored", ""},
	} {
		services, tuning, report, err := Import([]byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		importingtest.Complete(t, []byte(c.text), report)
		if got := importingtest.Print(t, services, report); !strings.Contains(got, c.want) {
			t.Errorf("%s: want %q in\n%s", c.text, c.want, got)
		}
		want := &directorv1.Tuning{}
		if err := prototext.Unmarshal([]byte(c.tuning), want); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(tuning.GetTimeouts(), want.GetTimeouts()) || (tuning == nil) != (c.tuning == "") {
			t.Errorf("%s: got %v, want %s", c.text, tuning, c.tuning)
		}
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	if _, _, _, err := Import(make([]byte, importing.MaxBytes+1)); !errors.Is(err, importing.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	many := strings.Repeat("virtual_server fwmark 1 {\n}\n", importing.MaxLines/2)
	services, _, _, err := Import([]byte(many))
	if err != nil || len(services) != 1 {
		t.Errorf("%d services, %v", len(services), err)
	}
}

func FuzzImport(f *testing.F) {
	text, err := os.ReadFile("testdata/grown.conf")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		services, tuning, report, err := Import(text)
		if err != nil {
			return
		}
		importingtest.Complete(t, text, report)
		valid(t, services)
		if tuning != nil {
			if _, violations := spec.Parse([]proto.Message{tuning}, "lvs"); len(violations) > 0 {
				t.Errorf("%v of %v", violations, tuning)
			}
		}
	})
}
