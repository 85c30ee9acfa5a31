// Package session answers: who is asking? It seals and opens the cookie that every server accepts, and checks passwords.
package session

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

// CookieName is the name of the cookie. A load balancer must not set one of this name.
const CookieName = "forum_session"

// MinKeyBytes is the least that a key file may hold.
const MinKeyBytes = 32

// ErrNoSession: there is no session, or it is forged, over, or from another key. Nobody is told which.
var ErrNoSession = errors.New("no session")

// Session is what a cookie says.
type Session struct {
	User   forum.ID
	Epoch  uint32 // the user's when it was issued; void when the user has a higher one
	Issued time.Time
}

// Keys are the secrets of the site, all made from the one in the key file.
type Keys struct {
	lifetime time.Duration
	seal     cipher.AEAD
	relay    []byte
	setup    []byte
}

// NewKeys makes the keys from the content of the key file.
func NewKeys(secret []byte, lifetime time.Duration) (*Keys, error) {
	if len(secret) < MinKeyBytes {
		return nil, fmt.Errorf("session key: want at least %d bytes, got %d", MinKeyBytes, len(secret))
	}
	k := &Keys{lifetime: lifetime}
	var all [3][]byte
	for i, info := range []string{"twotier forum session v1", "twotier forum relay v1", "twotier forum setup v1"} {
		key, err := hkdf.Key(sha256.New, secret, nil, info, chacha20poly1305.KeySize)
		if err != nil {
			return nil, fmt.Errorf("session key: %w", err)
		}
		all[i] = key
	}
	aead, err := chacha20poly1305.NewX(all[0])
	if err != nil {
		return nil, fmt.Errorf("session key: %w", err)
	}
	k.seal, k.relay, k.setup = aead, all[1], all[2]
	return k, nil
}

// Relay is the key with which servers of the site prove to each other who they are.
func (k *Keys) Relay() []byte { return k.relay }

// Setup is the key from which the token of the installation is made.
func (k *Keys) Setup() []byte { return k.setup }

// uid, epoch, seconds since 1970
const plainSize = 8 + 4 + 8

// Seal makes the cookie's value.
func (k *Keys) Seal(s Session) string {
	plain := binary.BigEndian.AppendUint64(nil, uint64(s.User))
	plain = binary.BigEndian.AppendUint32(plain, s.Epoch)
	plain = binary.BigEndian.AppendUint64(plain, uint64(s.Issued.Unix()))
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	rand.Read(nonce) // never fails; 192 random bits do not repeat
	return base64.RawURLEncoding.EncodeToString(k.seal.Seal(nonce, nonce, plain, []byte(CookieName)))
}

// Open reads a cookie's value; ErrNoSession.
func (k *Keys) Open(value string, now time.Time) (Session, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(b) != chacha20poly1305.NonceSizeX+plainSize+chacha20poly1305.Overhead {
		return Session{}, ErrNoSession
	}
	plain, err := k.seal.Open(nil, b[:chacha20poly1305.NonceSizeX], b[chacha20poly1305.NonceSizeX:], []byte(CookieName))
	if err != nil {
		return Session{}, ErrNoSession
	}
	s := Session{
		User:   forum.ID(binary.BigEndian.Uint64(plain)),
		Epoch:  binary.BigEndian.Uint32(plain[8:]),
		Issued: time.Unix(int64(binary.BigEndian.Uint64(plain[12:])), 0),
	}
	// A minute for the clocks of two servers.
	if age := now.Sub(s.Issued); age < -time.Minute || age >= k.lifetime {
		return Session{}, ErrNoSession
	}
	return s, nil
}

// Cookie is the cookie that logs a user in. It is not marked Secure: the site is served as plain HTTP behind the routers.
func (k *Keys) Cookie(u forum.User, now time.Time) *http.Cookie {
	return &http.Cookie{
		Name: CookieName, Value: k.Seal(Session{u.ID, u.Epoch, now}), Path: "/",
		MaxAge: int(k.lifetime / time.Second), HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
}

// Gone is the cookie that logs a browser out.
func Gone() *http.Cookie {
	return &http.Cookie{Name: CookieName, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteLaxMode}
}

// Read answers the session of a request; ErrNoSession.
func (k *Keys) Read(r *http.Request, now time.Time) (Session, error) {
	c, err := r.Cookie(CookieName)
	if err != nil {
		return Session{}, ErrNoSession
	}
	return k.Open(c.Value, now)
}
