package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Lease of the one server that changes the tables. It is renewed before every statement, so one statement may take this
// long; all statements can be run twice, should one take longer.
const leaseSeconds = 60

const leasePoll = 100 * time.Millisecond

// migration is one file of migrations/, NNNN_name.sql.
type migration struct {
	version    int
	statements []string
}

// load answers the migrations in the order of their versions, which are 1, 2, 3 and so on.
func load() ([]migration, error) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	var ms []migration
	for i, name := range names {
		digits, _, _ := strings.Cut(path.Base(name), "_")
		if v, err := strconv.Atoi(digits); err != nil || v != i+1 {
			return nil, fmt.Errorf("migration %s: want version %04d", name, i+1)
		}
		text, err := migrations.ReadFile(name)
		if err != nil {
			return nil, err
		}
		m := migration{version: i + 1}
		for s := range strings.SplitSeq(string(text), ";\n") {
			if s = strings.TrimSpace(s); s != "" {
				m.statements = append(m.statements, s)
			}
		}
		ms = append(ms, m)
	}
	return ms, nil
}

// LatestSchema is the version of the tables that this program makes.
func LatestSchema() int {
	ms, err := load()
	if err != nil {
		panic(err) // the files are part of the program, and a test reads them
	}
	return len(ms)
}

// Schema is the version of the tables; 0 when there are none.
func (d *DB) Schema(ctx context.Context) (int, error) {
	var v sql.NullInt64
	err := d.pool.QueryRowContext(ctx, "SELECT MAX(version) FROM forum_schema").Scan(&v)
	if noTable(err) {
		return 0, nil
	}
	return int(v.Int64), judge("read the version of the tables", err)
}

// Migrate brings the tables to LatestSchema. Any number of servers may do so at once: one works, the others wait for it.
// Tables that are newer stay as they are.
func (d *DB) Migrate(ctx context.Context) (err error) {
	for _, s := range []string{
		`CREATE TABLE IF NOT EXISTS forum_schema (version INT NOT NULL, applied DATETIME(6) NOT NULL, PRIMARY KEY (version))
		 ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci`,
		`CREATE TABLE IF NOT EXISTS forum_lease (name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
		 holder CHAR(26) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, expires DATETIME(6) NOT NULL, PRIMARY KEY (name))
		 ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci`,
	} {
		if _, err := d.pool.ExecContext(ctx, s); err != nil {
			return judge("make the tables for migrations", err)
		}
	}
	ms, err := load()
	if err != nil {
		return err
	}
	if v, err := d.Schema(ctx); err != nil || v >= len(ms) {
		return err
	}
	holder := rand.Text()
	if err := d.acquire(ctx, holder); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout)
		defer cancel()
		_, e := d.pool.ExecContext(ctx, "DELETE FROM forum_lease WHERE name = 'migration' AND holder = ?", holder)
		err = errors.Join(err, judge("give the migration lease back", e))
	}()
	have, err := d.Schema(ctx)
	if err != nil {
		return err
	}
	for _, m := range ms[min(have, len(ms)):] {
		for _, s := range m.statements {
			if ok, err := d.take(ctx, holder); err != nil || !ok {
				return errors.Join(fmt.Errorf("migrate to version %d: the lease is lost: %w", m.version, forum.ErrUnavailable), err)
			}
			if _, err := d.pool.ExecContext(ctx, s); err != nil {
				return judge(fmt.Sprintf("migrate to version %d", m.version), err)
			}
		}
		if _, err := d.pool.ExecContext(ctx, "INSERT IGNORE INTO forum_schema (version, applied) VALUES (?, ?)", m.version, time.Now().UTC()); err != nil {
			return judge(fmt.Sprintf("record version %d", m.version), err)
		}
	}
	return nil
}

// acquire waits for the lease. A holder that died loses it after leaseSeconds.
func (d *DB) acquire(ctx context.Context, holder string) error {
	for {
		_, err := d.pool.ExecContext(ctx, `INSERT INTO forum_lease (name, holder, expires)
			VALUES ('migration', ?, DATE_ADD(UTC_TIMESTAMP(6), INTERVAL ? SECOND))`, holder, leaseSeconds)
		switch {
		case err == nil:
			return nil
		case !duplicate(err, "PRIMARY") && !lost(err):
			return judge("take the migration lease", err)
		}
		if ok, err := d.take(ctx, holder); err != nil || ok {
			return err
		}
		if err := wait(ctx, leasePoll); err != nil {
			return judge("wait for the migration lease", err)
		}
	}
}

// take renews the lease that holder has, or takes one that has run out.
func (d *DB) take(ctx context.Context, holder string) (bool, error) {
	r, err := d.pool.ExecContext(ctx, `UPDATE forum_lease SET holder = ?, expires = DATE_ADD(UTC_TIMESTAMP(6), INTERVAL ? SECOND)
		WHERE name = 'migration' AND (holder = ? OR expires < UTC_TIMESTAMP(6))`, holder, leaseSeconds, holder)
	if lost(err) {
		return false, nil
	}
	if err != nil {
		return false, judge("renew the migration lease", err)
	}
	n, err := r.RowsAffected()
	return n == 1, err
}
