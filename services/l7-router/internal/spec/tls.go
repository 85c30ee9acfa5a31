package spec

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

// Limits and defaults of TLS.
const (
	// MaxCertificates is the most certificates of a frontend.
	MaxCertificates         = 256
	DefaultHandshakeTimeout = 10 * time.Second
)

// TLS is how a frontend speaks TLS; the zero value is one that does not.
type TLS struct {
	// Certificates holds at least one; the first is for clients that ask for none of the others.
	Certificates []Certificate
	// StrictSNI refuses such clients.
	StrictSNI bool
	// ClientCAFile holds the CAs that client certificates are judged by; empty: ClientAuth is ClientAuthNone.
	ClientCAFile string
	ClientAuth   ClientAuth
	// SubjectHeader tells the servers the subject of a verified client certificate; empty: it is not told.
	SubjectHeader string
	// MinVersion is tls.VersionTLS12 or tls.VersionTLS13.
	MinVersion uint16
	// HandshakeTimeout is how long a client may take for the handshake.
	HandshakeTimeout time.Duration
	// Tickets says whether sessions are resumed.
	Tickets bool
}

// Certificate is a certificate with its key, as files.
type Certificate struct{ CertFile, KeyFile string }

// ClientAuth says whether clients have to show a certificate.
type ClientAuth uint8

// The kinds of ClientAuth.
const (
	ClientAuthNone ClientAuth = iota
	ClientAuthOptional
	ClientAuthRequired
)

// StricterThan reports whether clients that were let in under before may have to be kept out now. What the files hold is not
// looked at.
func (t *TLS) StricterThan(before *TLS) bool {
	return t.ClientAuth > before.ClientAuth || t.ClientAuth != ClientAuthNone && t.ClientCAFile != before.ClientCAFile
}

// Wanted reports whether the frontend speaks TLS at all.
func (t *TLS) Wanted() bool { return len(t.Certificates) > 0 }

// Addresses returns every address of the frontend, those in cleartext first.
func (f *Frontend) Addresses() []netip.AddrPort { return slices.Concat(f.Bind, f.BindTLS) }

func (p *parser) tls(path string, m *routerv1.Tls) TLS {
	t := TLS{
		StrictSNI:        m.GetStrictSni(),
		ClientCAFile:     m.GetClientCaFile(),
		SubjectHeader:    m.GetClientSubjectHeader(),
		MinVersion:       tls.VersionTLS12,
		HandshakeTimeout: p.duration(path+".handshake_timeout", m.GetHandshakeTimeout(), DefaultHandshakeTimeout, 100*time.Millisecond, time.Minute),
		Tickets:          !m.GetNoTickets(),
	}
	if n := len(m.GetCertificates()); n == 0 || n > MaxCertificates {
		p.refuse(path+".certificates", "want 1 to %d certificates, got %d", MaxCertificates, n)
	}
	for i, certificate := range m.GetCertificates() {
		c := Certificate{CertFile: certificate.GetCertFile(), KeyFile: certificate.GetKeyFile()}
		at := fmt.Sprintf("%s.certificates[%d]", path, i)
		p.file(at+".cert_file", c.CertFile)
		if c.KeyFile == "" {
			c.KeyFile = c.CertFile
		} else {
			p.file(at+".key_file", c.KeyFile)
		}
		t.Certificates = append(t.Certificates, c)
	}
	switch m.GetMinVersion() {
	case "", "1.2":
	case "1.3":
		t.MinVersion = tls.VersionTLS13
	default:
		p.refuse(path+".min_version", "want 1.2 or 1.3, got %q", m.GetMinVersion())
	}
	switch m.GetClientAuth() {
	case routerv1.ClientAuth_CLIENT_AUTH_UNSPECIFIED, routerv1.ClientAuth_CLIENT_AUTH_NONE:
	case routerv1.ClientAuth_CLIENT_AUTH_OPTIONAL:
		t.ClientAuth = ClientAuthOptional
	case routerv1.ClientAuth_CLIENT_AUTH_REQUIRED:
		t.ClientAuth = ClientAuthRequired
	default:
		p.refuse(path+".client_auth", "not a known way: %v", m.GetClientAuth())
	}
	switch {
	case t.ClientAuth != ClientAuthNone:
		p.file(path+".client_ca_file", t.ClientCAFile)
	case t.ClientCAFile != "":
		p.refuse(path+".client_ca_file", "without client_auth it has no use")
	}
	if t.SubjectHeader != "" {
		switch {
		case !token(t.SubjectHeader) || len(t.SubjectHeader) > MaxName || reserved(t.SubjectHeader):
			p.refuse(path+".client_subject_header", "want a header name of at most %d characters that has no other meaning, such as X-SSL-Client-DN, got %q", MaxName, t.SubjectHeader)
		case t.ClientAuth == ClientAuthNone:
			p.refuse(path+".client_subject_header", "without client_auth it has no use")
		}
	}
	return t
}

// reserved reports whether a header has a meaning for the framing or the way of a message.
func reserved(name string) bool {
	switch strings.ToLower(name) {
	case "host", "connection", "keep-alive", "proxy-connection", "content-length", "transfer-encoding", "te", "trailer",
		"upgrade", "expect", "cookie", "x-forwarded-for", "forwarded":
		return true
	}
	return false
}

// file refuses what names no file; whether there is one shows when it is read.
func (p *parser) file(path, name string) {
	if !filepath.IsAbs(name) || strings.ContainsRune(name, 0) {
		p.refuse(path, "want the absolute path of a PEM file, got %q", name)
	}
}
