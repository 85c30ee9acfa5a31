package page

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

const (
	// PasswordFile is where, in the state folder, the password of the user admin is kept when no user is named.
	PasswordFile = "stats-password"
	// minPassword and maxPassword are its length in bytes, and that of passwords in files; bcrypt takes no more.
	minPassword = 8
	maxPassword = 72
	// guesses is how many wrong passwords an address has in guessWindow; then it gets 429 until that is over.
	guesses     = 10
	guessWindow = time.Minute
	// allGuesses is the same for all addresses together, so that many of them do not help; who has been let in before is
	// not stopped by either.
	allGuesses = 300
	// maxGuessers bounds the addresses that are remembered; while there are more nobody new is let in.
	maxGuessers = 4096
	// remember is how long a good password need not be hashed again, maxRemembered how many are.
	remember      = 10 * time.Minute
	maxRemembered = 256
	// hashers is how many passwords are hashed at a time: each takes a processor for a while.
	hashers = 1
)

// Why somebody is not let in.
var (
	errPassword  = errors.New("unknown user or wrong password")
	errTooMany   = errors.New("too many wrong passwords")
	errNoSecret  = errors.New("no password to compare with")
	errNoDefault = errors.New("no users are named, and there is no state folder for a password of the router's own")
)

// doorman tells who may see the pages.
type doorman struct {
	key      []byte // of this process; what is remembered and what is signed means nothing elsewhere
	fallback string // the file of the router's own password; empty: there is none
	hashing  chan struct{}

	mu         sync.Mutex // guards what follows
	remembered map[[sha256.Size]byte]time.Time
	guessers   map[string]int
	all        int
	since      time.Time
	told       time.Time // when it was last told that somebody is not let in for another reason than a wrong password
}

func newDoorman(fallback string) *doorman {
	d := &doorman{key: make([]byte, 32), fallback: fallback, hashing: make(chan struct{}, hashers)}
	_, _ = rand.Read(d.key) // it cannot fail (crypto/rand)
	d.remembered, d.guessers = map[[sha256.Size]byte]time.Time{}, map[string]int{}
	return d
}

// makePassword makes the router's own password if there is none yet. It returns the file, and whether it is new.
func makePassword(folder string) (file string, made bool, err error) {
	file = filepath.Join(folder, PasswordFile)
	if _, err := os.Stat(file); err == nil {
		return file, false, nil
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", false, err
	}
	// Linked into place whole, so that no half of it is ever read, and never over another.
	temp, err := os.CreateTemp(folder, ".stats-password-*") // of mode 0600
	if err != nil {
		return "", false, err
	}
	defer os.Remove(temp.Name())
	_, err = fmt.Fprintln(temp, rand.Text())
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return "", false, err
	}
	if err := os.Link(temp.Name(), file); err != nil && !errors.Is(err, os.ErrExist) {
		return "", false, err
	}
	return file, true, nil
}

// password reads the first line of a file.
func password(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return nil, err
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) < minPassword || len(line) > maxPassword {
		return nil, fmt.Errorf("%s: %w: the first line has %d bytes, want %d to %d", file, errNoSecret, len(line), minPassword, maxPassword)
	}
	return line, nil
}

// admit tells who the user is. The errors are errPassword, errTooMany, or about the configuration.
func (d *doorman) admit(ctx context.Context, page *spec.StatsPage, from, name, given string) (spec.StatsUser, error) {
	users := page.Users
	if len(users) == 0 {
		if d.fallback == "" {
			return spec.StatsUser{}, errNoDefault
		}
		users = []spec.StatsUser{{Name: spec.DefaultStatsUser, File: d.fallback, Admin: true}}
	}
	var user spec.StatsUser
	for _, u := range users {
		if subtle.ConstantTimeCompare([]byte(u.Name), []byte(name)) == 1 {
			user = u
		}
	}
	secret := []byte(user.Bcrypt)
	if user.File != "" {
		var err error
		if secret, err = password(user.File); err != nil {
			return spec.StatsUser{}, err
		}
	}
	mark := d.mark(user.Name, secret, given)
	if user.Name != "" && d.knows(mark) {
		return user, nil
	}
	if !d.mayGuess(from) {
		return spec.StatsUser{}, errTooMany
	}
	good, err := d.compare(ctx, &user, secret, given)
	if err != nil {
		return spec.StatsUser{}, err
	}
	if !good {
		return spec.StatsUser{}, errPassword
	}
	d.letIn(from, mark)
	return user, nil
}

