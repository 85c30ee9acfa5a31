package store_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
	"github.com/twotier/twotier/services/forum-backend/internal/mariadbtest"
	"github.com/twotier/twotier/services/forum-backend/internal/store"
)

func TestMain(m *testing.M) { mariadbtest.Main(m) }

// open is one more server's view of a database.
func open(t *testing.T, s *mariadbtest.Server, name string) *store.DB {
	t.Helper()
	db, err := store.Open(store.Config{Network: "unix", Address: s.Socket(), Name: name, User: s.User()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func migrated(t *testing.T) *store.DB {
	t.Helper()
	s := mariadbtest.Start(t)
	db := open(t, s, s.Database(t))
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db
}

var admin = forum.Installation{Title: "论坛", Admin: forum.User{Name: "管理员", Email: "admin@example.com", Password: "hash", Admin: true}}

// Tests here are not parallel: one of them stops the server that all share.

func TestMigrateAndInstallFromManyServersAtOnce(t *testing.T) {
	s := mariadbtest.Start(t)
	name := s.Database(t)
	const servers = 6
	errs := make([]error, servers)
	var wg sync.WaitGroup
	for i := range servers {
		db := open(t, s, name)
		wg.Go(func() {
			if errs[i] = db.Migrate(t.Context()); errs[i] != nil {
				return
			}
			in := admin
			in.Admin.Name = fmt.Sprintf("admin%d", i)
			in.Admin.Email = fmt.Sprintf("admin%d@example.com", i)
			errs[i] = db.Install(t.Context(), in)
		})
	}
	wg.Wait()
	installed := 0
	for i, err := range errs {
		if err == nil {
			installed++
		} else if !errors.Is(err, forum.ErrInstalled) {
			t.Errorf("server %d: %v", i, err)
		}
	}
	db := open(t, s, name)
	counts, err := db.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	boards, err := db.Boards(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if installed != 1 || counts.Users != 1 || len(boards) != 1 {
		t.Errorf("got %d installations, %d users, %d boards, want one each", installed, counts.Users, len(boards))
	}
	if v, err := db.Schema(t.Context()); err != nil || v != store.LatestSchema() {
		t.Errorf("schema: got %d %v, want %d", v, err, store.LatestSchema())
	}
	if title, ok, err := db.Title(t.Context()); title != "论坛" || !ok || err != nil {
		t.Errorf("title: got %q %v %v", title, ok, err)
	}
}

func TestMigrateAfterAServerDiedHalfWay(t *testing.T) {
	s := mariadbtest.Start(t)
	name := s.Database(t)
	db := open(t, s, name)
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	// As if it had died after its first statements: a table is missing, no version recorded, the lease left and run out.
	for _, statement := range []string{
		"DROP TABLE " + name + ".forum_post",
		"DELETE FROM " + name + ".forum_schema",
		"INSERT INTO " + name + ".forum_lease VALUES ('migration', 'dead', DATE_SUB(UTC_TIMESTAMP(6), INTERVAL 1 SECOND))",
	} {
		s.Exec(t, statement)
	}
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, err := db.Counts(t.Context()); err != nil || c != (forum.Counts{}) {
		t.Errorf("counts: got %+v %v", c, err)
	}
}

func TestMigrateWaitsForTheLease(t *testing.T) {
	s := mariadbtest.Start(t)
	name := s.Database(t)
	db := open(t, s, name)
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Exec(t, "DELETE FROM "+name+".forum_schema")
	s.Exec(t, "INSERT INTO "+name+".forum_lease VALUES ('migration', 'alive', DATE_ADD(UTC_TIMESTAMP(6), INTERVAL 1 HOUR))")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := db.Migrate(ctx); !errors.Is(err, forum.ErrUnavailable) {
		t.Errorf("another server holds the lease: got %v, want ErrUnavailable", err)
	}
	if v, err := db.Schema(t.Context()); err != nil || v != 0 {
		t.Errorf("schema: got %d %v, want 0", v, err)
	}
}

func TestForum(t *testing.T) {
	db, ctx := migrated(t), t.Context()
	if err := db.Install(ctx, admin); err != nil {
		t.Fatal(err)
	}
	if err := db.Install(ctx, admin); !errors.Is(err, forum.ErrInstalled) {
		t.Errorf("install again: got %v, want ErrInstalled", err)
	}
	alice, err := db.CreateUser(ctx, forum.User{Name: "alice", Email: "alice@example.com", Password: "h"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, email string
		want        error
	}{{"ALICE", "other@example.com", forum.ErrNameTaken}, {"bob", "Alice@example.com", forum.ErrEmailTaken}} {
		if _, err := db.CreateUser(ctx, forum.User{Name: c.name, Email: c.email}); !errors.Is(err, c.want) {
			t.Errorf("create %s %s: got %v, want %v", c.name, c.email, err, c.want)
		}
	}
	if err := db.RevokeSessions(ctx, alice); err != nil {
		t.Fatal(err)
	}
	if u, err := db.UserByName(ctx, "Alice"); err != nil || u.ID != alice || u.Epoch != 1 {
		t.Errorf("alice: got %+v %v", u, err)
	}
	boards, err := db.Boards(ctx)
	if err != nil || len(boards) != 1 {
		t.Fatalf("boards: got %v %v, want the default one", boards, err)
	}
	body := "第一行\n👍🏽 <script>alert(1)</script> ' \" \\ %"
	file := forum.Attachment{Name: "图.png", File: forum.File{Path: "attachment/forum/202601/02/0304050123456789abcdef.png", Size: 3, SHA256: [32]byte{1, 31: 9}, Type: "image/png"}}
	thread, err := db.CreateThread(ctx, boards[0].ID, alice, "负载均衡", body, []forum.Attachment{file})
	if err != nil {
		t.Fatal(err)
	}
	for n := 2; n <= 12; n++ {
		if got, err := db.CreateReply(ctx, thread, alice, fmt.Sprintf("reply %d", n), nil); err != nil || got != n {
			t.Fatalf("reply: got number %d, %v, want %d", got, err, n)
		}
	}
	second, err := db.CreateThread(ctx, boards[0].ID, alice, "newer", "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	th, err := db.Thread(ctx, thread)
	if err != nil || th.Title != "负载均衡" || th.Replies != 11 || th.Author != "alice" || th.BoardName != "General" {
		t.Errorf("thread: got %+v %v", th, err)
	}
	posts, err := db.Posts(ctx, thread, forum.NewPage(1, 10, 12))
	if err != nil || len(posts) != 10 || posts[0].Body != body || posts[9].Body != "reply 10" || posts[9].Number != 10 {
		t.Fatalf("page 1: got %d posts, %+v, %v", len(posts), posts, err)
	}
	if got := posts[0].Attachments; len(got) != 1 || got[0].Name != file.Name || got[0].File != file.File {
		t.Errorf("attachments: got %+v, want %+v", got, file)
	} else if a, err := db.Attachment(ctx, got[0].ID); err != nil || !reflect.DeepEqual(a, got[0]) {
		t.Errorf("attachment: got %+v %v, want %+v", a, err, got[0])
	}
	if posts, err := db.Posts(ctx, thread, forum.NewPage(2, 10, 12)); err != nil || len(posts) != 2 || posts[1].Number != 12 {
		t.Errorf("page 2: got %+v %v", posts, err)
	}
	if _, err := db.CreateReply(ctx, thread, alice, "bump", nil); err != nil {
		t.Fatal(err)
	}
	newest, err := db.NewestThreads(ctx, 5)
	if err != nil || len(newest) != 2 || newest[0].ID != thread || newest[1].ID != second {
		t.Errorf("newest: got %+v %v, want the one with the newest post first", newest, err)
	}
	if ts, err := db.Threads(ctx, boards[0].ID, forum.NewPage(1, 20, 2)); err != nil || !reflect.DeepEqual(ts, newest) {
		t.Errorf("threads: got %+v %v, want %+v", ts, err, newest)
	}
	if c, err := db.Counts(ctx); err != nil || c != (forum.Counts{Users: 2, Threads: 2, Posts: 14, Attachments: 1}) {
		t.Errorf("counts: got %+v %v", c, err)
	}
	for name, err := range map[string]error{
		"user":   second1(db.User(ctx, 1)),
		"board":  second1(db.Board(ctx, 1)),
		"thread": second1(db.Thread(ctx, 1)),
		"file":   second1(db.Attachment(ctx, 1)),
		"post":   second1(db.CreateThread(ctx, 1, alice, "x", "y", nil)),
		"reply":  second1(db.CreateReply(ctx, 1, alice, "x", nil)),
	} {
		if !errors.Is(err, forum.ErrNotFound) {
			t.Errorf("%s that is not there: got %v, want ErrNotFound", name, err)
		}
	}
}

func second1[T any](_ T, err error) error { return err }

func TestRepliesFromTwoServersAtOnce(t *testing.T) {
	s := mariadbtest.Start(t)
	name := s.Database(t)
	servers := []*store.DB{open(t, s, name), open(t, s, name)}
	ctx := t.Context()
	if err := servers[0].Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := servers[0].Install(ctx, admin); err != nil {
		t.Fatal(err)
	}
	boards, err := servers[0].Boards(ctx)
	if err != nil {
		t.Fatal(err)
	}
	thread, err := servers[0].CreateThread(ctx, boards[0].ID, 1, "t", "b", nil)
	if err != nil {
		t.Fatal(err)
	}
	const each = 20
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for range each {
				if _, err := servers[i%2].CreateReply(ctx, thread, 1, "r", nil); err != nil {
					t.Errorf("reply: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if c, err := servers[0].Counts(ctx); err != nil || c.Posts != 6*each+1 {
		t.Errorf("got %d posts %v, want %d", c.Posts, err, 6*each+1)
	}
}

func TestDatabaseStopsAndStartsAgain(t *testing.T) {
	s := mariadbtest.Start(t)
	db := open(t, s, s.Database(t))
	if err := db.SelectOne(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Stop(t)
	if err := db.SelectOne(t.Context()); !errors.Is(err, forum.ErrUnavailable) {
		t.Errorf("stopped: got %v, want ErrUnavailable", err)
	}
	// A pool that is opened while the database is away is none the worse for it.
	late := open(t, s, "mysql")
	if err := late.Migrate(t.Context()); !errors.Is(err, forum.ErrUnavailable) {
		t.Errorf("migrate while it is stopped: got %v, want ErrUnavailable", err)
	}
	mariadbtest.Start(t)
	for _, db := range []*store.DB{db, late} {
		if err := db.SelectOne(t.Context()); err != nil {
			t.Errorf("started again: %v", err)
		}
	}
	if v, err := db.Version(t.Context()); err != nil || !strings.Contains(v, "MariaDB") {
		t.Errorf("version: got %q %v", v, err)
	}
}

func TestNoTablesYet(t *testing.T) {
	s := mariadbtest.Start(t)
	db := open(t, s, s.Database(t))
	if v, err := db.Schema(t.Context()); v != 0 || err != nil {
		t.Errorf("schema: got %d %v, want 0", v, err)
	}
	if _, installed, err := db.Title(t.Context()); installed || err != nil {
		t.Errorf("title: got installed %v %v", installed, err)
	}
	if _, err := db.Boards(t.Context()); !errors.Is(err, forum.ErrUnavailable) {
		t.Errorf("boards: got %v, want ErrUnavailable", err)
	}
	if db := open(t, s, "nosuchdatabase"); !errors.Is(db.SelectOne(t.Context()), forum.ErrUnavailable) {
		t.Error("no such database: want ErrUnavailable")
	}
}

func TestSetupNonceIsOne(t *testing.T) {
	s := mariadbtest.Start(t)
	name := s.Database(t)
	a, b := open(t, s, name), open(t, s, name)
	if err := a.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	first, err1 := a.SetupNonce(t.Context())
	second, err2 := b.SetupNonce(t.Context())
	if err1 != nil || err2 != nil || first == "" || first != second {
		t.Errorf("got %q %v and %q %v, want the same on both servers", first, err1, second, err2)
	}
}
