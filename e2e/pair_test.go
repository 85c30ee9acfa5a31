package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twotier/twotier/e2e/lab"
	directorv1 "github.com/twotier/twotier/proto/director/v1"
	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
)

// director is one of the pair.
type director struct{ machine, api, agent string }

var pair = []director{
	{"lvs", lab.DirectorAPI, lab.DirectorAgentAPI},
	{"lvs2", lab.Director2API, lab.DirectorAgent2API},
}

// programs are the compose services of the director.
func (d director) programs() []string {
	return []string{d.machine + "-ipvs-director", d.machine + "-vrrp-agent"}
}

// states are the states of the agent's instances of the pair, outside and inside.
func (d director) states(t testing.TB) ([]vrrpv1.State, error) {
	t.Helper()
	res, err := vrrpv1.NewAgentClient(lab.API(t, d.agent, "viewer")).ListInstances(call(t), &vrrpv1.ListInstancesRequest{})
	var states []vrrpv1.State
	for _, i := range res.GetInstances() {
		states = append(states, i.GetState())
	}
	return states, err
}

// reason is why the agent's instances are in their states.
func (d director) reason(t testing.TB) string {
	t.Helper()
	res, err := vrrpv1.NewAgentClient(lab.API(t, d.agent, "viewer")).ListInstances(call(t), &vrrpv1.ListInstancesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, i := range res.GetInstances() {
		reasons = append(reasons, i.GetReason())
	}
	return strings.Join(reasons, "; ")
}

// active waits until one director holds VIP and gateway and the other one neither, and stands by.
func active(t testing.TB) (holds, standsBy director) {
	t.Helper()
	lab.Within(t, promise, "one director holds VIP and gateway, the other one stands by", func() error {
		var held []int
		for n, d := range pair {
			addresses := lab.On(t, d.machine).Addresses(t)
			vip, gateway := slices.Contains(addresses, lab.VIP), slices.Contains(addresses, lab.Gateway)
			if vip != gateway {
				return fmt.Errorf("%s has the VIP: %v, the gateway: %v", d.machine, vip, gateway)
			}
			if vip {
				held = append(held, n)
			}
		}
		if len(held) != 1 {
			return fmt.Errorf("%d directors hold them", len(held))
		}
		holds, standsBy = pair[held[0]], pair[1-held[0]]
		states, err := standsBy.states(t)
		if want := []vrrpv1.State{vrrpv1.State_STATE_BACKUP, vrrpv1.State_STATE_BACKUP}; err == nil && !slices.Equal(states, want) {
			err = fmt.Errorf("%s is %v, want %v", standsBy.machine, states, want)
		}
		return err
	})
	return holds, standsBy
}

// movesTo waits until a director has VIP and gateway. The other one may not be back.
func movesTo(t testing.TB, d director) {
	t.Helper()
	lab.Within(t, promise, "VIP and gateway are on "+d.machine, func() error {
		addresses := lab.On(t, d.machine).Addresses(t)
		if !slices.Contains(addresses, lab.VIP) || !slices.Contains(addresses, lab.Gateway) {
			return fmt.Errorf("it has %v", addresses)
		}
		return nil
	})
}

// handOver asks the agent of a director to give VIP and gateway to the other one: a word about one of them moves both.
func handOver(t testing.TB, from, to director) {
	t.Helper()
	res, err := vrrpv1.NewAgentAdminClient(lab.API(t, from.agent, "admin")).Handover(call(t), &vrrpv1.HandoverRequest{Instance: "director-outside"})
	if err != nil || res.GetNode() != to.machine {
		t.Fatalf("handover from %s: %v, %v; want it to %s", from.machine, res, err, to.machine)
	}
	if holds, _ := active(t); holds != to {
		t.Fatalf("after the handover %s holds VIP and gateway, want %s", holds.machine, to.machine)
	}
}

// reader is a user who is logged in and turns pages without a pause to speak of, over one connection.
type reader struct {
	browser *lab.Browser
	name    string
	pages   atomic.Int64
	wrong   []string // pages that were not there, or had lost the login
	longest time.Duration
}

func (r *reader) read(ctx context.Context) {
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for ctx.Err() == nil {
		start := time.Now()
		page, err := r.browser.Try("/")
		r.longest = max(r.longest, time.Since(start))
		switch {
		case err != nil:
			r.wrong = append(r.wrong, err.Error())
		case page.Status != http.StatusOK:
			r.wrong = append(r.wrong, fmt.Sprintf("status %d", page.Status))
		case !page.Has("Logged in as " + r.name):
			r.wrong = append(r.wrong, "not logged in any more")
		}
		r.pages.Add(1)
		<-pause.C
	}
}

// trickle reads a body slowly until it is let go, and compares it with what it has to be.
type trickle struct {
	body  io.ReadCloser
	want  []byte
	read  atomic.Int64
	fast  chan struct{} // closed: read on without pauses
	over  chan struct{} // closed at the end
	wrong error         // set before over is closed
}

// slowly is how much of a download is read at a time, twenty times a second: 1.25 MiB/s.
const slowly = 64 << 10

func (d *trickle) run() {
	defer close(d.over)
	defer d.body.Close()
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	got := make([]byte, slowly)
	for at := 0; ; {
		n, err := io.ReadFull(d.body, got)
		if at+n > len(d.want) || !bytes.Equal(got[:n], d.want[at:at+n]) {
			d.wrong = fmt.Errorf("bytes %d to %d are not those that were uploaded", at, at+n)
			return
		}
		at += n
		d.read.Store(int64(at))
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			if at != len(d.want) {
				d.wrong = fmt.Errorf("it ended after %d of %d bytes", at, len(d.want))
			}
			return
		case err != nil:
			d.wrong = fmt.Errorf("after %d of %d bytes: %w", at, len(d.want), err)
			return
		}
		select {
		case <-pause.C:
		case <-d.fast:
		}
	}
}