// compare compares a password in a time that tells nothing about it.
func (d *doorman) compare(ctx context.Context, user *spec.StatsUser, secret []byte, given string) (bool, error) {
	if user.File != "" {
		a, b := sha256.Sum256(secret), sha256.Sum256([]byte(given))
		return subtle.ConstantTimeCompare(a[:], b[:]) == 1, nil
	}
	if len(given) > maxPassword {
		return false, nil
	}
	select {
	case d.hashing <- struct{}{}:
		defer func() { <-d.hashing }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	hash := secret
	if user.Name == "" {
		hash = []byte(nobody) // takes as long, so that names cannot be found out
	}
	return bcrypt.CompareHashAndPassword(hash, []byte(given)) == nil && user.Name != "", nil
}

// nobody is the hash of a random text that has been thrown away.
const nobody = "$2a$10$7EqJtq98hPqEX7fNZaFWoOhi5BWX4Z6C2kBG/QwqNUQbTkFSYCFsa"

// mark stands for a user, the secret as it is now, and what was given.
func (d *doorman) mark(name string, secret []byte, given string) (m [sha256.Size]byte) {
	mac := hmac.New(sha256.New, d.key)
	for _, part := range [][]byte{[]byte(name), secret, []byte(given)} {
		_, _ = fmt.Fprintf(mac, "%d:", len(part)) // a hash takes everything
		_, _ = mac.Write(part)
	}
	mac.Sum(m[:0])
	return m
}

func (d *doorman) knows(mark [sha256.Size]byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	until, ok := d.remembered[mark]
	return ok && time.Now().Before(until)
}

// mayGuess counts a guess as wrong; letIn takes it back.
func (d *doorman) mayGuess(from string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); now.Sub(d.since) >= guessWindow {
		d.since, d.all = now, 0
		clear(d.guessers)
	}
	n, known := d.guessers[from]
	if n >= guesses || d.all >= allGuesses || !known && len(d.guessers) >= maxGuessers {
		return false
	}
	d.guessers[from] = n + 1
	d.all++
	return true
}

// news reports whether it is to be told once more that somebody is not let in: once in guessWindow, so that nobody can fill
// the log.
func (d *doorman) news(now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.Sub(d.told) < guessWindow {
		return false
	}
	d.told = now
	return true
}

func (d *doorman) letIn(from string, mark [sha256.Size]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.guessers[from]--
	d.all--
	now := time.Now()
	if len(d.remembered) >= maxRemembered {
		for m, until := range d.remembered {
			if len(d.remembered) >= maxRemembered || now.After(until) {
				delete(d.remembered, m)
			}
		}
	}
	d.remembered[mark] = now.Add(remember)
}

// tokenHours is for how long, at least, a token of a form holds; at most it is twice as long.
const tokenHours = 12

// token is what the forms of one user carry, so that another site cannot send them.
func (d *doorman) token(user string, now time.Time) string {
	return d.tokenOf(user, now.Unix()/(tokenHours*3600))
}

func (d *doorman) tokenOf(user string, period int64) string {
	mac := hmac.New(sha256.New, d.key)
	_, _ = fmt.Fprintf(mac, "form %d %s", period, user) // a hash takes everything
	return hex.EncodeToString(mac.Sum(nil))
}

func (d *doorman) goodToken(user, token string, now time.Time) bool {
	period := now.Unix() / (tokenHours * 3600)
	return hmac.Equal([]byte(token), []byte(d.tokenOf(user, period))) || hmac.Equal([]byte(token), []byte(d.tokenOf(user, period-1)))
}
