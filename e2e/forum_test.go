package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twotier/twotier/e2e/lab"
)

// unique makes a name that no earlier run of the stories has used.
func unique(t testing.TB, prefix string) string {
	t.Helper()
	// The host's clock in nanoseconds, in letters and digits.
	return prefix + strings.TrimSpace(lab.Run(t, "date", "+%s%N"))[6:]
}

// public opens a browser on the client machine.
func public(t testing.TB) *lab.Browser {
	t.Helper()
	return lab.On(t, "client").Browse("http://" + lab.VIP)
}

const password = "correct horse battery"

// member registers a new user and returns its browser, logged in, and its name.
func member(t testing.TB) (*lab.Browser, string) {
	t.Helper()
	b, name := public(t), unique(t, "u")
	page := b.Post(t, "/register", "name", name, "email", name+"@example.org", "password", password)
	if page.Status != 200 {
		t.Fatalf("register %s: status %d: %s", name, page.Status, page.Body)
	}
	loggedIn(t, b, name)
	return b, name
}

// loggedIn asserts that the site knows the browser's user.
func loggedIn(t testing.TB, b *lab.Browser, name string) {
	t.Helper()
	if page := b.Get(t, "/"); !page.Has("Logged in as " + name) {
		t.Fatalf("%s is not logged in on %s", name, page.ServedBy())
	}
}

// board is the address of the first board.
func board(t testing.TB, b *lab.Browser) string {
	t.Helper()
	return b.Get(t, "/").Link(t, `/boards/[0-9]+`)
}

// thread starts a thread without a file and returns the page that shows it.
func thread(t testing.TB, b *lab.Browser, title, body string) *lab.Page {
	t.Helper()
	page := b.Post(t, board(t, b)+"/threads", "title", title, "body", body)
	if page.Status != 200 || !page.Has(title) || !page.Has(body) {
		t.Fatalf("thread %q: status %d, served by %v: %s", title, page.Status, page.Hops, page.Body)
	}
	return page
}

// The forum of step 4 is installed: it opens on server2 and on server1, its tables are there, the administrator can
// log in, and the wizard does not let a second one in.
func TestForumIsInstalledOnBothServers(t *testing.T) {
	haproxy := lab.On(t, "haproxy")
	for node, address := range map[string]string{"server2": "172.16.0.99", "server1": "172.16.0.88"} {
		page := haproxy.Browse("http://"+address).Get(t, "/")
		if page.ServedBy() != node {
			t.Errorf("http://%s/ is served by %q, want %s", address, page.ServedBy(), node)
		}
		page.Link(t, `/boards/[0-9]+`)
	}
	admin := public(t)
	secret := strings.TrimSpace(lab.Run(t, "cat", lab.Root(t)+"/deploy/lab/state/admin/forum-admin.password"))
	admin.Post(t, "/login", "name", "admin", "password", secret)
	loggedIn(t, admin, "admin")

	guess := public(t)
	guess.Post(t, "/login", "name", "admin", "password", "admin")
	if page := guess.Get(t, "/"); page.Has("Logged in as") {
		t.Error("admin can log in with the password admin")
	}
	if page, err := public(t).Try("/install"); err != nil || page.Status == 200 && strings.Contains(page.Body, "<form") && page.Has("license") {
		t.Errorf("the wizard is open on an installed forum: %v, status %d", err, page.Status)
	}
}

// A visitor reads, registers, logs in, posts, replies and reads again, all through the VIP.
func TestVisitorBecomesAuthor(t *testing.T) {
	author, name := member(t)
	title, body := unique(t, "两级负载均衡 "), "第一行\n<b>second line</b> & more"
	page := thread(t, author, title, body)
	address := strings.TrimSuffix(page.Link(t, `/threads/[0-9]+/replies`), "/replies")
	if strings.Contains(page.Body, "<b>second line</b>") {
		t.Error("the page carries the markup of a post as markup")
	}
	reply := unique(t, "reply ")
	reader, other := member(t)
	if page := reader.Post(t, address+"/replies", "body", reply); !page.Has(reply) || !page.Has(other) {
		t.Errorf("the reply does not show: status %d: %s", page.Status, page.Body)
	}
	for range 4 { // from both servers
		if page := public(t).Get(t, address); !page.Has(reply) || !page.Has(name) {
			t.Errorf("a visitor on %s does not see the thread as it is", page.ServedBy())
		}
	}
	author.Post(t, "/logout")
	if page := author.Get(t, "/"); page.Has("Logged in as") {
		t.Error("still logged in after logging out")
	}
	author.Post(t, "/login", "name", name, "password", password)
	loggedIn(t, author, name)
}

// Twenty users register and log in by POST, which goes to one server, and then read pages from whichever server: not
// one of them is logged out in twenty page loads.
func TestTwentyUsersStayLoggedIn(t *testing.T) {
	const users, loads = 20, 20
	seen := map[string]int{}
	lost := 0
	for range users {
		b, name := member(t)
		b.Post(t, "/logout")
		b.Post(t, "/login", "name", name, "password", password)
		for range loads {
			page := b.Get(t, "/")
			seen[page.ServedBy()]++
			if !page.Has("Logged in as " + name) {
				lost++
			}
		}
	}
	if lost != 0 {
		t.Errorf("%d of %d page loads had lost the login", lost, users*loads)
	}
	if seen["server1"] == 0 || seen["server2"] == 0 {
		t.Errorf("pages came from %v; the story needs both servers", seen)
	}
}

// The database page of step 3, on both servers: the truth about the database, before, during and after its absence.
// The forum's process lives through it and needs no help to recover.
func TestDatabasePageTellsTheTruth(t *testing.T) {
	ask := func(b *lab.Browser) string {
		page, err := b.Try("/test.php")
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(page.Body)
	}
	haproxy := lab.On(t, "haproxy")
	doors := map[string]*lab.Browser{
		"server2": haproxy.Browse("http://172.16.0.99"),
		"server1": haproxy.Browse("http://172.16.0.88"),
		"VIP":     public(t),
	}
	all := func(want string) {
		t.Helper()
		for door, b := range doors {
			lab.Within(t, promise, door+" says "+want, func() error {
				if got := ask(b); got != want {
					return fmt.Errorf("it says %q", got)
				}
				return nil
			})
		}
	}
	before := [2]int{lab.Pid(t, "server1-forum-backend"), lab.Pid(t, "server2-forum-backend")}
	all("Success...")
	t.Run("stopped", func(t *testing.T) {
		lab.Stop(t, "dataserver-mariadb") // started again at the end of this part
		all("Failure...")
		if page, err := public(t).Try("/"); err != nil || page.Status != 503 {
			t.Errorf("a page without the database: %v, %+v; want status 503", err, page)
		}
	})
	all("Success...")
	public(t).Get(t, "/")
	if after := [2]int{lab.Pid(t, "server1-forum-backend"), lab.Pid(t, "server2-forum-backend")}; after != before {
		t.Errorf("the forum's processes were %v and are %v: one of them died", before, after)
	}
}
