package proxy

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/twotier/twotier/services/internal/certtest"
)

// trafficSecret is one of TLS 1.3 with SHA-256, from which the keys of a direction are made (RFC 8446 section 7.3).
type trafficSecret []byte

// expand is HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
func (s trafficSecret) expand(t *testing.T, label string, n int) []byte {
	t.Helper()
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len("tls13 "+label)))
	info = append(info, "tls13 "+label+"\x00"...)
	out, err := hkdf.Expand(sha256.New, s, string(info), n)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// first is the first record that is sealed with the keys of a secret.
func (s trafficSecret) first(t *testing.T, suite uint16, kind byte, content string) []byte {
	t.Helper()
	var seal cipher.AEAD
	var err error
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
		var block cipher.Block
		if block, err = aes.NewCipher(s.expand(t, "key", 16)); err == nil {
			seal, err = cipher.NewGCM(block)
		}
	case tls.TLS_CHACHA20_POLY1305_SHA256: // what processors without AES choose
		seal, err = chacha20poly1305.New(s.expand(t, "key", chacha20poly1305.KeySize))
	default:
		err = errors.New(tls.CipherSuiteName(suite))
	}
	if err != nil {
		t.Fatal(err)
	}
	inner := append([]byte(content), kind)
	head := []byte{23, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(head[3:], uint16(len(inner)+seal.Overhead()))
	return seal.Seal(head, s.expand(t, "iv", 12), inner, head) // the number of the record, which the nonce is mixed with, is 0
}

// clientSecret finds the first secret for what a client sends in a key log.
func clientSecret(t *testing.T, log string) trafficSecret {
	t.Helper()
	for line := range strings.Lines(log) {
		words := strings.Fields(line)
		if len(words) == 3 && words[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(words[2])
			if err != nil {
				t.Fatal(err)
			}
			return secret
		}
	}
	t.Fatalf("no secret in %q", log)
	return nil
}

// TestKeyUpdate: a client of TLS that asks for new keys (RFC 8446 section 4.6.3) long after the last response gets them, and the
// next response. The one who reads answers it, past a deadline that was left over, and beside the one who writes responses
// at other times. The answer failed, and with it every response, and the two shared a direction without a lock.
func TestKeyUpdate(t *testing.T) {
	t.Parallel()
	const handshake, data = 22, 23
	ca := certtest.New(t)
	pair0, err := tls.LoadX509KeyPair(ca.Issue(t, "localhost", ""))
	if err != nil {
		t.Fatal(err)
	}
	for name, writing := range map[string]bool{"nothing under way": false, "a response under way": true} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			server := tls.Server(link{ours}, &tls.Config{Certificates: []tls.Certificate{pair0}, SessionTicketsDisabled: true})
			var keys bytes.Buffer
			client := tls.Client(theirs, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: &keys, MinVersion: tls.VersionTLS13})
			shaken := make(chan error, 1)
			go func() { shaken <- server.Handshake() }()
			if err := errors.Join(client.Handshake(), <-shaken); err != nil {
				t.Fatal(err)
			}
			suite := client.ConnectionState().CipherSuite
			ours.secure = server

			var group sync.WaitGroup
			var over atomic.Bool
			defer group.Wait()
			defer over.Store(true)
			if writing { // and its server is read from meanwhile
				var active activity
				active.touch(now())
				d := &direction{to: ours, toTimeout: time.Nanosecond, active: &active, at: now(), stop: new(atomic.Bool)}
				ours.writing = d
				begun := make(chan struct{})
				group.Go(func() {
					for first := true; !over.Load(); first = false {
						d.took(1)
						if first {
							close(begun)
						}
					}
				})
				<-begun
			}
			if err := ours.SetWriteDeadline(past); err != nil {
				t.Fatal(err)
			}
			secret := clientSecret(t, keys.String())
			next := trafficSecret(secret.expand(t, "traffic upd", sha256.Size))
			records := append(secret.first(t, suite, handshake, "\x18\x00\x00\x01\x01"), next.first(t, suite, data, "request")...) // update_requested
			if _, err := theirs.Write(records); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 100)
			n, err := ours.Read(got)
			if err != nil || string(got[:n]) != "request" {
				t.Fatalf("read %q %v", got[:n], err)
			}
			if err := ours.SetWriteDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(ours, "response"); err != nil {
				t.Fatalf("the response: %v", err)
			}
			if n, err = client.Read(got); err != nil || string(got[:n]) != "response" {
				t.Errorf("the client has read %q %v", got[:n], err)
			}
		})
	}
}
