package spec

import (
	"testing"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

func TestParseHTTP2(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		tls   bool
		have  *routerv1.Http2
		want  HTTP2
		field string // where the only violation is
	}{
		{"cleartext alone", false, nil, HTTP2{}, ""},
		{"TLS", true, nil, HTTP2{Streams: 100}, ""},
		{"prior knowledge", false, &routerv1.Http2{Cleartext: true, MaxConcurrentStreams: 7}, HTTP2{Cleartext: true, Streams: 7}, ""},
		{"off", true, &routerv1.Http2{Disabled: true}, HTTP2{Disabled: true}, ""},
		{"off with nothing to be off", false, &routerv1.Http2{Disabled: true}, HTTP2{}, "http2.disabled"},
		{"streams of nothing", false, &routerv1.Http2{MaxConcurrentStreams: 7}, HTTP2{}, "http2.max_concurrent_streams"},
		{"too many streams", true, &routerv1.Http2{MaxConcurrentStreams: 1001}, HTTP2{}, "http2.max_concurrent_streams"},
	} {
		t.Run(test.name, func(t *testing.T) {
			frontends, backends := good()
			if test.tls {
				frontends, backends = goodTLS()
			}
			frontends[0].Http2 = test.have
			got, violations := Parse(frontends, backends)
			if test.field != "" {
				if len(violations) != 1 || violations[0].GetField() != "frontend/main."+test.field {
					t.Errorf("got %v", violations)
				}
				return
			}
			if len(violations) > 0 || got.Frontends[0].HTTP2 != test.want {
				t.Errorf("got %+v %v, want %+v", got.Frontends, violations, test.want)
			}
		})
	}
}

func TestParseProtocol(t *testing.T) {
	t.Parallel()
	frontends, backends := good()
	if got, _ := Parse(frontends, backends); got.Frontends[0].NeedsStreams(got.Backends) || got.Backends[0].H2C {
		t.Errorf("got %+v", got)
	}
	for _, b := range backends { // one that a rule names, and the default
		b.Protocol = routerv1.Protocol_PROTOCOL_H2C
		got, violations := Parse(frontends, backends)
		if len(violations) > 0 || !got.Frontends[0].NeedsStreams(got.Backends) {
			t.Errorf("%s: got %+v %v", b.Name, got, violations)
		}
		b.Protocol = routerv1.Protocol_PROTOCOL_HTTP1
	}
	backends[1].Protocol = 99
	if _, violations := Parse(frontends, backends); len(violations) != 1 || violations[0].GetField() != "backend/"+backends[1].GetName()+".protocol" {
		t.Errorf("got %v", violations)
	}
}
