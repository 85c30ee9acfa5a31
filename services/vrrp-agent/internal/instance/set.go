package instance

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/parley"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

var (
	errStopped = errors.New("the instance has stopped")
	errClosed  = errors.New("the agent is stopping")
	// ErrNoInstance: no instance of that name runs here.
	ErrNoInstance = errors.New("no such instance runs here")
)

// Host is what a Set needs beyond the network of one instance.
type Host interface {
	Network
	// Refresh looks at the cards now.
	Refresh() (nic.View, error)
	// Routes are those that an agent has made, in this life or an earlier one.
	Routes() ([]nic.Route, error)
	// Hear waits for a message of another agent; it ends with an error after Hush. For one goroutine.
	Hear(b []byte) (n int, from netip.Addr, err error)
	// Hush ends Hear.
	Hush()
}

// Keep is where it is kept that this node is drained, so that a restart does not end it.
type Keep interface {
	// Drained tells what was kept; nothing is false.
	Drained() (bool, error)
	// SetDrained keeps it.
	SetDrained(bool) error
}

// Set is the instances that run on this node.
type Set struct {
	host    Host
	guard   Guard
	watch   Watch
	log     *zap.Logger
	tell    Tell
	changes chan struct{}

	newsMu sync.Mutex    // protects news
	news   chan struct{} // closed at each change of state

	mu      sync.Mutex // protects what follows
	running map[string]*running
	closed  bool
	drained bool
	keep    Keep
	groups  map[string]*group
}

type running struct {
	*instance
	stop context.CancelFunc
}

// NewSet makes an empty set, drained if that was kept.
func NewSet(h Host, g Guard, w Watch, tell Tell, keep Keep, log *zap.Logger) *Set {
	drained, err := keep.Drained()
	if err != nil {
		log.Error("read whether this node is drained; it is taken not to be", zap.Error(err))
	}
	if drained {
		log.Warn("this node is drained, since before its start; Drain with end ends it")
	}
	return &Set{
		keep: keep, drained: drained,
		host: h, guard: g, watch: w, tell: tell, news: make(chan struct{}), log: log.Named("instance"), changes: make(chan struct{}, 1), running: map[string]*running{},
		groups: map[string]*group{},
	}
}

// Changed kicks when an instance has changed its state.
func (s *Set) Changed() <-chan struct{} { return s.changes }

// News is closed at the next change of state. Any goroutine may call.
func (s *Set) News() <-chan struct{} {
	s.newsMu.Lock()
	defer s.newsMu.Unlock()
	return s.news
}

func (s *Set) changed() {
	s.newsMu.Lock()
	close(s.news)
	s.news = make(chan struct{})
	s.newsMu.Unlock()
	select {
	case s.changes <- struct{}{}:
	default:
	}
}

// Poke asks all instances to look at the network again. It never blocks on one of them.
func (s *Set) Poke() {
	for _, r := range s.all() {
		r.poke()
	}
}

// Run brings the instances what other agents say. At the end of ctx it stops all instances: each hands over or resigns,
// and removes its addresses.
func (s *Set) Run(ctx context.Context) error {
	var hearing sync.WaitGroup
	hearing.Go(s.hear)
	hearing.Go(func() { s.spread(ctx) })
	defer hearing.Wait()
	defer s.host.Hush() // the instances speak to the last
	<-ctx.Done()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	all := s.all()
	for _, r := range all {
		r.stop()
	}
	for _, r := range all {
		<-r.done
	}
	return nil
}

// hear hands each message to its instance. An instance that does not keep up loses some, as on the way here.
func (s *Set) hear() {
	b := make([]byte, parley.MaxLength+1)
	for {
		n, from, err := s.host.Hear(b)
		if err != nil {
			return // hushed
		}
		s.Heard(b[:n], from)
	}
}

