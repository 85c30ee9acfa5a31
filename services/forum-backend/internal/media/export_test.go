package media

import (
	"context"
	"io"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

// SaveNamed is Save as on a file system that keeps no files without a name.
func (f *Folder) SaveNamed(ctx context.Context, from io.Reader, limit int64, commit func(forum.File) error) (forum.File, error) {
	return f.save(ctx, from, limit, commit, newNamedTemp)
}
