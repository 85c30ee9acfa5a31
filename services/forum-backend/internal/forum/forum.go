// Package forum answers: what is a forum made of, and what is allowed in it? Pure: no clock, no network, no database.
package forum

import (
	"errors"
	"time"
)

// ID names one user, board, thread, post or attachment: 63 bits, made by the application, growing with time.
type ID uint64

// Errors that the rooms around the database and the files answer with and the pages decide by.
var (
	// ErrNotFound: there is no such thing.
	ErrNotFound = errors.New("not found")
	// ErrNameTaken: another user has this name.
	ErrNameTaken = errors.New("the name is taken")
	// ErrEmailTaken: another user has this e-mail address.
	ErrEmailTaken = errors.New("the e-mail address is taken")
	// ErrInstalled: somebody else has installed the forum already.
	ErrInstalled = errors.New("the forum is installed already")
	// ErrUnavailable: the database does not answer, or its tables are not there yet. Trying later may help.
	ErrUnavailable = errors.New("the database is not available")
	// ErrUploadsAway: the server that takes uploads does not answer.
	ErrUploadsAway = errors.New("the upload server is not available")
	// ErrTooLarge: the file is larger than the site allows.
	ErrTooLarge = errors.New("the file is too large")
	// ErrTampered: the bytes are not those that were uploaded.
	ErrTampered = errors.New("the file is not what was uploaded")
)

// User is somebody who may write.
type User struct {
	ID       ID
	Name     string
	Email    string
	Password string // argon2id in PHC string form
	Epoch    uint32 // sessions sealed with a lower one are void
	Admin    bool
}

// Board is a place for threads.
type Board struct {
	ID          ID
	Name        string
	Description string
	Threads     int // how many there are
}

// Thread is one conversation.
type Thread struct {
	ID        ID
	BoardID   ID
	BoardName string
	Title     string
	Author    string
	Replies   int // posts besides the first
	Created   time.Time
	LastPost  time.Time
}

// Post is one contribution to a thread.
type Post struct {
	ID          ID
	Number      int // 1 is the first post of the thread
	Author      string
	Body        string // plain text
	Created     time.Time
	Attachments []Attachment
}

// File is an uploaded file as it lies on the disk of the upload origin.
type File struct {
	Path   string   // below the files path, with slashes; see CheckFilePath
	Size   int64    // bytes
	SHA256 [32]byte // of the content
	Type   string   // image/png, image/jpeg, image/gif, image/webp or application/octet-stream, from the content
}

// Attachment is a file that belongs to a post.
type Attachment struct {
	ID   ID
	Name string // the uploader's name for it, cleaned
	File
}

// Image reports whether a browser may show the file in the page.
func (f File) Image() bool { return f.Type != OctetStream }

// Counts is how much there is of everything.
type Counts struct {
	Users, Threads, Posts, Attachments uint64
}

// Installation is what the first run decides.
type Installation struct {
	Title string // of the forum; empty: the one in the desired state
	Admin User
}
