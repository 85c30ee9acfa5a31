package haproxy

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/importing"
	"google.golang.org/protobuf/proto"
)

// bindOptions is what stands behind an address to listen on.
type bindOptions struct {
	ssl, proxied bool
	http2        bool // in cleartext: proto h2
	tls          *routerv1.Tls
}

// harmlessBind are the words behind a bind address that may be left out, with the number of their arguments.
var harmlessBind = map[string]int{
	"name": 1, "id": 1, "backlog": 1, "nice": 1, "process": 1, "thread": 1, "shards": 1, "level": 1, "mss": 1, "tcp-ut": 1,
	"maxconn": 1, "defer-accept": 0, "tfo": 0, "v4v6": 0, "v6only": 0,
}

// harmlessTLS are those of ssl: the Go library makes these choices, and keeps them current.
var harmlessTLS = map[string]int{
	"ciphers": 1, "ciphersuites": 1, "curves": 1, "ecdhe": 1, "ssl-max-ver": 1, "prefer-client-ciphers": 0, "tls-ticket-keys": 1,
	"no-sslv3": 0, "no-tlsv10": 0, "no-tlsv11": 0, "generate-certificates": 0, "allow-0rtt": 0,
}

// options reads the words behind an address. It reports why the address cannot be taken, empty: it can.
func (r *reader) options(line *importing.Line, words []string) (o bindOptions, wrong string) {
	t := &routerv1.Tls{}
	verify, belongs := "", "" // belongs: a word that stands with ssl only
	var without []string
	for i := 0; i < len(words); i++ {
		word := words[i]
		value := ""
		argument := func() string {
			if i++; i < len(words) {
				value = words[i]
			}
			return value
		}
		switch word {
		case "ssl":
			o.ssl = true
			continue
		case "accept-proxy":
			o.proxied = true
			continue
		case "proto":
			switch argument() {
			case "h2":
				o.http2 = true
			case "h1":
			default:
				return o, "proto " + importing.Quote(value) + ": the router would listen in another way"
			}
			continue
		case "crt":
			if file := argument(); !filepath.IsAbs(file) || strings.HasSuffix(file, "/") {
				return o, "crt " + importing.Quote(file) + ": want the absolute path of one file with certificate and key"
			}
			t.Certificates = append(t.Certificates, &routerv1.Certificate{CertFile: value})
		case "ca-file":
			t.ClientCaFile = argument()
		case "verify":
			verify = argument()
		case "strict-sni":
			t.StrictSni = true
		case "no-tls-tickets":
			t.NoTickets = true
		case "ssl-min-ver":
			switch argument() {
			case "TLSv1.2":
				t.MinVersion = "1.2"
			case "TLSv1.3":
				t.MinVersion = "1.3"
			default:
				line.Assumed("TLS 1.2 and newer: %s is not spoken any more", importing.Quote(value))
			}
		case "alpn":
			argument()
			if !slices.Contains(words, "ssl") {
				continue // without effect in HAProxy too
			}
			if !slices.Contains(strings.Split(value, ","), "h2") {
				line.Assumed("HTTP/2 is offered too, as newer versions of HAProxy do; set http2.disabled where it is not wanted")
			}
		default:
			args, known := harmlessBind[word]
			if n, choice := harmlessTLS[word]; choice {
				args, known, belongs = n, true, word
				without = append(without, word)
			}
			if !known {
				return o, importing.Quote(word) + ": the router would listen in another way"
			}
			i += args
			continue
		}
		belongs = word
	}
	switch {
	case !o.ssl && belongs != "":
		return o, belongs + " belongs to ssl, which is missing"
	case !o.ssl:
		return o, ""
	case o.http2:
		return o, "proto h2 behind ssl: the client is not asked"
	case len(t.GetCertificates()) == 0:
		return o, "ssl needs crt"
	}
	switch verify {
	case "", "none":
		if t.ClientCaFile != "" {
			line.Taken("ca-file means nothing without verify")
			t.ClientCaFile = ""
		}
	case "optional":
		t.ClientAuth = routerv1.ClientAuth_CLIENT_AUTH_OPTIONAL
	case "required":
		t.ClientAuth = routerv1.ClientAuth_CLIENT_AUTH_REQUIRED
	default:
		return o, "verify " + importing.Quote(verify) + ": want none, optional or required"
	}
	if len(without) > 0 {
		line.Taken("%s: the choice is left to the Go library, which speaks TLS 1.2 and 1.3 only", strings.Join(without, ", "))
	}
	line.Assumed("the key stands in the file of its certificate; HAProxy would also look beside it")
	o.tls = t
	return o, ""
}

// fits sees to it that all addresses of a frontend are spoken to alike, as ours are.
func (s *section) fits(line *importing.Line, o bindOptions) (wrong string) {
	first := len(s.binds)+len(s.bindsTLS) == 0
	switch {
	case !first && s.proxied != o.proxied:
		return "accept-proxy holds for all addresses of a frontend or for none"
	case o.ssl && s.tls != nil && !proto.Equal(s.tls, o.tls):
		return "all addresses with ssl of a frontend have the same certificates and options"
	}
	s.proxied = o.proxied
	if o.ssl {
		s.tls = o.tls
	}
	if o.proxied {
		line.Assumed("PROXY headers are believed from everywhere, as in HAProxy; name the networks of the proxies in accept_proxy")
	}
	return ""
}

// bindMessage puts the addresses into the frontend.
func (s *section) bindMessage(m *routerv1.Frontend, parts *[]part, at string) {
	put := func(list *[]*setting[string], field string) (texts []string) {
		for i, b := range *list {
			texts = append(texts, b.value)
			*parts = append(*parts, part{field: fmt.Sprintf("%s.%s[%d]", at, field, i), line: b.line, so: "the address " + b.value + " is left out",
				drop: func() { *list = slices.DeleteFunc(*list, func(o *setting[string]) bool { return o == b }) }})
		}
		return texts
	}
	m.Bind, m.BindTls = put(&s.binds, "bind"), put(&s.bindsTLS, "bind_tls")
	if len(s.bindsTLS) > 0 {
		m.Tls = proto.CloneOf(s.tls)
		*parts = append(*parts, part{field: at + ".tls", line: s.bindsTLS[0].line, so: "the addresses with ssl are left out", drop: func() { s.bindsTLS = nil }})
	}
	if s.proxied {
		m.AcceptProxy = &routerv1.AcceptProxy{From: []string{"0.0.0.0/0", "::/0"}}
	}
}
