package store

import (
	"context"
	"database/sql"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

// CreateUser keeps a new user, whose Password is hashed already. forum.ErrNameTaken, forum.ErrEmailTaken.
func (d *DB) CreateUser(ctx context.Context, u forum.User) (forum.ID, error) {
	var id forum.ID
	err := d.transact(ctx, "create user", func(tx *sql.Tx) (err error) {
		id, err = d.insertUser(ctx, tx, u)
		return err
	})
	return id, err
}

func (d *DB) insertUser(ctx context.Context, tx *sql.Tx, u forum.User) (forum.ID, error) {
	id, now, err := d.stamp()
	if err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO forum_user (id, name, email, password, epoch, admin, created) VALUES (?, ?, ?, ?, ?, ?, ?)",
		id, u.Name, u.Email, u.Password, u.Epoch, u.Admin, now)
	switch {
	case duplicate(err, "user_name"):
		return 0, forum.ErrNameTaken
	case duplicate(err, "user_email"):
		return 0, forum.ErrEmailTaken
	}
	return id, err
}

const selectUser = "SELECT id, name, email, password, epoch, admin FROM forum_user WHERE "

// UserByName finds a user by name; capitals and accents do not count.
func (d *DB) UserByName(ctx context.Context, name string) (forum.User, error) {
	return d.user(ctx, selectUser+"name = ?", name)
}

// User finds a user by id.
func (d *DB) User(ctx context.Context, id forum.ID) (forum.User, error) {
	return d.user(ctx, selectUser+"id = ?", id)
}

func (d *DB) user(ctx context.Context, query string, arg any) (forum.User, error) {
	var u forum.User
	err := d.pool.QueryRowContext(ctx, query, arg).Scan(&u.ID, &u.Name, &u.Email, &u.Password, &u.Epoch, &u.Admin)
	return u, judge("read user", err)
}

// RevokeSessions makes every session of a user void, on all servers.
func (d *DB) RevokeSessions(ctx context.Context, id forum.ID) error {
	return d.transact(ctx, "revoke sessions", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE forum_user SET epoch = epoch + 1 WHERE id = ?", id)
		return err
	})
}
