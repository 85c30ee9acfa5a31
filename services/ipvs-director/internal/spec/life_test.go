package spec

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
)

func tcp() *directorv1.Check {
	return &directorv1.Check{Kind: &directorv1.Check_Tcp{Tcp: &directorv1.TcpCheck{}}}
}

func TestParseChecks(t *testing.T) {
	t.Parallel()
	rhythm := Check{Interval: 2 * time.Second, FastInterval: 400 * time.Millisecond, Timeout: 2 * time.Second, Rise: 2, Fall: 3}
	with := func(change func(*Check)) Check { c := rhythm; change(&c); return c }
	for _, c := range []struct {
		check *directorv1.Check
		want  Check
	}{
		{tcp(), with(func(c *Check) { c.Kind = CheckTCP })},
		{&directorv1.Check{Kind: &directorv1.Check_Http{Http: &directorv1.HttpCheck{}}, Port: 8080}, with(func(c *Check) { c.Kind, c.Method, c.Path, c.Port = CheckHTTP, "GET", "/", 8080 })},
		{&directorv1.Check{Kind: &directorv1.Check_Http{Http: &directorv1.HttpCheck{
			Tls: &directorv1.CheckTls{ServerName: "www.9527du.com", CaFile: "/etc/ca.pem"}, Statuses: []uint32{200, 204}, Body: "all well",
			Header: &directorv1.CheckHeader{Name: "X-Ready", Value: "yes"},
		}}}, with(func(c *Check) {
			c.Kind, c.Method, c.Path, c.TLS, c.ServerName, c.CAFile = CheckHTTP, "GET", "/", true, "www.9527du.com", "/etc/ca.pem"
			c.statuses, c.Body, c.Header, c.Value = "200 204 ", "all well", "X-Ready", "yes"
		})},
		{&directorv1.Check{Kind: &directorv1.Check_Exec{Exec: &directorv1.ExecCheck{Argv: []string{"/bin/check", "", "-a={address}"}}}}, with(func(c *Check) {
			c.Kind, c.command, c.User = CheckExec, "/bin/check\x00\x00-a={address}\x00", "nobody"
		})},
		{&directorv1.Check{Kind: &directorv1.Check_Grpc{Grpc: &directorv1.GrpcCheck{Service: "forum"}}}, with(func(c *Check) { c.Kind, c.Service = CheckGRPC, "forum" })},
		{&directorv1.Check{Kind: &directorv1.Check_Udp{Udp: &directorv1.UdpCheck{Expect: []byte{1}}}}, with(func(c *Check) { c.Kind, c.Payload, c.Expect = CheckUDP, "\x00", "\x01" })},
		{&directorv1.Check{Kind: &directorv1.Check_Dns{Dns: &directorv1.DnsCheck{Type: "a"}}}, with(func(c *Check) { c.Kind, c.Name, c.Type = CheckDNS, ".", "A" })},
		{&directorv1.Check{
			Kind: &directorv1.Check_Icmp{Icmp: &directorv1.IcmpCheck{}}, Interval: durationpb.New(time.Minute),
			FastInterval: durationpb.New(time.Second), Timeout: durationpb.New(3 * time.Second), Rise: 5, Fall: 6,
		}, Check{Kind: CheckICMP, Interval: time.Minute, FastInterval: time.Second, Timeout: 3 * time.Second, Rise: 5, Fall: 6}},
	} {
		s := web()
		s.Check = c.check
		got, violations := Parse([]proto.Message{s}, "lvs")
		if len(violations) > 0 || got.Services[0].Check != c.want {
			t.Errorf("%v: got  %+v, %v\nwant %+v", c.check, got.Services[0].Check, violations, c.want)
		}
	}
}

func TestWhatACheckSays(t *testing.T) {
	t.Parallel()
	real := netip.MustParseAddrPort("[2001:db8::78]:80")
	c := Check{statuses: "200 204 ", command: "/bin/check\x00\x00{address} {port}\x00{other}\x00"}
	if got := c.Statuses(); !reflect.DeepEqual(got, []int{200, 204}) {
		t.Errorf("statuses %v", got)
	}
	if got := c.Arguments(real); !reflect.DeepEqual(got, []string{"/bin/check", "", "2001:db8::78 80", "{other}"}) {
		t.Errorf("arguments %q", got)
	}
}

