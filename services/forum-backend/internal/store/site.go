package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"

	"github.com/go-sql-driver/mysql"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

// Settings in forum_setting.
const (
	settingInstalled = "installed" // the lock of the installation; its value is the id of the first administrator
	settingTitle     = "title"
	settingNonce     = "setup_nonce"
)

func noTable(err error) bool {
	var server *mysql.MySQLError
	return errors.As(err, &server) && server.Number == errNoSuchTable
}

// Title is the title that the installation set; installed is false, and no error returned, when there was none yet.
func (d *DB) Title(ctx context.Context) (title string, installed bool, err error) {
	rows, err := d.pool.QueryContext(ctx, "SELECT name, value FROM forum_setting WHERE name IN (?, ?)", settingInstalled, settingTitle)
	if noTable(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, judge("read the title", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return "", false, judge("read the title", err)
		}
		switch name {
		case settingInstalled:
			installed = true
		case settingTitle:
			title = value
		}
	}
	return title, installed, judge("read the title", rows.Err())
}

// SetupNonce is a random text that belongs to this database, made when it is first asked for.
func (d *DB) SetupNonce(ctx context.Context) (string, error) {
	if _, err := d.pool.ExecContext(ctx, "INSERT IGNORE INTO forum_setting (name, value) VALUES (?, ?)", settingNonce, rand.Text()); err != nil {
		return "", judge("make the setup nonce", err)
	}
	var nonce string
	err := d.pool.QueryRowContext(ctx, "SELECT value FROM forum_setting WHERE name = ?", settingNonce).Scan(&nonce)
	return nonce, judge("read the setup nonce", err)
}

// Install makes the first administrator and the first board, or answers forum.ErrInstalled when that has been done. Of
// two servers that try at once one does it: the row settingInstalled is the lock.
func (d *DB) Install(ctx context.Context, in forum.Installation) error {
	return d.transact(ctx, "install", func(tx *sql.Tx) error {
		var admin string
		switch err := tx.QueryRowContext(ctx, "SELECT value FROM forum_setting WHERE name = ? FOR UPDATE", settingInstalled).Scan(&admin); {
		case err == nil:
			return forum.ErrInstalled
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		id, err := d.insertUser(ctx, tx, in.Admin)
		if err != nil {
			return err
		}
		// The second of two loses here, on the primary key; done again, it finds the row above.
		for name, value := range map[string]string{settingInstalled: fmt.Sprint(id), settingTitle: in.Title} {
			if _, err := tx.ExecContext(ctx, "INSERT INTO forum_setting (name, value) VALUES (?, ?)", name, value); err != nil {
				return err
			}
		}
		_, err = d.insertBoard(ctx, tx, "General", "Everything that has no board of its own.")
		return err
	})
}

// Counts is how much there is of everything.
func (d *DB) Counts(ctx context.Context) (forum.Counts, error) {
	var c forum.Counts
	err := d.pool.QueryRowContext(ctx, `SELECT (SELECT COUNT(*) FROM forum_user), (SELECT COUNT(*) FROM forum_thread),
		(SELECT COUNT(*) FROM forum_post), (SELECT COUNT(*) FROM forum_attachment)`).Scan(&c.Users, &c.Threads, &c.Posts, &c.Attachments)
	return c, judge("count", err)
}
