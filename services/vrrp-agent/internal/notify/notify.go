// Package notify answers: who is told that the state of an instance has changed?
//
// Programs and mail, each instance for itself, one change after the other: a program that is slow delays what comes
// behind it, and never runs beside itself. What cannot be told in time is left out, the oldest first, and counted.
package notify

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/wneessen/go-mail"
	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/internal/program"
	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

const (
	// waitMost bounds the changes of one instance that wait to be told.
	waitMost = 64
	// hookMost is how long a program may take (keepalived: none).
	hookMost = 30 * time.Second
	// leaveMost is how long what still waits is told after the last change, when the agent ends.
	leaveMost = 10 * time.Second
)

// news is a change of an instance.
type news struct {
	local spec.Local
	plan.Transition
}

// Notifier tells. Tell may be called by any goroutine.
type Notifier struct {
	node string
	log  *zap.Logger

	mu      sync.Mutex // protects what follows
	waiting map[string][]news
	busy    map[string]bool
	closed  bool
	work    sync.WaitGroup

	end    context.Context // of the last programs and mails
	cancel context.CancelFunc
	done   chan struct{}
}

// New makes a notifier. Run it.
func New(node string, log *zap.Logger) *Notifier {
	end, cancel := context.WithCancel(context.Background())
	return &Notifier{
		node: node, log: log.Named("notify"), waiting: map[string][]news{}, busy: map[string]bool{}, end: end, cancel: cancel,
		done: make(chan struct{}),
	}
}

// Tell notes a change. It does not wait.
func (n *Notifier) Tell(l spec.Local, t plan.Transition) {
	if len(l.Hooks) == 0 && l.Mail.Server == "" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	w := append(n.waiting[l.Name], news{l, t})
	if len(w) > waitMost {
		n.log.Warn("a change of state was not told: too many wait", logging.Instance(l.Name))
		w = w[1:]
	}
	n.waiting[l.Name] = w
	if !n.busy[l.Name] {
		n.busy[l.Name] = true
		n.work.Go(func() { n.serve(l.Name) })
	}
}

// serve tells what waits for an instance until nothing does.
func (n *Notifier) serve(name string) {
	for {
		n.mu.Lock()
		if len(n.waiting[name]) == 0 {
			delete(n.waiting, name)
			delete(n.busy, name)
			n.mu.Unlock()
			return
		}
		next := n.waiting[name][0]
		n.waiting[name] = n.waiting[name][1:]
		n.mu.Unlock()
		n.tell(next)
	}
}

// states are the names that keepalived gives its programs.
var states = map[fsm.State]string{
	fsm.Master: spec.StateMaster, fsm.Backup: spec.StateBackup, fsm.Fault: spec.StateFault, fsm.Initialize: spec.StateStop,
}

func (n *Notifier) tell(x news) {
	for _, h := range x.local.Hooks {
		argv := h.Arguments()
		if h.State == "" {
			argv = append(argv, "INSTANCE", x.local.Name, states[x.To], strconv.Itoa(int(x.Priority)))
		} else if h.State != states[x.To] {
			continue
		}
		ctx, cancel := context.WithTimeout(n.end, hookMost)
		if err := program.Run(ctx, argv, h.User); err != nil {
			n.log.Warn("a program was not told of a change", logging.Instance(x.local.Name), zap.Error(err))
		}
		cancel()
	}
	if x.local.Mail.Server != "" {
		if err := n.mail(x); err != nil {
			n.log.Warn("a mail was not sent", logging.Instance(x.local.Name), logging.Address(x.local.Mail.Server), zap.Error(err))
		}
	}
}

// mail sends one.
func (n *Notifier) mail(x news) error {
	m := x.local.Mail
	host, text, err := net.SplitHostPort(m.Server)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	message := mail.NewMsg()
	if err := message.From(m.From); err != nil {
		return err
	}
	if err := message.To(m.To...); err != nil {
		return err
	}
	message.Subject(fmt.Sprintf("[%s] VRRP instance %s is %s", n.node, x.local.Name, states[x.To]))
	message.SetDateWithValue(x.At)
	message.SetBodyString(mail.TypeTextPlain, body(n.node, x))
	client, err := mail.NewClient(host, mail.WithPort(port), mail.WithTimeout(m.Timeout), mail.WithTLSPolicy(mail.TLSOpportunistic),
		mail.WithHELO(n.node))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(n.end, m.Timeout)
	defer cancel()
	return client.DialAndSendWithContext(ctx, message)
}

func body(node string, x news) string {
	var addresses []string
	for _, a := range x.local.Addresses {
		addresses = append(addresses, a.String())
	}
	text := fmt.Sprintf("Instance %s (%s) on %s went from %v to %v at %s.\n\nWhy: %s\nPriority: %d\n", x.local.Name,
		strings.Join(addresses, ", "), node, x.From, x.To, x.At.Format(time.RFC3339Nano), x.Reason, x.Priority)
	if x.Master.IsValid() {
		text += fmt.Sprintf("Master that was heard last: %v\n", x.Master)
	}
	for _, a := range x.Adverts {
		text += fmt.Sprintf("Advert: at %s from %v with priority %d\n", a.At.Format(time.RFC3339Nano), a.From, a.Priority)
	}
	for _, f := range x.Trackers {
		text += "Tracker " + f.Tracker + ": "
		switch {
		case f.Since.IsZero():
			text += "has not answered yet\n"
		case f.Well:
			text += fmt.Sprintf("well since %s\n", f.Since.Format(time.RFC3339Nano))
		default:
			text += fmt.Sprintf("failed since %s: %s\n", f.Since.Format(time.RFC3339Nano), f.Why)
		}
	}
	return text
}

// Close ends the telling: what waits is told for a while, and nothing new is taken.
func (n *Notifier) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.closed = true
		close(n.done)
	}
}

// Run waits for Close and then for what still waits. Call it once.
func (n *Notifier) Run() error {
	<-n.done
	timer := time.AfterFunc(leaveMost, n.cancel)
	defer timer.Stop()
	n.work.Wait()
	n.cancel()
	return nil
}