// Heard takes in a message of another agent; the address is invalid when it came through etcd. Any goroutine may call.
func (s *Set) Heard(message []byte, from netip.Addr) {
	name, err := parley.About(message)
	if err != nil {
		return
	}
	s.mu.Lock()
	r := s.running[name]
	s.mu.Unlock()
	if r == nil {
		return
	}
	select {
	case r.words <- word{slices.Clone(message), from}:
	default:
	}
}

// Handover gives the addresses of an instance to a node, or, if none is named, to the best one that answers, and returns
// which it was. resign: if nobody is there to take them, give them up as VRRP does. The errors are ErrNoInstance, ErrSelf, ErrNotMember,
// ErrNotMaster, ErrNoAgent, ErrRefused, ErrUnconfirmed and ErrBusy. Any goroutine may call.
func (s *Set) Handover(ctx context.Context, name, node string, resign bool) (string, error) {
	s.mu.Lock()
	r := s.running[name]
	s.mu.Unlock()
	if r == nil {
		return "", ErrNoInstance
	}
	return r.command(ctx, func(answer func(string, error)) { r.handOver(node, resign, answer) })
}

// Drain makes all instances, those to come included, hold addresses only if nobody else lives, or ends that. It returns
// one line for each that could not be handed over. It lasts beyond a restart. Any goroutine may call.
func (s *Set) Drain(ctx context.Context, on bool) (kept []string, err error) {
	s.mu.Lock()
	s.drained = on
	s.mu.Unlock()
	if err := s.keep.SetDrained(on); err != nil {
		s.log.Error("keep whether this node is drained", zap.Error(err))
		kept = append(kept, fmt.Sprintf("a restart ends it: %v", err))
	}
	for _, r := range s.all() {
		_, err := r.command(ctx, func(answer func(string, error)) { r.setDrained(on, answer) })
		if ctx.Err() != nil {
			return kept, ctx.Err()
		}
		if err != nil {
			kept = append(kept, fmt.Sprintf("instance %s: %v", r.observe().Local.Name, err))
		}
	}
	return kept, nil
}

// all returns the running instances in the order of their names.
func (s *Set) all() []*running {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.running), func(a, b *running) int {
		return cmp.Compare(a.observe().Local.Name, b.observe().Local.Name)
	})
}

// Instances returns the running instances as they stand, in the order of their names. Any goroutine may call.
func (s *Set) Instances() []plan.Instance {
	var all []plan.Instance
	for _, r := range s.all() {
		all = append(all, r.observe())
	}
	return all
}

// Observe reads what there is on this node, and has every instance compare it with what it needs.
func (s *Set) Observe(context.Context) (plan.Have, error) {
	view, err := s.host.Refresh()
	if err != nil {
		return plan.Have{}, err
	}
	running := s.Instances() // before the routes: those that are made meanwhile must have an owner
	routes, err := s.host.Routes()
	if err != nil {
		return plan.Have{}, err
	}
	s.Poke()
	return plan.Have{Running: running, Single: view.Single(), Marked: view.Marked(), Routes: routes}, nil
}

// Apply makes one change.
func (s *Set) Apply(ctx context.Context, c plan.Change) error {
	switch c.Kind {
	case plan.Stop:
		return s.stop(ctx, c.Local.Name)
	case plan.Clean:
		return s.clean(c.Address)
	case plan.CleanRoute:
		_, err := s.host.RemoveRoute(c.Route)
		return err
	case plan.Update:
		return s.update(ctx, c.Local)
	case plan.Start:
		return s.start(c.Local)
	}
	return fmt.Errorf("unknown change %v", c)
}

func (s *Set) start(l spec.Local) error {
	o, err := newOrder(l)
	if err != nil {
		return err
	}
	i := newInstance(s.host, s.guard, s.watch, s.log, s.changed, s.tell, o)
	ctx, stop := context.WithCancel(context.Background()) // ended by stop or Run, which wait for it
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		stop()
		return errClosed
	}
	if _, runs := s.running[l.Name]; runs {
		stop()
		return fmt.Errorf("instance %s runs already", l.Name)
	}
	if l.SyncGroup != "" {
		if s.groups[l.SyncGroup] == nil {
			s.groups[l.SyncGroup] = newGroup(l.SyncGroup)
		}
		i.group = s.groups[l.SyncGroup]
		i.group.join(i)
	}
	i.drained = s.drained
	i.build()
	s.running[l.Name] = &running{instance: i, stop: stop}
	go i.run(ctx)
	return nil
}

