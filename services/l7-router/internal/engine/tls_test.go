package engine_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/certtest"
	"github.com/twotier/twotier/services/l7-router/internal/plan"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// What the other side says in an alert (RFC 8446 section 6).
const (
	certificateRequired = "tls: certificate required"
	unknownCA           = "tls: unknown certificate authority"
	protocolVersion     = "tls: protocol version not supported"
	unrecognizedName    = "tls: unrecognized name"
)

// alerted reports whether an alert of the other side has ended a connection.
func alerted(err error, text string) bool {
	return err != nil && strings.HasSuffix(err.Error(), "remote error: "+text)
}

func TestCertificateByServerName(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	w := newWorld(t, origin(t))
	w.speak(ca, "first.example", "second.example", "*.third.example")
	w.apply()
	shown := func(name string) (string, error) {
		config := trust(t, ca, name)
		config.InsecureSkipVerify = true
		c, err := tls.Dial("tcp", w.bound(secure), config)
		if err != nil {
			return "", err
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
	}
	for _, strict := range []bool{false, true} {
		w.main().TLS.StrictSNI = strict
		w.apply()
		for name, want := range map[string]string{
			"first.example": "first.example", "second.example": "second.example", "SECOND.example.": "second.example",
			"a.third.example":   "*.third.example",
			"a.b.third.example": "", "third.example": "", "nobody.example": "", "": "", "127.0.0.1": "",
		} {
			if want == "" && !strict {
				want = "first.example"
			}
			got, err := shown(name)
			if got != want || want == "" && !alerted(err, unrecognizedName) {
				t.Errorf("strict %t, %q: %q %v, want %q", strict, name, got, err, want)
			}
		}
	}
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ca, stranger := certtest.New(t), certtest.New(t)
	w := newWorld(t, origin(t))
	w.main().Bind = []netip.AddrPort{clear}
	w.speak(ca, "localhost")
	w.main().TLS.ClientCAFile = ca.File
	w.main().TLS.SubjectHeader = "X-SSL-Client-DN"
	shows := func(from *certtest.CA, name string) *tls.Config {
		config := trust(t, ca, "localhost")
		pair, err := tls.LoadX509KeyPair(from.Issue(t, name, ""))
		if err != nil {
			t.Fatal(err)
		}
		// Whatever the CAs are that the server names.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		return config
	}
	none, good, bad := trust(t, ca, "localhost"), shows(ca, "alice\r\nX-Evil: 1, u"), shows(stranger, "mallory")
	told := "X-Ssl-Client-Dn: CN=alice\\0D\\0AX-Evil: 1\\, u\n"
	for _, test := range []struct {
		auth   spec.ClientAuth
		name   string
		config *tls.Config
		want   string
		alert  string
	}{
		{spec.ClientAuthOptional, "none", none, "", ""},
		{spec.ClientAuthOptional, "good", good, told, ""},
		{spec.ClientAuthOptional, "bad", bad, "", unknownCA},
		{spec.ClientAuthRequired, "none", none, "", certificateRequired},
		{spec.ClientAuthRequired, "good", good, told, ""},
		{spec.ClientAuthRequired, "bad", bad, "", unknownCA},
	} {
		w.main().TLS.ClientAuth = test.auth
		w.apply()
		conn, err := tls.Dial("tcp", w.bound(secure), test.config)
		if err != nil {
			t.Fatal(err) // with TLS 1.3 the refusal comes after
		}
		c := newClient(t, conn)
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nX-SSL-Client-DN: CN=root\r\nx_ssl_client_dn: CN=root\r\nX-Forwarded-Proto: gopher\r\n\r\n")
		r, err := http.ReadResponse(c.in, nil)
		if test.alert != "" {
			if !alerted(err, test.alert) {
				t.Errorf("%v %s: %v, want the alert %s", test.auth, test.name, err, test.alert)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%v %s: %v", test.auth, test.name, err)
		}
		body, _ := io.ReadAll(r.Body)
		if want := "X-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: https\n" + test.want; string(body) != want {
			t.Errorf("%v %s: the server got\n%swant\n%s", test.auth, test.name, body, want)
		}
	}
	// Nor can it be told without TLS.
	got := dial(t, w.bound(clear)).get("/", "X-SSL-Client-DN: CN=root\r\nX-Ssl_Client-DN: CN=root\r\n")
	if got != "X-Forwarded-For: 127.0.0.1\n" {
		t.Errorf("in cleartext the server got\n%s", got)
	}
	// Nor behind a body, in a trailer that a server may merge into the head.
	for _, name := range []string{"X-SSL-Client-DN", "x_ssl-client-dn"} {
		conn, err := net.Dial("tcp", w.bound(clear))
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, conn)
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"+name+": CN=root\r\n\r\n")
		if r, err := http.ReadResponse(c.in, nil); err != nil || r.StatusCode != 400 {
			t.Errorf("a trailer %s: got %v %v, want 400", name, r, err)
		}
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	w := newWorld(t, origin(t))
	w.speak(ca, "localhost")
	for _, least := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		w.main().TLS.MinVersion = least
		w.apply()
		for version := uint16(tls.VersionTLS10); version <= tls.VersionTLS13; version++ {
			config := trust(t, ca, "localhost")
			config.MinVersion, config.MaxVersion = version, version
			c, err := tls.Dial("tcp", w.bound(secure), config)
			if err == nil {
				_ = c.Close()
			}
			if (err == nil) != (version >= least) || err != nil && !alerted(err, protocolVersion) {
				t.Errorf("at least %s: %s: %v", tls.VersionName(least), tls.VersionName(version), err)
			}
		}
	}
}

func TestSessionsAreResumed(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	w := newWorld(t, origin(t))
	w.speak(ca, "localhost")
	for _, tickets := range []bool{true, false} {
		w.main().TLS.Tickets = tickets
		w.apply()
		config := trust(t, ca, "localhost")
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		for i := range 2 {
			c := dialTLS(t, w.bound(secure), config)
			c.get("/", "") // the ticket comes with the answer
			if got := c.Conn.(*tls.Conn).ConnectionState().DidResume; got != (tickets && i == 1) {
				t.Errorf("tickets %t, connection %d: resumed %t", tickets, i+1, got)
			}
		}
	}
}

// TestRenewedCertificates: the files are read again when they change, whoever is connected stays, and what cannot be used
// changes nothing.
func TestRenewedCertificates(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	w := newWorld(t, origin(t))
	w.speak(ca, "localhost")
	w.apply()
	serial := func() string {
		c := dialTLS(t, w.bound(secure), trust(t, ca, "localhost"))
		return c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	stays := dialTLS(t, w.bound(secure), trust(t, ca, "localhost"))
	stays.get("/", "")
	if got := serial(); got != "2" {
		t.Fatalf("serial %s", got)
	}

	ca.Issue(t, "localhost", "") // into the same files
	select {
	case <-w.engine.Changed():
	case <-time.After(patience):
		t.Fatal("nobody has noticed")
	}
	if todo := plan.Diff(w.want, w.engine.Observe()); len(todo) != 1 || todo[0].String() != "read the certificates of frontend main again" {
		t.Fatalf("to be done: %v", todo)
	}
	w.apply()
	if got := serial(); got != "3" {
		t.Errorf("serial %s after a new certificate", got)
	}

	key := w.main().TLS.Certificates[0].KeyFile
	if err := os.WriteFile(key, []byte("half a k"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it is tried again
		if err := w.try(); err == nil || !strings.HasPrefix(err.Error(), "frontend/main.tls.certificates[0].key_file: "+key) {
			t.Errorf("a broken key: %v", err)
		}
	}
	if got := serial(); got != "3" {
		t.Errorf("serial %s beside a broken key", got)
	}
	ca.Issue(t, "localhost", "")
	w.apply()
	if got := serial(); got != "4" {
		t.Errorf("serial %s after the key was mended", got)
	}
	stays.get("/", "")
}

// TestFrontendWithBadFiles: nothing of it is taken, and what was before stays.
func TestFrontendWithBadFiles(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	w := newWorld(t, origin(t))
	w.speak(ca, "localhost")
	w.apply()
	good := w.main().TLS
	cert, key := ca.Issue(t, "other", "")
	for field, change := range map[string]func(*spec.TLS){
		"certificates[0].cert_file": func(s *spec.TLS) { s.Certificates[0].CertFile = "/nowhere" },
		"certificates[1].key_file": func(s *spec.TLS) {
			s.Certificates = append(s.Certificates, spec.Certificate{CertFile: cert, KeyFile: good.Certificates[0].KeyFile})
		},
		"certificates[1].cert_file": func(s *spec.TLS) {
			s.Certificates = append(s.Certificates, spec.Certificate{CertFile: key, KeyFile: key})
		},
		"client_ca_file": func(s *spec.TLS) { s.ClientCAFile, s.ClientAuth = key, spec.ClientAuthRequired },
	} {
		w.main().TLS = good
		w.main().TLS.Certificates = []spec.Certificate{good.Certificates[0]}
		change(&w.main().TLS)
		if err := w.try(); err == nil || !strings.HasPrefix(err.Error(), "frontend/main.tls."+field+": ") {
			t.Errorf("want an error at %s, got %v", field, err)
		}
		dialTLS(t, w.bound(secure), trust(t, ca, "localhost")).get("/", "")
	}
}

// TestAddressBeginsTLS: the sockets of an address go to the other driver and back, and nobody finds it closed.
func TestAddressBeginsTLS(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	w := newWorld(t, origin(t))
	w.main().Bind = []netip.AddrPort{clear, secure}
	w.apply()
	address := w.bound(secure)
	var refused atomic.Int64
	var stop atomic.Bool
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for !stop.Load() {
				c, err := net.DialTimeout("tcp", address, patience)
				if err != nil {
					refused.Add(1)
					t.Error(err)
					return
				}
				_ = c.Close()
			}
		})
	}
	for range 20 {
		before := dial(t, address)
		before.get("/", "")
		w.main().Bind = []netip.AddrPort{clear}
		w.speak(ca, "localhost")
		w.apply()
		if _, err := before.in.ReadByte(); err != io.EOF {
			t.Errorf("a connection in cleartext stays open: %v", err)
		}
		if got := w.bound(secure); got != address {
			t.Fatalf("moved from %s to %s", address, got)
		}
		after := dialTLS(t, address, trust(t, ca, "localhost"))
		after.get("/", "")
		w.main().Bind, w.main().BindTLS, w.main().TLS = []netip.AddrPort{clear, secure}, nil, spec.TLS{}
		w.apply()
		if _, err := after.in.ReadByte(); err != io.EOF {
			t.Errorf("a TLS connection stays open: %v", err)
		}
	}
	stop.Store(true)
	group.Wait()
}

