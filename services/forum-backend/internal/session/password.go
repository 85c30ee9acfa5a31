package session

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sync/semaphore"
)

// Cost of a password: argon2id with the least that OWASP's password storage cheat sheet recommends.
const (
	argonMemory  = 19 << 10 // KiB
	argonTime    = 2
	argonThreads = 1
	argonSalt    = 16 // bytes
	argonKey     = 32 // bytes
)

// Passwords hashes and checks passwords, as many at a time as there are cores, so that a flood of logins can take
// neither the memory nor all of the processor.
type Passwords struct {
	turns *semaphore.Weighted
}

// NewPasswords makes one; a process needs one.
func NewPasswords() *Passwords {
	return &Passwords{semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0)))}
}

// Hash answers a new hash in PHC string form, $argon2id$v=19$m=19456,t=2,p=1$salt$key. It waits for its turn.
func (p *Passwords) Hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, argonSalt)
	rand.Read(salt) // never fails
	key, err := p.derive(ctx, password, salt, argonMemory, argonTime, argonThreads)
	if err != nil {
		return "", err
	}
	e := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads, e.EncodeToString(salt), e.EncodeToString(key)), nil
}

// Check reports whether the password is the one of the hash. With an empty hash it takes as long and answers false, so
// that nobody learns from the clock which users there are.
func (p *Passwords) Check(ctx context.Context, password, hash string) (bool, error) {
	known := hash != ""
	if !known {
		hash = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	}
	parts := strings.Split(hash, "$")
	var memory, time uint32
	var threads uint8
	if len(parts) != 6 || parts[1] != "argon2id" || parts[2] != "v=19" {
		return false, fmt.Errorf("check password: the hash is not argon2id version 19")
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &time, &threads); err != nil || time < 1 || threads < 1 || memory > 1<<20 || time > 100 {
		return false, fmt.Errorf("check password: the parameters of the hash are out of range")
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(want) != argonKey {
		return false, fmt.Errorf("check password: the hash is damaged")
	}
	got, err := p.derive(ctx, password, salt, memory, time, threads)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want) == 1 && known, nil
}

func (p *Passwords) derive(ctx context.Context, password string, salt []byte, memory, time uint32, threads uint8) ([]byte, error) {
	if err := p.turns.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("wait for a turn to hash a password: %w", err)
	}
	defer p.turns.Release(1)
	return argon2.IDKey([]byte(password), salt, time, memory, threads, argonKey), nil
}
