package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

// CreateBoard keeps a new board.
func (d *DB) CreateBoard(ctx context.Context, name, description string) (forum.ID, error) {
	var id forum.ID
	err := d.transact(ctx, "create board", func(tx *sql.Tx) (err error) {
		id, err = d.insertBoard(ctx, tx, name, description)
		return err
	})
	return id, err
}

func (d *DB) insertBoard(ctx context.Context, tx *sql.Tx, name, description string) (forum.ID, error) {
	id, now, err := d.stamp()
	if err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO forum_board (id, name, description, created) VALUES (?, ?, ?, ?)", id, name, description, now)
	return id, err
}

// maxBoards bounds the front page.
const maxBoards = 200

const selectBoard = `SELECT b.id, b.name, b.description, (SELECT COUNT(*) FROM forum_thread t WHERE t.board_id = b.id) FROM forum_board b `

// Boards are all boards, oldest first.
func (d *DB) Boards(ctx context.Context) ([]forum.Board, error) {
	return query(ctx, d, "read boards", func(b *forum.Board) []any { return []any{&b.ID, &b.Name, &b.Description, &b.Threads} },
		selectBoard+"ORDER BY b.id LIMIT ?", maxBoards)
}

// Board is one board.
func (d *DB) Board(ctx context.Context, id forum.ID) (forum.Board, error) {
	var b forum.Board
	err := d.pool.QueryRowContext(ctx, selectBoard+"WHERE b.id = ?", id).Scan(&b.ID, &b.Name, &b.Description, &b.Threads)
	return b, judge("read board", err)
}

const selectThread = `SELECT t.id, t.board_id, b.name, t.title, u.name, (SELECT COUNT(*) - 1 FROM forum_post p WHERE p.thread_id = t.id), t.created, t.last_post_at
	FROM forum_thread t JOIN forum_board b ON b.id = t.board_id JOIN forum_user u ON u.id = t.author_id `

func threadColumns(t *forum.Thread) []any {
	return []any{&t.ID, &t.BoardID, &t.BoardName, &t.Title, &t.Author, &t.Replies, &t.Created, &t.LastPost}
}

// Threads are the threads of a board on one page, the one with the newest post first.
func (d *DB) Threads(ctx context.Context, board forum.ID, page forum.Page) ([]forum.Thread, error) {
	return query(ctx, d, "read threads", threadColumns,
		selectThread+"WHERE t.board_id = ? ORDER BY t.last_post DESC LIMIT ? OFFSET ?", board, page.Size, page.Offset())
}

// NewestThreads are the n threads with the newest posts of all boards.
func (d *DB) NewestThreads(ctx context.Context, n int) ([]forum.Thread, error) {
	return query(ctx, d, "read newest threads", threadColumns, selectThread+"ORDER BY t.last_post DESC LIMIT ?", n)
}

// Thread is one thread.
func (d *DB) Thread(ctx context.Context, id forum.ID) (forum.Thread, error) {
	var t forum.Thread
	err := d.pool.QueryRowContext(ctx, selectThread+"WHERE t.id = ?", id).Scan(threadColumns(&t)...)
	return t, judge("read thread", err)
}

// Posts are the posts of a thread on one page, oldest first, with their attachments.
func (d *DB) Posts(ctx context.Context, thread forum.ID, page forum.Page) ([]forum.Post, error) {
	posts, err := query(ctx, d, "read posts", func(p *forum.Post) []any { return []any{&p.ID, &p.Author, &p.Body, &p.Created} },
		`SELECT p.id, u.name, p.body, p.created FROM forum_post p JOIN forum_user u ON u.id = p.author_id
		WHERE p.thread_id = ? ORDER BY p.id LIMIT ? OFFSET ?`, thread, page.Size, page.Offset())
	if err != nil || len(posts) == 0 {
		return posts, err
	}
	index, args := map[forum.ID]*forum.Post{}, []any{}
	for i := range posts {
		posts[i].Number = page.Offset() + i + 1
		index[posts[i].ID] = &posts[i]
		args = append(args, posts[i].ID)
	}
	type row struct {
		post forum.ID
		sum  []byte
		forum.Attachment
	}
	rows, err := query(ctx, d, "read attachments", func(r *row) []any { return append([]any{&r.post}, attachmentColumns(&r.Attachment, &r.sum)...) },
		"SELECT post_id, "+attachmentFields+" FROM forum_attachment WHERE post_id IN (?"+strings.Repeat(", ?", len(args)-1)+") ORDER BY post_id, id", args...)
	for _, r := range rows {
		copy(r.SHA256[:], r.sum)
		index[r.post].Attachments = append(index[r.post].Attachments, r.Attachment)
	}
	return posts, err
}