func TestMessagesOverTLS(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	w := newWorld(t, origin(t))
	w.speak(ca, "localhost")
	w.apply()
	c := dialTLS(t, w.bound(secure), trust(t, ca, "localhost"))
	large := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(large)
	for _, size := range []int{0, 1, 1000, 100_000, len(large)} {
		for _, chunked := range []bool{false, true} {
			body := large[:size]
			request := bytes.NewBuffer(nil)
			sent, err := http.NewRequest("POST", "https://x/echo", bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if chunked {
				sent.ContentLength, sent.TransferEncoding = -1, []string{"chunked"}
			}
			if err := sent.Write(request); err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = c.Write(request.Bytes()) }()
			if r, got := c.response(); r.StatusCode != 200 || got != string(body) {
				t.Fatalf("%d bytes, chunked %t: %d and %d bytes", size, chunked, r.StatusCode, len(got))
			}
		}
	}
	// Many requests in few records.
	c.send(strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 500))
	for range 500 {
		if r, _ := c.response(); r.StatusCode != 200 {
			t.Fatalf("%d", r.StatusCode)
		}
	}
	// One byte in each record.
	for _, b := range []byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") {
		c.send(string(b))
	}
	if r, _ := c.response(); r.StatusCode != 200 || !r.Close {
		t.Errorf("%d close %t", r.StatusCode, r.Close)
	}
	if _, err := c.in.ReadByte(); err != io.EOF { // not io.ErrUnexpectedEOF: it has said goodbye
		t.Errorf("the end of the connection: %v", err)
	}
}

