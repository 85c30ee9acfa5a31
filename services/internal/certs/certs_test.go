package certs_test

import (
	"crypto/tls"
	"os"
	"testing"

	"github.com/twotier/twotier/services/internal/certs"
	"github.com/twotier/twotier/services/internal/certtest"
)

// shake does one handshake over the loopback and tells the serial number that each side saw of the other.
func shake(t *testing.T, client, server *tls.Config) (clientSaw, serverSaw string, err error) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	type accepted struct {
		saw string
		err error
	}
	done := make(chan accepted, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			done <- accepted{err: err}
			return
		}
		defer func() { _ = conn.Close() }()
		secured := conn.(*tls.Conn)
		if err := secured.Handshake(); err != nil {
			done <- accepted{err: err}
			return
		}
		done <- accepted{saw: secured.ConnectionState().PeerCertificates[0].SerialNumber.String()}
	}()
	conn, err := tls.Dial("tcp", listener.Addr().String(), client)
	far := <-done // in TLS 1.3 the client is done before the server has judged it
	if err != nil {
		return "", "", err
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), far.saw, far.err
}

func TestRenewedFilesAreTaken(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	cert, key := ca.Issue(t, "localhost", "service")
	files, err := certs.Open(cert, key, ca.File)
	if err != nil {
		t.Fatal(err)
	}
	client, server := files.Client(), files.Server()
	client.ServerName = "localhost"
	for range 2 {
		want := files.Leaf().SerialNumber.String()
		if a, b, err := shake(t, client, server); err != nil || a != want || b != want {
			t.Fatalf("saw %s and %s, %v, want %s", a, b, err, want)
		}
		ca.Issue(t, "localhost", "service")
		if _, _, err := shake(t, client, server); err != nil {
			t.Fatal(err)
		}
		if files.Leaf().SerialNumber.String() == want {
			t.Fatal("the renewed certificate is not used")
		}
	}
	// Half written: the pair before stays.
	want := files.Leaf().SerialNumber.String()
	if err := os.WriteFile(key, []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, _, err := shake(t, client, server); err != nil || a != want {
		t.Errorf("saw %s, %v, want %s", a, err, want)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	ca, other := certtest.New(t), certtest.New(t)
	cert, key := ca.Issue(t, "localhost", "service")
	files, err := certs.Open(cert, key, ca.File)
	if err != nil {
		t.Fatal(err)
	}
	stranger := other.Client(t, "stranger", "admin")
	stranger.RootCAs = ca.Client(t, "", "").RootCAs
	old := ca.Client(t, "old", "admin")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for name, client := range map[string]*tls.Config{
		"no certificate":  ca.Client(t, "", ""),
		"of another CA":   stranger,
		"TLS 1.2":         old,
		"trusts no other": other.Client(t, "x", "admin"),
	} {
		if _, _, err := shake(t, client, files.Server()); err == nil {
			t.Errorf("%s: let in", name)
		}
	}
}

func TestOpenRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	cert, key := ca.Issue(t, "localhost", "")
	for name, f := range map[string][3]string{
		"no CA":            {cert, key, ""},
		"no such file":     {cert, key, ca.File + "x"},
		"key is no key":    {cert, cert, ca.File},
		"CA is no CA file": {cert, key, key},
	} {
		if _, err := certs.Open(f[0], f[1], f[2]); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
