// Package certificate reads the files of a frontend's TLS: which certificate is shown to which client, which client
// certificates are good, and have the files changed since?
package certificate

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// MaxFile is the most bytes of a file that is read.
const MaxFile = 1 << 20

// Set is the TLS of one frontend as its files were when they were last good. All methods may be called from any
// goroutine.
type Set struct {
	want      spec.TLS
	field     string
	protocols []string
	current   atomic.Pointer[tls.Config]
	expiry    atomic.Pointer[time.Time]

	mu     sync.Mutex // guards stamps
	stamps []stamp    // of the files when they were read
}

// stamp tells one state of a file from another.
type stamp struct {
	modified time.Time
	size     int64
	file     os.FileInfo // for os.SameFile: a file that was renamed over another is not that one
}

func (a stamp) equal(b stamp) bool {
	return a.modified.Equal(b.modified) && a.size == b.size && os.SameFile(a.file, b.file)
}

// Load reads the files of want. field is where want stands in the desired state; errors begin with the path of what is
// wrong, such as frontend/main.tls.certificates[0].key_file. protocols are those that are offered (ALPN, RFC 7301), the
// best first.
func Load(field string, want spec.TLS, protocols []string) (*Set, error) {
	s := &Set{want: want, field: field, protocols: protocols}
	return s, s.Read()
}

// Config is how a connection that comes now is to be served. It must not be changed.
func (s *Set) Config() *tls.Config { return s.current.Load() }

// Expiry is when the first of the certificates ends.
func (s *Set) Expiry() time.Time { return *s.expiry.Load() }

// Renewed reports whether the files are other than when they were read. It reads their metadata only.
func (s *Set) Renewed() bool {
	now, err := s.look()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || len(now) != len(s.stamps) {
		return true
	}
	for i := range now {
		if !now[i].equal(s.stamps[i]) {
			return true
		}
	}
	return false
}

// look takes the stamps of all files.
func (s *Set) look() ([]stamp, error) {
	var stamps []stamp
	for _, name := range s.files() {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		stamps = append(stamps, stamp{info.ModTime(), info.Size(), info})
	}
	return stamps, nil
}

func (s *Set) files() []string {
	var names []string
	for _, c := range s.want.Certificates {
		names = append(names, c.CertFile, c.KeyFile)
	}
	if s.want.ClientCAFile != "" {
		names = append(names, s.want.ClientCAFile)
	}
	return names
}

// Read reads the files again. After an error everything is as it was before. Sessions of clients are not resumed across a
// change: a ticket is sealed with keys that go with the files.
func (s *Set) Read() error {
	stamps, _ := s.look() // before reading, so that no later change is missed; an error shows again below
	config := &tls.Config{
		MinVersion:             s.want.MinVersion,
		NextProtos:             s.protocols,
		SessionTicketsDisabled: !s.want.Tickets,
	}
	var (
		shown  names
		expiry time.Time
	)
	for i, c := range s.want.Certificates {
		pair, err := readPair(fmt.Sprintf("%s.certificates[%d]", s.field, i), c)
		if err != nil {
			return err
		}
		shown.add(pair)
		if end := pair.Leaf.NotAfter; i == 0 || end.Before(expiry) {
			expiry = end
		}
	}
	if !s.want.StrictSNI {
		shown.otherwise = shown.all[0]
	}
	config.GetCertificate = shown.choose
	if s.want.ClientAuth != spec.ClientAuthNone {
		field := s.field + ".client_ca_file"
		text, err := readFile(s.want.ClientCAFile)
		if err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("%s: %s: no PEM certificate in it", field, s.want.ClientCAFile)
		}
		config.ClientAuth = tls.VerifyClientCertIfGiven
		if s.want.ClientAuth == spec.ClientAuthRequired {
			config.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	s.current.Store(config)
	s.expiry.Store(&expiry)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stamps = stamps
	return nil
}

// readPair reads one certificate with its key.
func readPair(field string, c spec.Certificate) (*tls.Certificate, error) {
	chain, err := readFile(c.CertFile)
	if err != nil {
		return nil, fmt.Errorf("%s.cert_file: %w", field, err)
	}
	if err := checkChain(chain); err != nil {
		return nil, fmt.Errorf("%s.cert_file: %s: %w", field, c.CertFile, err)
	}
	key, err := readFile(c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("%s.key_file: %w", field, err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("%s.key_file: %s: %w", field, c.KeyFile, err)
	}
	return &pair, nil
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > MaxFile {
		return nil, fmt.Errorf("%s: want a file of at most %d bytes", name, MaxFile)
	}
	return os.ReadFile(name)
}

// checkChain finds what is wrong with the certificate itself, which tls.X509KeyPair would blame on either file.
func checkChain(text []byte) error {
	found := false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return err
		}
		found = true
	}
	if !found {
		return errors.New("no PEM certificate in it")
	}
	return nil
}

// names are the certificates by the host names in them.
type names struct {
	by        map[string][]*tls.Certificate
	all       []*tls.Certificate
	otherwise *tls.Certificate // for clients that ask for no name or an unknown one; nil: they are refused
}

func (n *names) add(c *tls.Certificate) {
	if n.by == nil {
		n.by = map[string][]*tls.Certificate{}
	}
	n.all = append(n.all, c)
	hosts := c.Leaf.DNSNames
	if len(hosts) == 0 && c.Leaf.Subject.CommonName != "" {
		hosts = []string{c.Leaf.Subject.CommonName} // as HAProxy does
	}
	for _, host := range hosts {
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		n.by[host] = append(n.by[host], c)
	}
}

// choose is tls.Config.GetCertificate. Among several with the name it takes the first whose kind of key the client knows,
// so that an ECDSA and an RSA certificate can stand beside each other. No certificate and no error becomes the alert
// unrecognized_name (RFC 6066 section 3).
func (n *names) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	found := n.by[host]
	if len(found) == 0 {
		// RFC 6125 section 6.4.3: a wildcard stands for one label.
		if _, domain, ok := strings.Cut(host, "."); ok {
			found = n.by["*."+domain]
		}
	}
	for _, c := range found {
		if hello.SupportsCertificate(c) == nil {
			return c, nil
		}
	}
	if len(found) > 0 {
		return found[0], nil // the handshake says what is wrong
	}
	return n.otherwise, nil
}

// Subject writes the subject of a certificate as RFC 4514 does, in visible ASCII: it becomes the value of a header.
func Subject(name pkix.Name) string {
	var b strings.Builder
	for _, c := range []byte(name.String()) {
		if c < ' ' || c > '~' {
			fmt.Fprintf(&b, `\%02X`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