// TestTunnelOverTLS: both directions end by themselves.
func TestTunnelOverTLS(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, err = io.Copy(c, c)
		ended <- err
	}()
	ca := certtest.New(t)
	w := newWorld(t, l.Addr().String())
	w.speak(ca, "localhost")
	w.apply()
	c := dialTLS(t, w.bound(secure), trust(t, ca, "localhost"))
	c.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if r, err := http.ReadResponse(c.in, nil); err != nil || r.StatusCode != 101 {
		t.Fatalf("%v %v", r, err)
	}
	for _, text := range []string{"a", strings.Repeat("b", 100_000), "c"} {
		go c.send(text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(c.in, got); err != nil || string(got) != text {
			t.Fatalf("%.20q %v", got, err)
		}
	}
	if err := c.Conn.(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the server: %v", err)
	}
	if _, err := c.in.ReadByte(); err != io.EOF {
		t.Errorf("the client: %v", err)
	}
}

// TestHandshakeIsBounded: whoever does not shake hands is let go, and counts as long as it is there.
func TestHandshakeIsBounded(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	w := newWorld(t, origin(t))
	w.speak(ca, "localhost")
	w.main().TLS.HandshakeTimeout = 200 * time.Millisecond
	w.apply()
	silent, half := dial(t, w.bound(secure)), dial(t, w.bound(secure))
	half.send("\x16\x03\x01\x01\x00\x01")
	for _, c := range []*client{silent, half} {
		if _, err := c.in.ReadByte(); err != io.EOF {
			t.Errorf("%v, want the end", err)
		}
	}
	mistaken := dial(t, w.bound(secure))
	mistaken.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if r, _ := mistaken.response(); r.StatusCode != 400 || !r.Close {
		t.Errorf("cleartext: %d close %t", r.StatusCode, r.Close)
	}
	for deadline := time.Now().Add(patience); w.engine.Frontend("main").Conns() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are still counted", w.engine.Frontend("main").Conns())
		}
		runtime.Gosched()
	}
}

