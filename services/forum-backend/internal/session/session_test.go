package session_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
	"github.com/twotier/twotier/services/forum-backend/internal/session"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func keys(t testing.TB, fill byte) *session.Keys {
	t.Helper()
	k, err := session.NewKeys(bytes.Repeat([]byte{fill}, 32), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestCookieIsValidOnEveryServerWithTheKey(t *testing.T) {
	t.Parallel()
	c := keys(t, 1).Cookie(forum.User{ID: 1<<63 - 1, Epoch: 7}, now)
	if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.MaxAge != 3600 {
		t.Errorf("cookie: got %+v", c)
	}
	r, err := http.NewRequest("GET", "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.AddCookie(c)
	got, err := keys(t, 1).Read(r, now.Add(59*time.Minute))
	if want := (session.Session{User: 1<<63 - 1, Epoch: 7, Issued: time.Unix(now.Unix(), 0)}); err != nil || got != want {
		t.Errorf("got %+v %v, want %+v", got, err, want)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	k := keys(t, 1)
	good := k.Seal(session.Session{User: 5, Issued: now})
	raw, err := base64.RawURLEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		value string
		now   time.Time
	}{
		"nothing":       {"", now},
		"not base64":    {"!!!", now},
		"too long":      {good + "AAAA", now},
		"too short":     {good[:len(good)-4], now},
		"another key":   {keys(t, 2).Seal(session.Session{User: 5, Issued: now}), now},
		"over":          {good, now.Add(time.Hour)},
		"of the future": {good, now.Add(-2 * time.Minute)},
	} {
		if s, err := k.Open(c.value, c.now); !errors.Is(err, session.ErrNoSession) {
			t.Errorf("%s: got %+v %v, want ErrNoSession", name, s, err)
		}
	}
	for i := range raw {
		b := bytes.Clone(raw)
		b[i] ^= 1
		if s, err := k.Open(base64.RawURLEncoding.EncodeToString(b), now); !errors.Is(err, session.ErrNoSession) {
			t.Errorf("byte %d changed: got %+v %v, want ErrNoSession", i, s, err)
		}
	}
	if k.Seal(session.Session{User: 5, Issued: now}) == good {
		t.Error("the same session was sealed twice to the same value")
	}
}

func FuzzOpen(f *testing.F) {
	k := keys(f, 1)
	f.Add("")
	f.Add(keys(f, 2).Seal(session.Session{User: 1, Issued: now}))
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := k.Open(s, now); err == nil {
			t.Errorf("opened %q, which was never sealed: %+v", s, got)
		}
	})
}

func TestKeyTooShort(t *testing.T) {
	t.Parallel()
	if _, err := session.NewKeys(make([]byte, 31), time.Hour); err == nil {
		t.Error("31 bytes were accepted")
	}
	k := keys(t, 1)
	if bytes.Equal(k.Relay(), k.Setup()) {
		t.Error("two purposes have one key")
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	p, ctx := session.NewPasswords(), t.Context()
	hash, err := p.Hash(ctx, "密码 correct horse")
	if err != nil || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("hash: got %q %v", hash, err)
	}
	for _, c := range []struct {
		password, hash string
		want, fails    bool
	}{
		{"密码 correct horse", hash, true, false},
		{"密码 correct horsf", hash, false, false},
		{"", hash, false, false},
		{"x", "", false, false},
		{"x", "$2y$10$abc", false, true},
		{"x", strings.Replace(hash, "t=2", "t=0", 1), false, true},
		{"x", strings.Replace(hash, "m=19456", "m=99999999", 1), false, true},
		{"x", hash[:len(hash)-4], false, true},
	} {
		got, err := p.Check(ctx, c.password, c.hash)
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("check %q against %q: got %v %v, want %v, error %v", c.password, c.hash, got, err, c.want, c.fails)
		}
	}
}
