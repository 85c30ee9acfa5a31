package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twotier/twotier/e2e/lab"
)

// promise is how long a change may take to show where nothing shorter is promised.
const promise = 15 * time.Second

// The checks of step 1: touch, write, move into a folder, remove a tree in /data on server2, each seen in /web on
// server1.
func TestSharedFilesFollow(t *testing.T) {
	server2, server1 := lab.On(t, "server2"), lab.On(t, "server1")
	name := unique(t, "story")
	source, target := "/data/"+name, server1.File("/web/"+name)
	t.Cleanup(func() { server2.Exec(t, "rm", "-rf", source) })

	is := func(path, want string) func() error {
		return func() error {
			got, err := os.ReadFile(filepath.Join(target, path))
			if err == nil && string(got) != want {
				err = fmt.Errorf("%s holds %q, want %q", path, got, want)
			}
			return err
		}
	}
	gone := func(path string) func() error {
		return func() error {
			if _, err := os.Lstat(filepath.Join(target, path)); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s is still there (%v)", path, err)
			}
			return nil
		}
	}
	do := func(script string, checks ...func() error) {
		t.Helper()
		server2.Exec(t, "sh", "-ec", "cd "+source+" && "+script)
		for _, check := range checks {
			lab.Within(t, promise, script, check)
		}
	}
	server2.Exec(t, "mkdir", source)
	do("touch test.txt", is("test.txt", ""))
	do("echo hello > test.txt", is("test.txt", "hello\n"))
	do("echo again >> test.txt", is("test.txt", "hello\nagain\n"))
	do("mkdir folder && mv test.txt folder/", is("folder/test.txt", "hello\nagain\n"), gone("test.txt"))
	do("mkdir -p a/b/c && echo deep > a/b/c/x", is("a/b/c/x", "deep\n"))
	do("mv a z", is("z/b/c/x", "deep\n"), gone("a"))
	do("rm -rf folder z", gone("folder"), gone("z"))
}

// A file uploaded by POST is on the disks of both servers, byte by byte, within a second, and comes back through both.
func TestUploadReachesBothDisks(t *testing.T) {
	author, _ := member(t)
	content := make([]byte, 3<<20)
	if _, err := rand.Read(content); err != nil {
		t.Fatal(err)
	}
	name := unique(t, "upload") + ".bin"
	page := author.Upload(t, board(t, author)+"/threads", name, content, "title", unique(t, "file "), "body", "see the file")
	posted := time.Now()
	if page.Status != 200 {
		t.Fatalf("upload: status %d: %s", page.Status, page.Body)
	}
	link := page.Link(t, `/attachments/[0-9]+/[^"]*`)

	onDisk := func(root string) func() error {
		return func() error {
			return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
				if err != nil || !entry.Type().IsRegular() {
					return err
				}
				if info, err := entry.Info(); err != nil || info.Size() != int64(len(content)) {
					return err
				}
				got, err := os.ReadFile(path)
				if err == nil && bytes.Equal(got, content) {
					return errFound
				}
				return err
			})
		}
	}
	for machine, root := range map[string]string{"server2": "/data/upload", "server1": "/web/upload"} {
		disk := lab.On(t, machine).File(root)
		lab.Within(t, time.Second-time.Since(posted), "the upload is on the disk of "+machine, func() error {
			if err := onDisk(disk)(); !errors.Is(err, errFound) {
				return fmt.Errorf("not there (%v)", err)
			}
			return nil
		})
	}
	seen := map[string]bool{}
	for range 6 {
		page := public(t).Get(t, link)
		seen[page.ServedBy()] = true
		if page.Body != string(content) {
			t.Errorf("%s gives other bytes than were uploaded", page.ServedBy())
		}
	}
	if !seen["server1"] || !seen["server2"] {
		t.Errorf("the file was read from %v, want both servers", seen)
	}
}

// errFound ends a walk that found what it looked for.
var errFound = errors.New("found")

// The database of step 2: one database, one user, from one network; nothing by default.
func TestDatabaseIsClosedToOthers(t *testing.T) {
	secret := lab.Root(t) + "/deploy/lab/state/shared/db.password"
	client := func(network, password, query string) (string, error) {
		return lab.TryRun("docker", "run", "--rm", "--network", network, "-e", "MYSQL_PWD="+password,
			"--entrypoint", "mariadb", "twotier/mariadb:lab", "-h", "172.16.0.44", "-u", "discuz", "--connect-timeout=5", "-N", "-e", query)
	}
	password, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, machine := range []string{"server1", "server2"} {
		network := "container:" + lab.Container(t, machine)
		got, err := client(network, string(password), "SHOW DATABASES")
		if err != nil {
			t.Errorf("%s: %v", machine, err)
		} else if got != "discuz\ninformation_schema\n" && got != "information_schema\ndiscuz\n" {
			t.Errorf("%s sees the databases %q", machine, got)
		}
		if _, err := client(network, "discuz", "SELECT 1"); err == nil {
			t.Errorf("%s can log in with the password discuz", machine)
		}
	}
	// Another address of the same wire, outside 172.16.0.0/24.
	server1 := lab.On(t, "server1")
	server1.Exec(t, "ip", "addr", "add", "172.16.5.5/16", "dev", device(t, server1, "172.16.0.88"))
	t.Cleanup(func() {
		server1.Exec(t, "ip", "addr", "del", "172.16.5.5/16", "dev", device(t, server1, "172.16.0.88"))
	})
	conn, err := server1.DialFrom(t.Context(), "172.16.5.5", "172.16.0.44:3306")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // only read from
	greeting := make([]byte, 256)
	if err := conn.SetReadDeadline(time.Now().Add(promise)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(greeting)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(greeting[:n], []byte("is not allowed to connect")) {
		t.Errorf("the database greets 172.16.5.5 with %q", greeting[:n])
	}
	users := lab.Run(t, "docker", "exec", lab.Container(t, "dataserver-mariadb"), "mariadb", "-N", "-e",
		"SELECT CONCAT(user, '@', host) FROM mysql.user ORDER BY 1")
	if want := "discuz@172.16.0.%\nmariadb.sys@localhost\nmysql@localhost\nroot@localhost\n"; users != want {
		t.Errorf("users of the database:\n%swant:\n%s", users, want)
	}
}

// device is the network card with an address.
func device(t testing.TB, m *lab.Machine, address string) string {
	t.Helper()
	out := m.Exec(t, "sh", "-c", `ip -4 -o addr show | awk -v a="`+address+`" '{split($4, p, "/"); if (p[1] == a) print $2}'`)
	if out == "" {
		t.Fatalf("%s has no address %s", m.Name, address)
	}
	return out[:len(out)-1]
}
