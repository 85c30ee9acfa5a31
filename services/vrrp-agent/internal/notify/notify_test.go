package notify

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/twotier/twotier/services/internal/testreq"
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

// receiver starts a real SMTP server, which keeps what it gets in a folder (maildir).
func receiver(t *testing.T) (address, folder string) {
	t.Helper()
	program, err := exec.LookPath("aiosmtpd")
	if err != nil {
		testreq.Missing(t, "aiosmtpd (python3-aiosmtpd)")
	}
	pid := os.Getpid() // of the addresses of loopback one that no other run of this test has
	address, folder = fmt.Sprintf("127.25.%d.%d:2525", pid>>8&0xff, pid&0xff), filepath.Join(t.TempDir(), "mail")
	c := exec.Command(program, "--nosetuid", "--listen", address, "--class", "aiosmtpd.handlers.Mailbox", folder)
	var output strings.Builder
	c.Stdout, c.Stderr = &output, &output
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill() // it has no other end
		if _ = c.Wait(); t.Failed() {
			t.Log(output.String())
		}
	})
	return address, folder
}

// eventually waits until done has no objection any more; it asks again each 20 ms, because other programs tell of nothing.
func eventually(t *testing.T, what string, done func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond) // in the time of the other program
	}
}

// TestMail: each change is a mail, with the tutorial's sender and receiver.
func TestMail(t *testing.T) {
	t.Parallel()
	server, folder := receiver(t)
	eventually(t, "the server starts", func() error {
		conn, err := net.Dial("tcp", server)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	n := New("haproxy", zaptest.NewLogger(t))
	l := spec.Local{
		Name: "VI_1", Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.78")},
		Mail: spec.Mail{From: "kaadmin@9527du.com", To: []string{"root@localhost"}, Server: server, Timeout: time.Minute},
	}
	at := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for _, to := range []fsm.State{fsm.Backup, fsm.Master} {
		n.Tell(l, plan.Transition{At: at, From: fsm.Initialize, To: to, Reason: "no advert for 90ms", Priority: 105, Master: netip.MustParseAddr("192.168.60.128"),
			Adverts:  []plan.Advert{{At: at, From: netip.MustParseAddr("192.168.60.128"), Priority: 99}},
			Trackers: []plan.Finding{{Tracker: "router", Well: true, Since: at}, {Tracker: "disk", Why: "full", Since: at}, {Tracker: "new"}}})
	}
	mails := map[string]string{} // by the state that they tell of
	eventually(t, "the mails", func() error {
		files, err := filepath.Glob(filepath.Join(folder, "new", "*"))
		if err != nil || len(files) != 2 {
			return fmt.Errorf("%d mails, %v", len(files), err)
		}
		for _, file := range files {
			mail, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			_, subject, _ := strings.Cut(string(mail), "Subject: [haproxy] VRRP instance VI_1 is ")
			state, _, _ := strings.Cut(subject, "\n")
			mails[strings.TrimSpace(state)] = string(mail)
		}
		return nil
	})
	for _, to := range []string{"BACKUP", "MASTER"} {
		for _, want := range []string{
			"X-MailFrom: kaadmin@9527du.com", "X-RcptTo: root@localhost", "192.168.60.78",
			"Why: no advert for 90ms", "Master that was heard last: 192.168.60.128",
			"Advert: at 2026-11-26T12:00:00Z from 192.168.60.128 with priority 99", "Tracker router: well since 2026-11-26T12:00:00Z",
			"Tracker disk: failed since 2026-11-26T12:00:00Z: full", "Tracker new: has not answered yet",
		} {
			if !strings.Contains(mails[to], want) {
				t.Errorf("%s: no %q in %v", to, want, mails)
			}
		}
	}
	n.Close()
	if err := n.Run(); err != nil {
		t.Fatal(err)
	}
}
