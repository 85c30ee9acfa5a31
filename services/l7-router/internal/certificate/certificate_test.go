package certificate

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/certtest"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// TestSubject: nothing in a certificate gets out of the header that it is put into.
func TestSubject(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"alice":             "CN=alice",
		"a\r\nX-Evil: 1":    `CN=a\0D\0AX-Evil: 1`,
		"ü":                 `CN=\C3\BC`,
		"a,b=c+d;e\x00\x7f": `CN=a\,b=c\+d\;e\00\7F`,
	} {
		if got := Subject(pkix.Name{CommonName: in}); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestRenewed(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	cert, key := ca.Issue(t, "localhost", "")
	s, err := Load("x", spec.TLS{Certificates: []spec.Certificate{{CertFile: cert, KeyFile: key}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Renewed() {
		t.Error("renewed, but nothing was touched")
	}
	before := s.Config()
	// A file that is renamed into place with the times of the one before, as in a mounted secret.
	info, err := os.Stat(cert)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other.pem")
	if err := os.WriteFile(other, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(other, time.Time{}, info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, cert); err != nil {
		t.Fatal(err)
	}
	if !s.Renewed() {
		t.Error("not renewed, but the file is another")
	}
	if err := s.Read(); err != nil || s.Renewed() || s.Config() == before {
		t.Errorf("read again: %v", err)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	before = s.Config()
	if err := s.Read(); !s.Renewed() || err == nil || !strings.HasPrefix(err.Error(), "x.certificates[0].key_file: ") || s.Config() != before {
		t.Errorf("without the key: %v", err)
	}
}

// TestKindsOfKeys: an ECDSA and an RSA certificate of the same name stand beside each other.
func TestKindsOfKeys(t *testing.T) {
	t.Parallel()
	var n names
	ca := certtest.New(t)
	for _, name := range []string{"first", "second"} {
		pair, err := tls.LoadX509KeyPair(ca.Issue(t, name, ""))
		if err != nil {
			t.Fatal(err)
		}
		pair.Leaf.DNSNames = []string{"both"}
		n.add(&pair)
	}
	hello := &tls.ClientHelloInfo{ServerName: "both", SupportedVersions: []uint16{tls.VersionTLS13}, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}}
	if got, err := n.choose(hello); err != nil || got != n.all[0] {
		t.Errorf("%v %v, want the first", got, err)
	}
	if got, err := n.choose(&tls.ClientHelloInfo{ServerName: "else"}); got != nil || err != nil {
		t.Errorf("%v %v, want nothing", got, err)
	}
}
