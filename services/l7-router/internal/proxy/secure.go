package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/l7-router/internal/certificate"
	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// past is a deadline that is over.
var past = time.Unix(1, 0)

// link is what TLS has for a connection. A write that is late is not over (RFC 8446 has no way to send half a record
// again), so whether it may go on is asked here, below TLS.
type link struct{ *sock }

func (l link) Read(p []byte) (int, error) {
	if b := l.ahead; b != nil {
		n := copy(p, b.bytes())
		if b.consume(n); b.empty() {
			giveBack(b)
			l.ahead = nil
		}
		return n, nil
	}
	return l.stream.Read(p)
}

func (l link) Write(p []byte) (n int, err error) {
	for extended := false; ; extended = true {
		m, err := l.stream.Write(p[n:])
		if n += m; err == nil {
			return n, nil
		}
		if err = l.goOn(m, err, extended); err != nil {
			return n, err
		}
	}
}

// goOn decides whether a write below TLS that has moved some bytes and then failed goes on, and sets its deadline then.
func (s *sock) goOn(moved int, err error, extended bool) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	d := s.writing
	switch {
	case s.sending && d != nil:
		d.gave(int64(moved))
		if err = d.afterWrite(err); err != nil {
			return err
		}
		return d.beforeWrite()
	case !s.sending && s.secure != nil && !extended && errors.Is(err, os.ErrDeadlineExceeded):
		// TLS answers what it has read (a KeyUpdate, RFC 8446 section 4.6.3), in the goroutine that reads. The deadline is left
		// over from another write; an answer that fails would fail every later write.
		return s.SetWriteDeadline(time.Now().Add(lingerTimeout))
	}
	return err
}

// send writes through TLS, and lets goOn know for whom.
func (s *sock) send(p []byte) (int, error) {
	s.setSending(true)
	defer s.setSending(false)
	return s.secure.Write(p)
}

func (s *sock) setSending(on bool) {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	s.sending = on
}

func (l link) Close() error { return l.stream.Close() }

var _ net.Conn = link{}

// handshake makes a client's connection a TLS connection. It reports whether that has come off; the connection is closed
// by the caller either way.
func (c *conn) handshake() bool {
	f := c.listener.Frontend()
	certs := f.Certificates()
	if certs == nil {
		return false // the address is being given up
	}
	timeout := f.Current().Spec.TLS.HandshakeTimeout
	_ = c.SetDeadline(time.Now().Add(timeout)) // the handshake says why it cannot be
	s := tls.Server(link{c.sock}, certs.Config())
	if err := s.Handshake(); err != nil {
		c.notTLS(err)
		c.log.Debug("no TLS handshake", zap.String("client", c.client.Address), zap.Error(err))
		return false
	}
	c.secure = s
	_ = c.SetDeadline(time.Time{}) // every later wait sets its own
	c.client.TLS = true
	state := s.ConnectionState()
	if len(state.VerifiedChains) == 0 && f.Current().Spec.TLS.ClientAuth == spec.ClientAuthRequired {
		return false // that has become so while it shook hands
	}
	if len(state.VerifiedChains) > 0 && f.Current().Spec.TLS.SubjectHeader != "" {
		c.client.Subject = certificate.Subject(state.PeerCertificates[0].Subject)
	}
	return true
}

// notTLS answers a client that speaks HTTP in cleartext where TLS is wanted, which is a mistake of people rather than of
// programs.
func (c *conn) notTLS(err error) {
	var record tls.RecordHeaderError
	if !errors.As(err, &record) || record.Conn == nil {
		return
	}
	switch string(record.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH":
		_, _ = c.stream.Write(exchange.Refusal(400).Append(nil, false, false)) // it is closed after
		_ = c.stream.CloseWrite()
	}
}

// Read, Write, CloseWrite and Close are those of TLS where it is spoken, or of the stream of HTTP/2.

// Read reads what the other side has sent.
func (s *sock) Read(p []byte) (int, error) {
	if s.h2 != nil {
		return s.h2.Read(p)
	}
	if s.secure != nil {
		return s.secure.Read(p)
	}
	return s.stream.Read(p)
}

// Write sends p.
func (s *sock) Write(p []byte) (int, error) {
	if s.h2 != nil {
		return s.h2.Write(p)
	}
	if s.secure != nil {
		return s.send(p)
	}
	return s.stream.Write(p)
}

// CloseWrite ends the sending direction.
func (s *sock) CloseWrite() error {
	if s.h2 != nil {
		return s.h2.CloseWrite()
	}
	if s.secure != nil {
		if err := s.secure.CloseWrite(); err != nil {
			return err
		}
	}
	return s.stream.CloseWrite()
}

// Close closes the connection. With TLS it says so to the other side.
func (s *sock) Close() error {
	if s.h2 != nil {
		return s.h2.Close()
	}
	if s.secure != nil {
		return s.secure.Close()
	}
	return s.stream.Close()
}

// hangUp ends a connection on which nothing is under way, from another goroutine than its own, without waiting.
func (s *sock) hangUp() {
	if s.secure != nil {
		_ = s.SetReadDeadline(past) // its own goroutine says goodbye, which may have to wait
		return
	}
	_ = s.Close() // nothing is under way on it
}

// firstSecure is readFirst for TLS: whether something has come to it nobody can tell without reading, so it waits for one
// byte. What came in the same record is taken too: a deadline that is over lets a read do nothing but that.
func (s *sock) firstSecure() (*buffer, error) {
	n, err := s.secure.Read(s.oneB[:])
	if n == 0 {
		return nil, err
	}
	b := borrow()
	b.b[0] = s.oneB[0]
	_ = s.SetReadDeadline(past) // whoever reads next sets another
	n, _ = s.secure.Read(b.b[1:])
	b.w = 1 + n
	return b, nil
}

// closeWait is TCP_CLOSE_WAIT (include/net/tcp_states.h): the other side has closed its direction.
const closeWait = 8

// hasEnded reports whether the other side has sent its end, whatever stands before it: with TLS a farewell does.
func (s *sock) hasEnded() (ended bool) {
	_ = s.raw.Control(func(fd uintptr) { // on a closed socket it has not
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		ended = err == nil && info.State == closeWait
	})
	return ended
}