// The director that holds the addresses loses its links, is handed back to, is killed with its agent and handed back to
// once more. Logged-in users turn pages over connections that are open all the while, and a download goes on through both
// tiers: no page is missing, no login lost, no connection broken, no byte wrong.
func TestDirectorsTakeOver(t *testing.T) {
	first, second := active(t)
	author, _ := member(t)
	content := make([]byte, 56<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(content) // it cannot fail
	page := author.Upload(t, board(t, author)+"/threads", unique(t, "large")+".bin", content, "title", unique(t, "large "), "body", "a large file")
	if page.Status != http.StatusOK {
		t.Fatalf("upload: status %d: %s", page.Status, page.Body)
	}
	link := page.Link(t, `/attachments/[0-9]+/[^"]*`)

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	res, err := public(t).Stream(ctx, link)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("download: %v, %+v", err, res)
	}
	download := &trickle{body: res.Body, want: content, fast: make(chan struct{}), over: make(chan struct{})}
	go download.run()

	reading, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	var readers []*reader
	for range 10 {
		b, name := member(t)
		b.KeepAlive()
		r := &reader{browser: b, name: name}
		readers = append(readers, r)
		group.Go(func() { r.read(reading) })
	}
	// goesOn waits until everybody has come further than they are now.
	goesOn := func(after string) {
		t.Helper()
		bytes, pages := download.read.Load(), make([]int64, len(readers))
		for n, r := range readers {
			pages[n] = r.pages.Load()
		}
		lab.Within(t, promise, "all goes on after "+after, func() error {
			if got := download.read.Load(); got < bytes+8*slowly {
				return fmt.Errorf("the download is at %d bytes and was at %d", got, bytes)
			}
			for n, r := range readers {
				if got := r.pages.Load(); got < pages[n]+3 {
					return fmt.Errorf("%s has read %d pages and had %d", r.name, got, pages[n])
				}
			}
			return nil
		})
	}
	goesOn("the beginning")

	plug := lab.On(t, first.machine).Cut(t)
	movesTo(t, second)
	if reason := second.reason(t); !strings.Contains(reason, "no advert") {
		t.Errorf("%s has taken over because of %q, want it to have heard no word", second.machine, reason)
	}
	goesOn("the links were cut")
	plug()
	if holds, _ := active(t); holds != second {
		t.Errorf("%s took the addresses back by itself", holds.machine)
	}
	handOver(t, second, first)
	goesOn("the handover back")

	t.Run("killed", func(t *testing.T) {
		t.Cleanup(func() {
			for _, program := range first.programs() {
				lab.Start(t, program)
			}
		})
		lab.KillTogether(t, first.programs()...)
		movesTo(t, second)
		goesOn("director and agent were killed")
	})
	if holds, _ := active(t); holds != second {
		t.Errorf("%s took the addresses back by itself", holds.machine)
	}
	handOver(t, second, first)
	goesOn("the second handover back")

	if got := download.read.Load(); got > int64(len(content))*3/4 {
		t.Errorf("%d of %d bytes were read already; the story needs a larger file", got, len(content))
	}
	close(download.fast)
	<-download.over
	if download.wrong != nil {
		t.Errorf("the download: %v", download.wrong)
	}
	stop()
	group.Wait()
	var pages int64
	var longest time.Duration
	for _, r := range readers {
		if len(r.wrong) > 0 {
			t.Errorf("%s: %d pages went wrong: %s", r.name, len(r.wrong), strings.Join(r.wrong, "; "))
		}
		if n := r.browser.Dials(); n != 1 {
			t.Errorf("%s needed %d connections, want the one from before", r.name, n)
		}
		pages += r.pages.Load()
		longest = max(longest, r.longest)
	}
	t.Logf("%d pages of %d users, the slowest took %v", pages, len(readers), longest.Round(time.Millisecond))
}

