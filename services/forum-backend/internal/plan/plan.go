// Package plan answers: what has to change on this server? Want minus have is an ordered list of changes. Pure.
package plan

import (
	"fmt"
	"time"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
	"github.com/twotier/twotier/services/forum-backend/internal/spec"
)

// Fingerprint stands for the content of a secret file: the first half of its sha256 in hex. It may be shown.
type Fingerprint string

// Secrets are the contents of the files that a site names, as they lie on the disk now.
type Secrets struct {
	Database Fingerprint // the database's password
	Key      Fingerprint // the session key
}

// Have is what this server is at present. The zero value is a process that has just started.
type Have struct {
	Serving  string        // the bound address; empty when pages are not served
	Database spec.Database // the pool; zero when there is none
	KeyFile  string        // the key in use came from here
	Lifetime time.Duration
	Used     Secrets // as in use
	OnDisk   Secrets // as on disk; a change is to be taken over

	Title          string
	MaxUploadBytes int64
	FilesPath      string
	Origin         spec.Server // where uploads go
	IsOrigin       bool

	Schema       int  // the version of the tables; 0 when there are none, or the database does not answer
	LatestSchema int  // the version that this program makes
	Installed    bool // false too when the database does not answer
}

// Kind is what a change does.
type Kind int

// The changes, in the order in which they are done. Pages are served before the files and the database are touched, so
// that visitors are told what is away instead of finding a refused connection. None up to Serve needs anything outside
// of this machine.
const (
	StopServing Kind = iota + 1
	UseKey
	UseDatabase
	UseSettings
	Serve
	UseFiles
	EnsureTables
	Install
)

// Change is one step; String says what it does.
type Change struct {
	Kind Kind
	Site *spec.Site // what to become; nil for StopServing
	Text string
}

// String is the change in one line.
func (c Change) String() string { return c.Text }

// Diff answers the changes from have to want, in the order of doing; none when they are equal.
func Diff(want spec.Want, have Have) []Change {
	s := want.Site
	if s == nil {
		if have == (Have{OnDisk: have.OnDisk, LatestSchema: have.LatestSchema}) {
			return nil
		}
		return []Change{{Kind: StopServing, Text: "stop serving: the desired state has no site for this node"}}
	}
	var changes []Change
	add := func(k Kind, format string, a ...any) {
		changes = append(changes, Change{k, s, fmt.Sprintf(format, a...)})
	}
	if have.Serving != "" && have.Serving != s.Self.Address {
		add(StopServing, "stop serving on %s", have.Serving)
	}
	if have.KeyFile != s.KeyFile || have.Lifetime != s.Lifetime || have.Used.Key != have.OnDisk.Key {
		add(UseKey, "take the session key from %s, logins last %s", s.KeyFile, s.Lifetime)
	}
	another := have.Database != s.Database || have.Used.Database != have.OnDisk.Database
	if another {
		add(UseDatabase, "use database %s at %s as %s", s.Database.Name, s.Database.Address, s.Database.User)
	}
	if have.Title != s.Title || have.MaxUploadBytes != s.MaxUploadBytes {
		add(UseSettings, "set title %q, uploads to %d bytes", s.Title, s.MaxUploadBytes)
	}
	if have.Serving != s.Self.Address {
		add(Serve, "serve on %s", s.Self.Address)
	}
	if have.FilesPath != s.Self.FilesPath || have.Origin != s.Origin || have.IsOrigin != s.IsOrigin() {
		if s.IsOrigin() {
			add(UseFiles, "keep files under %s as the upload origin", s.Self.FilesPath)
		} else {
			add(UseFiles, "read files under %s, pass uploads on to %s at %s", s.Self.FilesPath, s.Origin.Node, s.Origin.Address)
		}
	}
	// Tables newer than this program are left alone: the other server has been upgraded first.
	// What is known of the database is not about one that comes now.
	if another || have.Schema < have.LatestSchema {
		add(EnsureTables, "ensure tables of version %d in database %s", have.LatestSchema, s.Database.Name)
	}
	if s.Unattended != nil && (another || !have.Installed) {
		add(Install, "ensure that the forum is installed, administrator %s", s.Unattended.AdminName)
	}
	return changes
}

// Facts are how this server stands, for a person who asks.
type Facts struct {
	Installed         bool
	DatabaseAvailable bool
	DatabaseVersion   string // empty when the database does not answer
	IsOrigin          bool
	UploadsAvailable  bool
	Counts            forum.Counts
}
