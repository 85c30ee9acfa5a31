package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/twotier/twotier/e2e/lab"
)

const styles = "/static/style.css"

// The tutorial's opening example: requests for what does not change go to a server of their own, server1, pages to both,
// and a POST to the server for uploads, whatever its path. Server1 stopped: server2 stands in for it; started, it is back.
func TestStaticFilesHaveTheirOwnServer(t *testing.T) {
	for i := range 20 {
		page := public(t).Get(t, styles)
		if page.ServedBy() != "server1" || len(page.Header.Values("Set-Cookie")) != 0 {
			t.Fatalf("request %d for %s was served by %s with the cookies %q, want server1 without", i+1, styles, page.ServedBy(), page.Header.Values("Set-Cookie"))
		}
	}
	// A visitor that belongs to server2 gets its pages there and its styles from server1.
	client := lab.On(t, "client")
	for range 50 {
		b := client.Browse("http://" + lab.VIP)
		if b.Get(t, "/").ServedBy() != "server2" {
			continue
		}
		if page := b.Get(t, styles); page.ServedBy() != "server1" {
			t.Errorf("a visitor of server2 got its styles from %s, want server1", page.ServedBy())
		}
		if page := b.Get(t, "/"); page.ServedBy() != "server2" {
			t.Errorf("after its styles the visitor was on %s, want server2", page.ServedBy())
		}
		break
	}
	if page := public(t).Post(t, styles, "a", "b"); page.Hops[0] != "server2" {
		t.Errorf("a POST to %s was answered by %s, want server2", styles, page.Hops[0])
	}
	t.Run("server1 stopped", func(t *testing.T) {
		lab.Stop(t, "server1-forum-backend") // started again at the end of this part
		lab.Within(t, promise, "server2 stands in", func() error { return servedBy("server2")(public(t).Try(styles)) })
		for range 10 {
			if err := servedBy("server2")(public(t).Try(styles)); err != nil {
				t.Error(err)
			}
		}
	})
	lab.Within(t, promise, "server1 is back", func() error { return servedBy("server1")(public(t).Try(styles)) })
}

// servedBy is nil for a page that is there and comes from a server.
func servedBy(server string) func(*lab.Page, error) error {
	return func(page *lab.Page, err error) error {
		if err == nil && (page.Status != http.StatusOK || page.ServedBy() != server) {
			err = fmt.Errorf("status %d, served by %s, want %s", page.Status, page.ServedBy(), server)
		}
		return err
	}
}