// agentIs waits until the agent's two instances of a director are in a state, for a reason that says so.
func agentIs(t testing.TB, d director, want vrrpv1.State, why string) {
	t.Helper()
	lab.Within(t, promise, fmt.Sprintf("the agent of %s is %v", d.machine, want), func() error {
		states, err := d.states(t)
		if reason := d.reason(t); err == nil && (!slices.Equal(states, []vrrpv1.State{want, want}) || !strings.Contains(reason, why)) {
			err = fmt.Errorf("it is %v: %s", states, reason)
		}
		return err
	})
}

// The processes of the directors are killed, one after the other. The first one's death moves VIP and gateway to the other; that one's
// moves nothing, because its kernel still has the rules: users go on turning pages, new ones are let in. Who has no
// rules, because nobody vouches for them, does not stand for election even then.
func TestDirectorsAreBothDead(t *testing.T) {
	first, second := active(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, name := member(t)
	b.KeepAlive()
	r := &reader{browser: b, name: name}
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	group.Go(func() { r.read(ctx) })
	t.Cleanup(func() {
		for _, d := range pair {
			lab.Start(t, d.machine+"-ipvs-director")
		}
		active(t)
	})
	goesOn := func(after string) {
		t.Helper()
		before := r.pages.Load()
		lab.Within(t, promise, "a user reads on after "+after, func() error {
			if got := r.pages.Load(); got < before+10 {
				return fmt.Errorf("%d pages, %d before", got, before)
			}
			return nil
		})
	}
	goesOn("the beginning")

	lab.Kill(t, first.machine+"-ipvs-director")
	movesTo(t, second)
	agentIs(t, first, vrrpv1.State_STATE_FAULT, "tracker director")
	goesOn("the first director was killed")
	lab.Kill(t, second.machine+"-ipvs-director")
	agentIs(t, first, vrrpv1.State_STATE_BACKUP, "") // nobody is better off any more: it would do again
	goesOn("both were killed")
	if holds, _ := active(t); holds != second {
		t.Errorf("%s has the addresses, which %s had when the second director died", holds.machine, second.machine)
	}
	for range 20 {
		if page := public(t).Get(t, "/"); page.Status != http.StatusOK {
			t.Fatalf("a new user is answered %d", page.Status)
		}
	}

	file := filepath.Join(lab.Root(t), "deploy/lab/state", first.machine+"-ipvs-director", "run/rules")
	if err := os.WriteFile(file, []byte("of another namespace\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	agentIs(t, first, vrrpv1.State_STATE_FAULT, "tracker rules")
	goesOn("the first machine lost its rules")

	lab.Start(t, first.machine+"-ipvs-director")
	movesTo(t, first)
	goesOn("the first director came back")
	cancel()
	group.Wait()
	if len(r.wrong) > 0 {
		t.Errorf("%d pages went wrong: %s", len(r.wrong), strings.Join(r.wrong, "; "))
	}
	if n := b.Dials(); n != 1 {
		t.Errorf("%d connections were needed, want the one from before", n)
	}
	t.Logf("%d pages, the slowest took %v", r.pages.Load(), r.longest.Round(time.Millisecond))
}

// examine asks a director what is wrong around it, and returns the codes of what it finds.
func examine(t testing.TB, d director) ([]string, error) {
	t.Helper()
	res, err := directorv1.NewDirectorClient(lab.API(t, d.api, "viewer")).Examine(call(t), &directorv1.ExamineRequest{})
	var codes []string
	for _, f := range res.GetFindings() {
		codes = append(codes, f.GetCode())
	}
	return codes, err
}

// finds waits until both directors find just this.
func finds(t testing.TB, want map[director][]string) {
	t.Helper()
	for _, d := range pair {
		lab.Within(t, promise, fmt.Sprintf("%s finds %q", d.machine, want[d]), func() error {
			got, err := examine(t, d)
			if err == nil && !slices.Equal(got, want[d]) {
				err = fmt.Errorf("it finds %q", got)
			}
			return err
		})
	}
}

// Nothing is wrong around the directors of the lab, and they say nothing. What is made wrong, they name.
func TestDoctorOfTheLab(t *testing.T) {
	holds, standsBy := active(t)
	finds(t, nil)
	const setting = "net.netfilter.nf_conntrack_tcp_be_liberal="
	t.Run("one believes its old entries", func(t *testing.T) {
		m := lab.On(t, standsBy.machine)
		m.Network(t, "sysctl", "-qw", setting+"0")
		t.Cleanup(func() { m.Network(t, "sysctl", "-qw", setting+"1") })
		finds(t, map[director][]string{standsBy: {"be_liberal"}})
	})
	t.Run("somebody else has the VIP", func(t *testing.T) {
		id := strings.TrimSpace(lab.Run(t, "docker", "run", "-d", "--rm", "--init", "--network", "twotier_public", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN",
			"twotier/machine:lab", "sh", "-c", "ip addr add "+lab.VIP+"/32 dev eth0 && exec sleep infinity"))
		t.Cleanup(func() { lab.Run(t, "docker", "rm", "-f", id) })
		finds(t, map[director][]string{holds: {"duplicate_vip"}})
	})
	finds(t, nil)
}
