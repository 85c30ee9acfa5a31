package site

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
	"github.com/twotier/twotier/services/forum-backend/internal/media"
	"github.com/twotier/twotier/services/forum-backend/internal/relay"
	"github.com/twotier/twotier/services/forum-backend/internal/session"
)

// attachments are the files as the pages want them. Without files (the folder is not there) nothing can be kept or read.
type attachments struct{ files *relay.Files }

var errNoFiles = fmt.Errorf("the files path is not there: %w", forum.ErrUploadsAway)

func (a attachments) Save(ctx context.Context, from io.Reader, limit int64) (forum.File, error) {
	if a.files == nil {
		return forum.File{}, errNoFiles
	}
	return a.files.Save(ctx, from, limit)
}

func (a attachments) Remove(ctx context.Context, path string) error {
	if a.files == nil {
		return errNoFiles
	}
	return a.files.Remove(ctx, path)
}

func (a attachments) Open(ctx context.Context, f forum.File) (io.ReadCloser, string, error) {
	if a.files == nil {
		return nil, "", errNoFiles
	}
	o, err := a.files.Open(ctx, f)
	if err != nil {
		return nil, "", err
	}
	return o, string(o.Source), nil
}

func filesReady(folder *media.Folder) func() error {
	if folder == nil {
		return func() error { return errors.New("the files path is not there") }
	}
	return folder.Ready
}

// cookies are the sessions as the pages want them.
type cookies struct{ keys *session.Keys }

func (c cookies) Login(u forum.User, now time.Time) *http.Cookie { return c.keys.Cookie(u, now) }

func (cookies) Logout() *http.Cookie { return session.Gone() }

func (c cookies) Reader(r *http.Request, now time.Time) (forum.ID, uint32, bool) {
	s, err := c.keys.Read(r, now)
	return s.User, s.Epoch, err == nil
}