func (s *Set) stop(ctx context.Context, name string) error {
	s.mu.Lock()
	r, runs := s.running[name]
	s.mu.Unlock()
	if !runs {
		return nil
	}
	r.stop()
	select {
	case <-r.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.group != nil {
		r.group.leave(r.instance)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, name)
	return nil
}

func (s *Set) update(ctx context.Context, l spec.Local) error {
	o, err := newOrder(l)
	if err != nil {
		return err
	}
	s.mu.Lock()
	r, runs := s.running[l.Name]
	s.mu.Unlock()
	if !runs {
		return errStopped
	}
	return r.update(ctx, o)
}

// clean removes an address from every card that has it.
func (s *Set) clean(a netip.Addr) error {
	view := s.host.View()
	for _, card := range view.Cards {
		if !view.On(card.Index, a) {
			continue
		}
		if _, err := s.host.Remove(card.Index, a); err != nil {
			return err
		}
	}
	return nil
}

// newOrder reads the secrets of an instance.
func newOrder(l spec.Local) (order, error) {
	authentication, err := readPassword(l.PasswordFile)
	if err != nil {
		return order{}, err
	}
	o := order{local: l, authentication: authentication}
	secrets := map[uint8][]byte{}
	var keys []packet.Key
	for _, k := range l.HMAC.Keys {
		secret, err := readKey(k.File)
		if err != nil {
			return order{}, err
		}
		keys = append(keys, packet.Key{ID: k.ID, Secret: secret})
		secrets[k.ID] = secret
	}
	if len(keys) == 0 {
		o.keys = []parley.Key{parley.NewKey(l.Name, authentication.Secret())}
		return o, nil
	}
	o.ring = packet.NewRing(l.HMAC.Active, keys)
	// The active one first: with it we speak.
	o.keys = []parley.Key{parley.NewKey(l.Name, secrets[l.HMAC.Active])}
	for _, k := range l.HMAC.Keys {
		if k.ID != l.HMAC.Active {
			o.keys = append(o.keys, parley.NewKey(l.Name, secrets[k.ID]))
		}
	}
	return o, nil
}

// hexMark may stand before the digits of a key; keepalived asks for it (auth_hmac).
const hexMark = "hex:"

// readKey reads a key of 32 to 64 bytes as hexadecimal digits; a line end behind them is ignored.
func readKey(file string) ([]byte, error) {
	text, err := readSecret(file, int64(len(hexMark))+2*packet.MaxKey)
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimPrefix(string(text), hexMark))
	if err != nil || len(key) < packet.MinKey || len(key) > packet.MaxKey {
		return nil, fmt.Errorf("key in %s: want %d to %d bytes as hexadecimal digits", file, packet.MinKey, packet.MaxKey)
	}
	return key, nil
}

// readSecret reads a short file, one byte too many at the most, without its line end.
func readSecret(file string, most int64) (text []byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	if text, err = io.ReadAll(io.LimitReader(f, most+3)); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r")), nil
}

// maxPassword is the length of the field that carries it (RFC 2338, section 5.3.10).
const maxPassword = 8

// readPassword reads a password of 1 to 8 bytes; a line end behind it is ignored. Without a file there is no
// authentication.
func readPassword(file string) (packet.Authentication, error) {
	if file == "" {
		return packet.Authentication{}, nil
	}
	password, err := readSecret(file, maxPassword)
	if err != nil {
		return packet.Authentication{}, fmt.Errorf("read the password: %w", err)
	}
	if len(password) < 1 || len(password) > maxPassword {
		return packet.Authentication{}, fmt.Errorf("password in %s: want 1 to %d bytes", file, maxPassword)
	}
	return packet.SimplePassword(password), nil
}
