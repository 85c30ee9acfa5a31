// Package tree answers: in what do two folders differ? It holds what is known of a folder's members, compares two such
// lists, and keeps the set of paths whose copy may be old. It is pure: it touches no file and reads no clock.
package tree

import (
	"bytes"
	"slices"
	"strings"
)

// Root is the path of the folder itself.
const Root = "."

// Limits of a path, in bytes. The kernel takes no longer ones in one call (PATH_MAX with its ending zero, NAME_MAX).
const (
	MaxPath = 4095
	MaxName = 255
)

// TempPrefix begins the names of the files that a target makes before they get their final name. They are no members:
// a source does not send them, and a target removes those that an earlier run left behind.
const TempPrefix = ".twotier-sync-"

// ModeMask is the part of a mode that travels: permissions and the sticky bit. Setuid and setgid never do, because a
// folder that somebody else fills must not make programs with another user's rights.
const ModeMask = 0o1777

// Type says what a path is.
type Type uint8

// The types that are copied, and None for a path with nothing there. Everything else (devices, sockets, pipes) is
// skipped and counted where the folder is read.
const (
	None Type = iota
	File
	Dir
	Symlink
)

// String names the type for a person.
func (t Type) String() string {
	switch t {
	case None:
		return "nothing"
	case File:
		return "file"
	case Dir:
		return "directory"
	case Symlink:
		return "symlink"
	}
	return "unknown"
}

// Entry is one member of a folder.
type Entry struct {
	Path   string   // relative to the folder, slash-separated; bytes of any kind, not necessarily UTF-8
	Type   Type     // what it is
	Size   int64    // bytes; files only
	Mtime  int64    // nanoseconds since 1970
	Mode   uint32   // permissions; more than ModeMask only where it was read from a target, so that it is mended
	UID    uint32   // owner
	GID    uint32   // group
	Target string   // what a symlink points to, as written; never followed
	Hash   [32]byte // SHA-256 of the content; zero where not known
}

// Gone is the entry of a path where nothing is.
func Gone(path string) Entry { return Entry{Path: path} }

// ValidPath reports whether path is one that a member of a folder can have: relative, clean, within the limits, no
// name of ours. Root is not a member.
func ValidPath(path string) bool {
	if path == "" || len(path) > MaxPath || strings.IndexByte(path, 0) >= 0 {
		return false
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." || name == ".." || len(name) > MaxName || strings.HasPrefix(name, TempPrefix) {
			return false
		}
	}
	return true
}

// Parent is the directory that holds path; Root for the members at the top, and for Root itself.
func Parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return Root
}

// Join is the path of name in dir.
func Join(dir, name string) string {
	if dir == Root {
		return name
	}
	return dir + "/" + name
}

// Valid reports whether the entry is one that may be put into a folder: a good path, a known type, and only the fields
// of its type.
func (e Entry) Valid() bool {
	if e.Path == Root {
		return e.Type == Dir && e.Size == 0 && e.Target == ""
	}
	if !ValidPath(e.Path) {
		return false
	}
	switch e.Type {
	case None:
		return e == Gone(e.Path)
	case File:
		return e.Size >= 0 && e.Target == ""
	case Dir:
		return e.Size == 0 && e.Target == ""
	case Symlink:
		return e.Size == 0 && e.Target != "" && len(e.Target) <= MaxPath && strings.IndexByte(e.Target, 0) < 0
	}
	return false
}

// Snapshot is a whole folder at one time: Root first, then every member in the byte order of the paths, by which a
// directory comes before what it holds.
type Snapshot []Entry

// Sort puts the entries into their order.
func (s Snapshot) Sort() {
	slices.SortFunc(s, func(a, b Entry) int { return order(a.Path, b.Path) })
}

// Sorted reports whether the entries are in their order and no path is there twice.
func (s Snapshot) Sorted() bool {
	for i := 1; i < len(s); i++ {
		if order(s[i-1].Path, s[i].Path) >= 0 {
			return false
		}
	}
	return true
}

// order is the byte order of the paths, Root before everything.
func order(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == Root:
		return -1
	case b == Root:
		return 1
	}
	return strings.Compare(a, b)
}

// sameContent reports whether two files are taken to hold the same bytes: same size and same time of change and,
// where both hashes are known, the same hash.
func sameContent(a, b Entry) bool {
	if a.Size != b.Size || a.Mtime != b.Mtime {
		return false
	}
	var unknown [32]byte
	return a.Hash == unknown || b.Hash == unknown || bytes.Equal(a.Hash[:], b.Hash[:])
}