const attachmentFields = "id, name, path, size, sha256, type"

func attachmentColumns(a *forum.Attachment, sum *[]byte) []any {
	return []any{&a.ID, &a.Name, &a.Path, &a.Size, sum, &a.Type}
}

// Attachment is one attachment.
func (d *DB) Attachment(ctx context.Context, id forum.ID) (forum.Attachment, error) {
	var a forum.Attachment
	var sum []byte
	err := d.pool.QueryRowContext(ctx, "SELECT "+attachmentFields+" FROM forum_attachment WHERE id = ?", id).Scan(attachmentColumns(&a, &sum)...)
	copy(a.SHA256[:], sum)
	return a, judge("read attachment", err)
}

// CreateThread keeps a new thread with its first post and the files that belong to it. forum.ErrNotFound: no such board.
func (d *DB) CreateThread(ctx context.Context, board, author forum.ID, title, body string, files []forum.Attachment) (forum.ID, error) {
	var thread forum.ID
	err := d.transact(ctx, "create thread", func(tx *sql.Tx) error {
		var id forum.ID
		if err := tx.QueryRowContext(ctx, "SELECT id FROM forum_board WHERE id = ?", board).Scan(&id); err != nil {
			return err
		}
		id, now, err := d.stamp()
		if err != nil {
			return err
		}
		post, err := d.insertPost(ctx, tx, id, author, body, now, files)
		if err != nil {
			return err
		}
		thread = id
		_, err = tx.ExecContext(ctx, `INSERT INTO forum_thread (id, board_id, author_id, title, created, last_post, last_post_at)
			VALUES (?, ?, ?, ?, ?, ?, ?)`, id, board, author, title, now, post, now)
		return err
	})
	return thread, err
}

// CreateReply keeps a reply to a thread and answers which post of the thread it is. forum.ErrNotFound: no such thread.
func (d *DB) CreateReply(ctx context.Context, thread, author forum.ID, body string, files []forum.Attachment) (number int, err error) {
	err = d.transact(ctx, "create reply", func(tx *sql.Tx) error {
		var id forum.ID
		if err := tx.QueryRowContext(ctx, "SELECT id FROM forum_thread WHERE id = ? FOR UPDATE", thread).Scan(&id); err != nil {
			return err
		}
		now := time.Now().UTC().Truncate(time.Microsecond)
		post, err := d.insertPost(ctx, tx, thread, author, body, now, files)
		if err != nil {
			return err
		}
		// Two servers' clocks differ a little: the newest post is the greatest, whoever comes last.
		if _, err := tx.ExecContext(ctx, `UPDATE forum_thread SET last_post = GREATEST(last_post, ?), last_post_at = GREATEST(last_post_at, ?)
			WHERE id = ?`, post, now, thread); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM forum_post WHERE thread_id = ? AND id <= ?", thread, post).Scan(&number)
	})
	return number, err
}

func (d *DB) insertPost(ctx context.Context, tx *sql.Tx, thread, author forum.ID, body string, now time.Time, files []forum.Attachment) (forum.ID, error) {
	post, _, err := d.stamp()
	if err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO forum_post (id, thread_id, author_id, body, created) VALUES (?, ?, ?, ?, ?)",
		post, thread, author, body, now); err != nil {
		return 0, err
	}
	for _, f := range files {
		id, _, err := d.stamp()
		if err != nil {
			return 0, err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO forum_attachment (id, post_id, name, path, size, sha256, type, created)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, id, post, f.Name, f.Path, f.Size, f.SHA256[:], f.Type, now); err != nil {
			return 0, fmt.Errorf("attachment %s: %w", f.Path, err)
		}
	}
	return post, nil
}

// query reads all rows of a query; columns says where the columns of a row go.
func query[T any](ctx context.Context, d *DB, doing string, columns func(*T) []any, text string, args ...any) ([]T, error) {
	rows, err := d.pool.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, judge(doing, err)
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		var one T
		if err := rows.Scan(columns(&one)...); err != nil {
			return nil, judge(doing, err)
		}
		all = append(all, one)
	}
	return all, judge(doing, rows.Err())
}