func TestParseDrains(t *testing.T) {
	t.Parallel()
	got, violations := Parse([]proto.Message{
		&directorv1.Drain{Name: "a", Service: "web", Address: "192.168.60.78", Reason: "disk"},
		&directorv1.Drain{Name: "b", Service: "gone", Address: "192.168.60.78", Port: 81},
		web(),
	}, "lvs")
	want := map[Drain]string{
		{Service: "web", Real: netip.MustParseAddrPort("192.168.60.78:80")}:  "disk",
		{Service: "gone", Real: netip.MustParseAddrPort("192.168.60.78:81")}: "",
	}
	if len(violations) > 0 || !reflect.DeepEqual(got.Drains, want) {
		t.Errorf("got %v, %v, want %v", got.Drains, violations, want)
	}
}

func TestParseNamesWhatIsWrongAboutLife(t *testing.T) {
	t.Parallel()
	service := func(change func(*directorv1.VirtualService)) []proto.Message {
		s := web()
		s.Check = tcp()
		s.SorryServer = &directorv1.RealServer{Address: "192.168.60.200"}
		change(s)
		return []proto.Message{s}
	}
	check := func(change func(*directorv1.Check)) []proto.Message {
		return service(func(s *directorv1.VirtualService) { change(s.Check) })
	}
	http := func(change func(*directorv1.HttpCheck)) []proto.Message {
		return check(func(c *directorv1.Check) {
			h := &directorv1.HttpCheck{}
			change(h)
			c.Kind = &directorv1.Check_Http{Http: h}
		})
	}
	exec := func(argv ...string) []proto.Message {
		return check(func(c *directorv1.Check) { c.Kind = &directorv1.Check_Exec{Exec: &directorv1.ExecCheck{Argv: argv}} })
	}
	drain := func(change func(*directorv1.Drain)) []proto.Message {
		d := &directorv1.Drain{Name: "d", Service: "web", Address: "192.168.60.78"}
		change(d)
		return []proto.Message{web(), d}
	}
	const web, life = "virtual-service/web", "virtual-service/web.check"
	for _, c := range []struct {
		name     string
		messages []proto.Message
		want     string
	}{
		{"no kind", check(func(c *directorv1.Check) { c.Kind = nil }), life + ".kind"},
		{"check port", check(func(c *directorv1.Check) { c.Port = 65536 }), life + ".port"},
		{"port of ICMP", check(func(c *directorv1.Check) { c.Kind, c.Port = &directorv1.Check_Icmp{Icmp: &directorv1.IcmpCheck{}}, 80 }), life + ".port"},
		{"interval 0", check(func(c *directorv1.Check) { c.Interval = durationpb.New(0) }), life + ".interval"},
		{"negative interval", check(func(c *directorv1.Check) { c.Interval = durationpb.New(-time.Second) }), life + ".interval"},
		{"long interval", check(func(c *directorv1.Check) { c.Interval = durationpb.New(2 * time.Hour) }), life + ".interval"},
		{"no duration", check(func(c *directorv1.Check) { c.Interval = &durationpb.Duration{Seconds: 1, Nanos: -1} }), life + ".interval"},
		{"fast above the interval", check(func(c *directorv1.Check) { c.FastInterval = durationpb.New(3 * time.Second) }), life + ".fast_interval"},
		{"fast 0", check(func(c *directorv1.Check) { c.FastInterval = durationpb.New(0) }), life + ".fast_interval"},
		{"timeout", check(func(c *directorv1.Check) { c.Timeout = durationpb.New(time.Hour) }), life + ".timeout"},
		{"rise", check(func(c *directorv1.Check) { c.Rise = 101 }), life + ".rise"},
		{"fall", check(func(c *directorv1.Check) { c.Fall = 1 << 31 }), life + ".fall"},
		{"path", http(func(h *directorv1.HttpCheck) { h.Path = "healthz" }), life + ".http.path"},
		{"path with a space", http(func(h *directorv1.HttpCheck) { h.Path = "/a b" }), life + ".http.path"},
		{"path with a line", http(func(h *directorv1.HttpCheck) { h.Path = "/\r\nX: y" }), life + ".http.path"},
		{"path with half an escape", http(func(h *directorv1.HttpCheck) { h.Path = "/%zz" }), life + ".http.path"},
		{"path with a fragment", http(func(h *directorv1.HttpCheck) { h.Path = "/a#b" }), life + ".http.path"},
		{"method that is no token", http(func(h *directorv1.HttpCheck) { h.Method = "GÉT" }), life + ".http.method"},
		{"CONNECT", http(func(h *directorv1.HttpCheck) { h.Method = "CONNECT" }), life + ".http.method"},
		{"host with a path", http(func(h *directorv1.HttpCheck) { h.Host = "a/b" }), life + ".http.host"},
		{"DNS name with an empty label", check(func(c *directorv1.Check) {
			c.Kind = &directorv1.Check_Dns{Dns: &directorv1.DnsCheck{Name: "a..b"}}
		}), life + ".dns.name"},
		{"DNS name with a long label", check(func(c *directorv1.Check) {
			c.Kind = &directorv1.Check_Dns{Dns: &directorv1.DnsCheck{Name: strings.Repeat("a", 64)}}
		}), life + ".dns.name"},
		{"long DNS name", check(func(c *directorv1.Check) {
			c.Kind = &directorv1.Check_Dns{Dns: &directorv1.DnsCheck{Name: strings.Repeat("a.", 127) + "b"}}
		}), life + ".dns.name"},
		{"method", http(func(h *directorv1.HttpCheck) { h.Method = "GET /" }), life + ".http.method"},
		{"host", http(func(h *directorv1.HttpCheck) { h.Host = "a\nb" }), life + ".http.host"},
		{"name with a port", http(func(h *directorv1.HttpCheck) { h.Tls = &directorv1.CheckTls{ServerName: "a..b"} }), life + ".http.tls.server_name"},
		{"relative authorities", http(func(h *directorv1.HttpCheck) { h.Tls = &directorv1.CheckTls{CaFile: "ca.pem"} }), life + ".http.tls.ca_file"},
		{"authorities that do not matter", http(func(h *directorv1.HttpCheck) {
			h.Tls = &directorv1.CheckTls{CaFile: "/ca.pem", AnyCertificate: true}
		}), life + ".http.tls.any_certificate"},
		{"status", http(func(h *directorv1.HttpCheck) { h.Statuses = []uint32{200, 600} }), life + ".http.statuses[1]"},
		{"statuses", http(func(h *directorv1.HttpCheck) { h.Statuses = slices.Repeat([]uint32{200}, 33) }), life + ".http.statuses"},
		{"body", http(func(h *directorv1.HttpCheck) { h.Body = strings.Repeat("a", 513) }), life + ".http.body"},
		{"body of HEAD", http(func(h *directorv1.HttpCheck) { h.Method, h.Body = "HEAD", "a" }), life + ".http.body"},
		{"header", http(func(h *directorv1.HttpCheck) { h.Header = &directorv1.CheckHeader{Name: "X Ready"} }), life + ".http.header.name"},
		{"header without a name", http(func(h *directorv1.HttpCheck) { h.Header = &directorv1.CheckHeader{Value: "a"} }), life + ".http.header.name"},
		{"header value", http(func(h *directorv1.HttpCheck) {
			h.Header = &directorv1.CheckHeader{Name: "a", Value: strings.Repeat("a", 513)}
		}), life + ".http.header.value"},
		{"no program", exec(), life + ".exec.argv"},
		{"relative program", exec("check"), life + ".exec.argv[0]"},
		{"many arguments", exec(slices.Repeat([]string{"/a"}, 33)...), life + ".exec.argv"},
		{"long argument", exec("/a", strings.Repeat("a", 1025)), life + ".exec.argv[1]"},
		{"argument with a zero", exec("/a", "a\x00b"), life + ".exec.argv[1]"},
		{"user", check(func(c *directorv1.Check) {
			c.Kind = &directorv1.Check_Exec{Exec: &directorv1.ExecCheck{Argv: []string{"/a"}, User: "a b"}}
		}), life + ".exec.user"},
		{"gRPC service", check(func(c *directorv1.Check) {
			c.Kind = &directorv1.Check_Grpc{Grpc: &directorv1.GrpcCheck{Service: strings.Repeat("a", 256)}}
		}), life + ".grpc.service"},
		{"payload", check(func(c *directorv1.Check) {
			c.Kind = &directorv1.Check_Udp{Udp: &directorv1.UdpCheck{Payload: make([]byte, 513)}}
		}), life + ".udp.payload"},
		{"expected", check(func(c *directorv1.Check) {
			c.Kind = &directorv1.Check_Udp{Udp: &directorv1.UdpCheck{Expect: make([]byte, 513)}}
		}), life + ".udp.expect"},
		{"DNS name", check(func(c *directorv1.Check) {
			c.Kind = &directorv1.Check_Dns{Dns: &directorv1.DnsCheck{Name: "a b"}}
		}), life + ".dns.name"},
		{"DNS type", check(func(c *directorv1.Check) {
			c.Kind = &directorv1.Check_Dns{Dns: &directorv1.DnsCheck{Type: "ANY"}}
		}), life + ".dns.type"},
		{"panic above 100", service(func(s *directorv1.VirtualService) { s.PanicThreshold = 101 }), web + ".panic_threshold"},
		{"panic without a check", service(func(s *directorv1.VirtualService) { s.PanicThreshold, s.Check = 50, nil }), web + ".panic_threshold"},
		{"quorum", service(func(s *directorv1.VirtualService) { s.Quorum = &directorv1.Quorum{Weight: MaxQuorum + 1} }), web + ".quorum.weight"},
		{"hysteresis", service(func(s *directorv1.VirtualService) { s.Quorum = &directorv1.Quorum{Weight: 2, Hysteresis: 2} }), web + ".quorum.hysteresis"},
		{"quorum without a sorry server", service(func(s *directorv1.VirtualService) {
			s.SorryServer, s.Quorum = nil, &directorv1.Quorum{Weight: 2}
		}), web + ".quorum"},
		{"sorry among the reals", service(func(s *directorv1.VirtualService) { s.SorryServer.Address = "192.168.60.78" }), web + ".sorry_server.address"},
		{"sorry is the VIP", service(func(s *directorv1.VirtualService) { s.SorryServer.Address = s.Address }), web + ".sorry_server.address"},
		{"sorry address", service(func(s *directorv1.VirtualService) { s.SorryServer.Address = "sorry" }), web + ".sorry_server.address"},
		{"sorry port", service(func(s *directorv1.VirtualService) { s.SorryServer.Port = 70000 }), web + ".sorry_server.port"},
		{"sorry weight", service(func(s *directorv1.VirtualService) { s.SorryServer.Weight = proto.Uint32(1) }), web + ".sorry_server.weight"},
		{"drain timeout 0", service(func(s *directorv1.VirtualService) { s.DrainTimeout = durationpb.New(0) }), web + ".drain_timeout"},
		{"drain timeout", service(func(s *directorv1.VirtualService) { s.DrainTimeout = durationpb.New(25 * time.Hour) }), web + ".drain_timeout"},
		{"drain name", drain(func(d *directorv1.Drain) { d.Name = "D" }), "drain/D.name"},
		{"drain service", drain(func(d *directorv1.Drain) { d.Service = "" }), "drain/d.service"},
		{"drain address", drain(func(d *directorv1.Drain) { d.Address = "s2" }), "drain/d.address"},
		{"drain port", drain(func(d *directorv1.Drain) { d.Port = 65536 }), "drain/d.port"},
		{"drain reason", drain(func(d *directorv1.Drain) { d.Reason = strings.Repeat("a", 201) }), "drain/d.reason"},
		{"drain reason of two lines", drain(func(d *directorv1.Drain) { d.Reason = "a\nb" }), "drain/d.reason"},
	} {
		t.Run(c.name, func(t *testing.T) { t.Parallel(); refused(t, c.messages, c.want) })
	}
}