// TestTLSClientGone: the server's connection is closed when the client goes while its request is under way.
func TestTLSClientGone(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	begun, gone := make(chan struct{}), make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			gone <- err
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Read(make([]byte, 4096))
		close(begun)
		_, err = c.Read(make([]byte, 1))
		gone <- err
	}()
	ca := certtest.New(t)
	w := newWorld(t, l.Addr().String())
	w.speak(ca, "localhost")
	w.apply()
	c := dialTLS(t, w.bound(secure), trust(t, ca, "localhost"))
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-begun
	_ = c.Close() // says goodbye first
	if err := <-gone; err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server sees %v", err)
	}
}

// TestCutResponseOverTLS: a response that ends with the connection, and is cut, must not look whole.
func TestCutResponseOverTLS(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	seen := make(chan struct{})
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhalf")
		<-seen
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}()
	ca := certtest.New(t)
	w := newWorld(t, l.Addr().String())
	w.speak(ca, "localhost")
	w.apply()
	c := dialTLS(t, w.bound(secure), trust(t, ca, "localhost"))
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := c.in.Peek(1); err != nil {
		t.Fatal(err)
	}
	close(seen)
	if got, err := io.ReadAll(c.in); err == nil {
		t.Errorf("looks whole: %q", got)
	}
}

// TestDrainOverTLS: idle connections end with a goodbye, requests under way end well.
func TestDrainOverTLS(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	w := newWorld(t, origin(t))
	w.speak(ca, "localhost")
	w.apply()
	idle, busy := dialTLS(t, w.bound(secure), trust(t, ca, "localhost")), dialTLS(t, w.bound(secure), trust(t, ca, "localhost"))
	idle.get("/", "")
	busy.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
	if r, err := http.ReadResponse(busy.in, nil); err != nil || r.StatusCode != 200 {
		t.Fatalf("%v %v", r, err)
	}
	stopped := make(chan struct{})
	go func() { w.stop(); close(stopped) }()
	if _, err := idle.in.ReadByte(); err != io.EOF {
		t.Errorf("idle: %v", err)
	}
	busy.send("cd")
	if got, err := io.ReadAll(io.LimitReader(busy.in, 4)); err != nil || string(got) != "abcd" {
		t.Errorf("busy: %q %v", got, err)
	}
	<-stopped
}

// TestTLSAllocatesNothing counts what the whole process allocates for a request. Package crypto/tls makes a small struct for
// each record that it reads; there are two, the client's and the router's.
func TestTLSAllocatesNothing(t *testing.T) {
	if raceDetector {
		return // sync.Pool throws things away on purpose
	}
	response := []byte("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + strings.Repeat("x", 100))
	request := []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answer := func(c net.Conn) {
		buf := make([]byte, 4096)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
			if _, err := c.Write(response); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
	ca := certtest.New(t)
	w := newWorld(t, l.Addr().String())
	w.speak(ca, "localhost")
	w.apply()
	measure := func(c net.Conn) float64 {
		buf := make([]byte, 4096)
		return testing.AllocsPerRun(1000, func() {
			if _, err := c.Write(request); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAtLeast(c, buf, len(response)-1); err != nil {
				t.Fatal(err)
			}
		})
	}
	c, err := tls.Dial("tcp", w.bound(secure), trust(t, ca, "localhost"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := measure(c); got > 2 {
		t.Errorf("%v allocations a request, want none but those of the two records", got)
	}
}

// prefixed writes something before the first bytes of TLS, in one piece with them.
type prefixed struct {
	net.Conn
	prefix string
}

func (p *prefixed) Write(b []byte) (int, error) {
	prefix := p.prefix
	p.prefix = ""
	if _, err := p.Conn.Write(append([]byte(prefix), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func TestProxyHeaderBeforeTLS(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	w := newWorld(t, origin(t))
	w.speak(ca, "localhost")
	w.main().AcceptProxy = spec.AcceptProxy{From: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Timeout: patience}
	w.apply()
	const header = "PROXY TCP4 192.0.2.7 192.0.2.8 9 10\r\n"
	for _, together := range []bool{true, false} {
		raw, err := net.Dial("tcp", w.bound(secure))
		if err != nil {
			t.Fatal(err)
		}
		p := &prefixed{Conn: raw, prefix: header}
		if !together {
			_, _ = p.Write(nil)
		}
		c := newClient(t, tls.Client(p, trust(t, ca, "localhost")))
		for range 2 {
			if got := c.get("/", ""); got != "X-Forwarded-For: 192.0.2.7\nX-Forwarded-Proto: https\n" {
				t.Errorf("together %t: the server got\n%s", together, got)
			}
		}
	}
}
