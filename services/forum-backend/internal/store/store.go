// Package store answers: what does the database know? It is the only room that speaks SQL.
//
// The SQL is what MariaDB, MySQL, Galera and TiDB all take: every table has a primary key, ids are made here, there are
// no foreign keys, triggers, GET_LOCK or RETURNING, and a transaction that loses against another is done again.
// Every method may be called from any goroutine; none remembers anything between calls but the connection pool.
package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

// Limits of the connection pool. Two servers with 32 connections each stay well below MariaDB's default of 151.
const (
	maxConnections     = 32
	maxIdleConnections = 8
	maxConnectionLife  = 5 * time.Minute
	maxConnectionIdle  = time.Minute
	dialTimeout        = 2 * time.Second
	ioTimeout          = 15 * time.Second // one packet of an answer, or one request; queries have the deadline of their context
	maxAttempts        = 8                // of a transaction
)

// Config tells where the database is.
type Config struct {
	Network  string // tcp or unix
	Address  string // HOST:PORT, or the path of the socket
	Name     string // of the database
	User     string
	Password string
}

// DB is the database.
type DB struct {
	pool *sql.DB
	ids  ids
}

// Open makes the pool; it does not dial, so the database may be away. Close it.
func Open(c Config) (*DB, error) {
	m := mysql.NewConfig()
	m.Net, m.Addr, m.DBName, m.User, m.Passwd = c.Network, c.Address, c.Name, c.User, c.Password
	m.Collation = "utf8mb4_unicode_ci"
	m.ParseTime, m.Loc, m.InterpolateParams = true, time.UTC, true
	m.Timeout, m.ReadTimeout, m.WriteTimeout = dialTimeout, ioTimeout, ioTimeout
	m.Params = map[string]string{"sql_mode": "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'", "time_zone": "'+00:00'"}
	m.Logger = &mysql.NopLogger{} // the errors that it would print are returned too
	connector, err := mysql.NewConnector(m)
	if err != nil {
		return nil, fmt.Errorf("open database %s at %s: %w", c.Name, c.Address, err)
	}
	pool := sql.OpenDB(connector)
	pool.SetMaxOpenConns(maxConnections)
	pool.SetMaxIdleConns(maxIdleConnections)
	pool.SetConnMaxLifetime(maxConnectionLife)
	pool.SetConnMaxIdleTime(maxConnectionIdle)
	return &DB{pool: pool}, nil
}

// Close closes the pool, after the queries that run.
func (d *DB) Close() {
	_ = d.pool.Close() // says only that a connection which is gone could not say goodbye
}

// SelectOne asks the database for a 1, which it answers when it is well.
func (d *DB) SelectOne(ctx context.Context) error {
	var one int
	if err := d.pool.QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil {
		return judge("select 1", err)
	}
	if one != 1 {
		return fmt.Errorf("select 1: got %d", one)
	}
	return nil
}

// Version is the version of the database server. Example: 10.11.19-MariaDB
func (d *DB) Version(ctx context.Context) (string, error) {
	var v string
	if err := d.pool.QueryRowContext(ctx, "SELECT VERSION()").Scan(&v); err != nil {
		return "", judge("read the version", err)
	}
	return v, nil
}

// Server error numbers that decide something. https://mariadb.com/kb/en/mariadb-error-code-reference/
const (
	errTooManyConnections = 1040
	errDBAccessDenied     = 1044
	errAccessDenied       = 1045
	errUnknownDatabase    = 1049
	errShutdown           = 1053
	errDuplicate          = 1062
	errHostBlocked        = 1129
	errHostDenied         = 1130
	errNoSuchTable        = 1146
	errLockTimeout        = 1205
	errReadOnly           = 1290
	errDeadlock           = 1213
)

// judge wraps an error with what was done and makes it one that the pages decide by: forum.ErrNotFound, or
// forum.ErrUnavailable for everything that may be over soon.
func judge(doing string, err error) error {
	var server *mysql.MySQLError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("%s: %w", doing, forum.ErrNotFound)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.As(err, &server):
		switch server.Number {
		case errTooManyConnections, errDBAccessDenied, errAccessDenied, errUnknownDatabase, errShutdown, errHostBlocked,
			errHostDenied, errNoSuchTable, errLockTimeout, errDeadlock, errReadOnly:
		default:
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	return fmt.Errorf("%s: %w: %w", doing, forum.ErrUnavailable, err)
}

// duplicate reports whether err says that a row with this unique key is there already.
func duplicate(err error, key string) bool {
	var server *mysql.MySQLError
	// MariaDB says: Duplicate entry 'x' for key 'user_name'; MySQL 8 puts the table before the key.
	return errors.As(err, &server) && server.Number == errDuplicate && strings.HasSuffix(server.Message, key+"'")
}

// lost reports whether a transaction failed only because another was in its way: a deadlock (also a lost certification
// on Galera), a lock that was not given in time, or an id that the other server made in the same millisecond.
func lost(err error) bool {
	var server *mysql.MySQLError
	if !errors.As(err, &server) {
		return false
	}
	return server.Number == errDeadlock || server.Number == errLockTimeout || server.SQLState == [5]byte{'4', '0', '0', '0', '1'} ||
		duplicate(err, "PRIMARY")
}

// transact runs do in a transaction, again when it lost; COMMIT may lose too. do must make its ids itself.
func (d *DB) transact(ctx context.Context, doing string, do func(*sql.Tx) error) error {
	pause := 5 * time.Millisecond
	for attempt := 1; ; attempt++ {
		err := d.once(ctx, do)
		if !lost(err) || attempt == maxAttempts {
			return judge(doing, err)
		}
		if err := wait(ctx, pause); err != nil {
			return judge(doing, err)
		}
		pause *= 2
	}
}

func (d *DB) once(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := d.pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		_ = tx.Rollback() // the error that led here says more
		return err
	}
	return tx.Commit()
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ids makes ids that grow with time: 42 bits of milliseconds since 1970 (until 2109), then 21 random bits. Within one
// process they only grow; two servers meet with one in two million in the same millisecond, and then one tries again.
type ids struct {
	mu   sync.Mutex
	last uint64
}

func (i *ids) next(now time.Time) (forum.ID, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, err
	}
	id := uint64(now.UnixMilli())<<21 | uint64(binary.BigEndian.Uint32(b[:])>>11)
	i.mu.Lock()
	defer i.mu.Unlock()
	id = max(id, i.last+1)
	i.last = id
	return forum.ID(id), nil
}

// stamp makes a new id and the time that goes with it.
func (d *DB) stamp() (forum.ID, time.Time, error) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	id, err := d.ids.next(now)
	return id, now, err
}
