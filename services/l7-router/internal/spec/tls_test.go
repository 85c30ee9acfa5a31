package spec

import (
	"crypto/tls"
	"net/netip"
	"reflect"
	"testing"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// goodTLS is the tutorial's router with every setting of TLS, valid.
func goodTLS() ([]*routerv1.Frontend, []*routerv1.Backend) {
	frontends, backends := good()
	frontends[0].BindTls = []string{"*:443"}
	frontends[0].Tls = &routerv1.Tls{
		Certificates: []*routerv1.Certificate{{CertFile: "/c.pem", KeyFile: "/k.pem"}, {CertFile: "/both.pem"}},
		StrictSni:    true, ClientCaFile: "/ca.pem", ClientAuth: routerv1.ClientAuth_CLIENT_AUTH_OPTIONAL,
		ClientSubjectHeader: "X-SSL-Client-DN", MinVersion: "1.3", HandshakeTimeout: durationpb.New(time.Second), NoTickets: true,
	}
	return frontends, backends
}

func TestParseTLS(t *testing.T) {
	t.Parallel()
	got, violations := Parse(goodTLS())
	if len(violations) > 0 {
		t.Fatal(violations)
	}
	want := TLS{
		Certificates: []Certificate{{"/c.pem", "/k.pem"}, {"/both.pem", "/both.pem"}},
		StrictSNI:    true, ClientCAFile: "/ca.pem", ClientAuth: ClientAuthOptional, SubjectHeader: "X-SSL-Client-DN",
		MinVersion: tls.VersionTLS13, HandshakeTimeout: time.Second,
	}
	f := got.Frontends[0]
	if !reflect.DeepEqual(f.TLS, want) || !reflect.DeepEqual(f.BindTLS, []netip.AddrPort{netip.AddrPortFrom(netip.Addr{}, 443)}) {
		t.Errorf("got %+v at %v, want %+v", f.TLS, f.BindTLS, want)
	}

	frontends, backends := goodTLS()
	frontends[0].Bind = nil // TLS alone is enough
	frontends[0].Tls = &routerv1.Tls{Certificates: frontends[0].Tls.Certificates[:1]}
	got, violations = Parse(frontends, backends)
	if len(violations) > 0 {
		t.Fatal(violations)
	}
	want = TLS{Certificates: []Certificate{{"/c.pem", "/k.pem"}}, MinVersion: tls.VersionTLS12, HandshakeTimeout: 10 * time.Second, Tickets: true}
	if f := got.Frontends[0]; !reflect.DeepEqual(f.TLS, want) {
		t.Errorf("defaults: got %+v, want %+v", f.TLS, want)
	}
}

func TestParseTLSRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		field string // where the only violation is
		spoil func(f *routerv1.Frontend)
	}{
		{"bind_tls[0]", func(f *routerv1.Frontend) { f.BindTls[0] = "443" }},
		{"bind_tls[0]", func(f *routerv1.Frontend) { f.BindTls[0] = "*:80" }},
		{"tls", func(f *routerv1.Frontend) { f.BindTls = nil }},
		{"tls", func(f *routerv1.Frontend) { f.Tls = nil }},
		{"tls.certificates", func(f *routerv1.Frontend) { f.Tls.Certificates = nil }},
		{"tls.certificates[0].cert_file", func(f *routerv1.Frontend) { f.Tls.Certificates[0].CertFile = "c.pem" }},
		{"tls.certificates[0].key_file", func(f *routerv1.Frontend) { f.Tls.Certificates[0].KeyFile = "k.pem" }},
		{"tls.client_ca_file", func(f *routerv1.Frontend) { f.Tls.ClientCaFile = "" }},
		{"tls.client_auth", func(f *routerv1.Frontend) {
			f.Tls.ClientAuth = 99
			f.Tls.ClientCaFile, f.Tls.ClientSubjectHeader = "", ""
		}},
		{"tls.client_ca_file", func(f *routerv1.Frontend) { f.Tls.ClientAuth = 0; f.Tls.ClientSubjectHeader = "" }},
		{"tls.client_subject_header", func(f *routerv1.Frontend) { f.Tls.ClientAuth = 0; f.Tls.ClientCaFile = "" }},
		{"tls.client_subject_header", func(f *routerv1.Frontend) { f.Tls.ClientSubjectHeader = "X Y" }},
		{"tls.client_subject_header", func(f *routerv1.Frontend) { f.Tls.ClientSubjectHeader = "Content-Length" }},
		{"tls.min_version", func(f *routerv1.Frontend) { f.Tls.MinVersion = "1.1" }},
		{"tls.handshake_timeout", func(f *routerv1.Frontend) { f.Tls.HandshakeTimeout = durationpb.New(time.Hour) }},
	} {
		frontends, backends := goodTLS()
		test.spoil(frontends[0])
		if _, violations := Parse(frontends, backends); len(violations) != 1 || violations[0].GetField() != "frontend/main."+test.field {
			t.Errorf("%s: %v", test.field, violations)
		}
	}
}
