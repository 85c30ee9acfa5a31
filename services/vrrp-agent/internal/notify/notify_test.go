package notify

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// TestHooks tells of many changes at once: the program sees all of them, in order, and never runs beside itself.
func TestHooks(t *testing.T) {
	t.Parallel()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "told")
	command := "/bin/sh\x00-c\x00" + `echo begin >>"$0"; echo "$@" >>"$0"` + "\x00" + file + "\x00"
	n := New("haproxy", zaptest.NewLogger(t))
	var want strings.Builder
	for k := range 20 {
		to := []fsm.State{fsm.Master, fsm.Backup, fsm.Fault, fsm.Initialize}[k%4]
		hooks := []spec.Hook{{Command: command, User: me.Username, State: spec.StateFault}, {Command: command, User: me.Username}}
		n.Tell(spec.Local{Name: "VI_1", Hooks: hooks}, plan.Transition{To: to, Priority: uint8(100 + k)})
		if to == fsm.Fault {
			want.WriteString("begin\n\n") // of this state only, and without keepalived's arguments
		}
		fmt.Fprintf(&want, "begin\nINSTANCE VI_1 %s %d\n", states[to], 100+k)
	}
	n.Close()
	if err := n.Run(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != want.String() {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, want.String())
	}
	n.Tell(spec.Local{Name: "VI_1", Hooks: []spec.Hook{{Command: command, User: me.Username}}}, plan.Transition{}) // too late
}

// receiver is an SMTP server (RFC 5321) that keeps what it gets.
func receiver(t *testing.T, mails chan<- string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mails <- converse(conn)
		}
	}()
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return listener.Addr().String()
}

func converse(conn net.Conn) string {
	defer func() { _ = conn.Close() }() // the other side has what it needs
	say := func(line string) { _, _ = fmt.Fprintf(conn, "%s\r\n", line) }
	got := ""
	lines := bufio.NewScanner(conn)
	say("220 mail.9527du.com ESMTP")
	for lines.Scan() {
		line := lines.Text()
		got += line + "\n"
		switch verb := strings.ToUpper(strings.Fields(line + " .")[0]); verb {
		case "DATA":
			say("354 go on")
			for lines.Scan() && lines.Text() != "." {
				got += lines.Text() + "\n"
			}
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return got
		default:
			say("250 well")
		}
	}
	return got
}

// TestMail: each change is a mail, with the tutorial's sender and receiver.
func TestMail(t *testing.T) {
	t.Parallel()
	mails := make(chan string, 8)
	n := New("haproxy", zaptest.NewLogger(t))
	l := spec.Local{
		Name: "VI_1", Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.78")},
		Mail: spec.Mail{From: "kaadmin@9527du.com", To: []string{"root@localhost"}, Server: receiver(t, mails), Timeout: time.Minute},
	}
	at := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for _, to := range []fsm.State{fsm.Backup, fsm.Master} {
		n.Tell(l, plan.Transition{At: at, From: fsm.Initialize, To: to, Reason: "no advert for 90ms", Priority: 105, Master: netip.MustParseAddr("192.168.60.128"),
			Adverts:  []plan.Advert{{At: at, From: netip.MustParseAddr("192.168.60.128"), Priority: 99}},
			Trackers: []plan.Finding{{Tracker: "router", Well: true, Since: at}, {Tracker: "disk", Why: "full", Since: at}, {Tracker: "new"}}})
	}
	for _, to := range []string{"BACKUP", "MASTER"} {
		got := <-mails
		for _, want := range []string{
			"MAIL FROM:<kaadmin@9527du.com>", "RCPT TO:<root@localhost>", "Subject: [haproxy] VRRP instance VI_1 is " + to, "192.168.60.78",
			"Why: no advert for 90ms", "Master that was heard last: 192.168.60.128",
			"Advert: at 2026-11-26T12:00:00Z from 192.168.60.128 with priority 99", "Tracker router: well since 2026-11-26T12:00:00Z",
			"Tracker disk: failed since 2026-11-26T12:00:00Z: full", "Tracker new: has not answered yet",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
	}
	n.Close()
	if err := n.Run(); err != nil {
		t.Fatal(err)
	}
}
