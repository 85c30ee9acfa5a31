package instance

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// lan is a network in memory: what one node sends all others hear. It keeps a journal of what was done on it.
type lan struct {
	mu      sync.Mutex
	begin   time.Time
	nodes   []*node
	journal []string
	talk    bool // agents can speak to each other
	// etcdTakes is how long a word is on its way through etcd.
	etcdTakes time.Duration
	etcd      bool                       // there is one
	posts     int                        // words left there
	mute      uint8                      // the virtual router whose adverts do not arrive
	cut       func(a, b netip.Addr) bool // what does not arrive; multicast has the group as its end
	log       *zap.Logger
	warnings  *observer.ObservedLogs // of all nodes
}

func newLAN() *lan {
	core, warnings := observer.New(zapcore.WarnLevel)
	return &lan{begin: time.Now(), log: zap.New(core), warnings: warnings}
}

func (l *lan) note(format string, args ...any) {
	l.journal = append(l.journal, fmt.Sprintf("%.3f ", time.Since(l.begin).Seconds())+fmt.Sprintf(format, args...))
}

// take returns the journal since the last call.
func (l *lan) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	j := strings.Join(l.journal, "\n")
	l.journal = nil
	return j
}

// node is a machine with one card.
type node struct {
	lan    *lan
	name   string
	card   nic.Card
	more   []nic.Card // other networks
	ear    chan said
	hushed chan struct{}
	gone   bool // the card has been pulled out
	refuse error
	// refuseRoute is what the kernel says to routes.
	refuseRoute error
	routes      []nic.Route
	kept        memory
	// refuseRemoval is what the kernel says to removals only.
	refuseRemoval error
	pulled        error         // what the kernel says when the card with the virtual Ethernet address has been deleted
	on            bool          // the card with the virtual Ethernet address
	mute          bool          // its wires report nothing to Wait, as in a process that is held up
	frozen        chan struct{} // when it is there, the instance sleeps until it is closed
	busy          bool          // adding waits for the end of this
	adds          atomic.Int64
	asleep        atomic.Int64 // how long the machine has slept, in nanoseconds
	beats         atomic.Int64
	watched       sync.Map // the addresses that the warden knows
	lives         map[netip.Addr]*time.Timer
	wires         []*wire
	set           *Set
	watch         *switches
	cancel        context.CancelFunc
	ended         chan struct{}
}

// join starts an agent's set of instances on the lan.
func (l *lan) join(t *testing.T, name, prefix string) *node {
	t.Helper()
	l.mu.Lock()
	n := &node{lan: l, name: name, watch: &switches{}, ended: make(chan struct{}), ear: make(chan said, 64), hushed: make(chan struct{}), lives: map[netip.Addr]*time.Timer{},
		card: nic.Card{Index: 2, Name: "eth0", MAC: packet.MAC{2, 0, 0, 0, 0, byte(len(l.nodes))}, Up: true,
			Addresses: []netip.Prefix{netip.MustParsePrefix(prefix)}}}
	l.nodes = append(l.nodes, n)
	l.mu.Unlock()
	n.set = NewSet(n, n, n.watch.watch, func(spec.Local, plan.Transition) {}, &n.kept, l.log)
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(t.Context())
	go func() {
		defer close(n.ended)
		_ = n.set.Run(ctx) // always nil
	}()
	return n
}

// memory is what an agent remembers across a restart.
type memory struct {
	mu      sync.Mutex
	drained bool
}

func (m *memory) Drained() (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.drained, nil
}

func (m *memory) SetDrained(on bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drained = on
	return nil
}

// leave stops the agent in an orderly way.
func (n *node) leave() {
	n.cancel()
	<-n.ended
}

// die cuts the node off, as a loss of power does.
func (n *node) die() {
	n.lan.mu.Lock()
	defer n.lan.mu.Unlock()
	n.lan.nodes = slices.DeleteFunc(n.lan.nodes, func(m *node) bool { return m == n })
}

func (n *node) start(t *testing.T, locals ...spec.Local) {
	t.Helper()
	for _, l := range locals {
		if err := n.set.Apply(t.Context(), plan.Change{Kind: plan.Start, Local: l}); err != nil {
			t.Fatal(err)
		}
	}
}

// print tells how the instances stand.
func (n *node) print() string {
	var all []string
	for _, i := range n.set.Instances() {
		all = append(all, fmt.Sprintf("%s %s %v (%s)", i.Local.Name, i.State, i.Held, i.Reason))
	}
	return n.name + ": " + strings.Join(all, ", ")
}

// change alters the node's card and tells the instances, as the kernel's events do.
func (n *node) change(f func()) {
	n.lan.mu.Lock()
	f()
	n.lan.mu.Unlock()
	n.set.Poke()
	synctest.Wait()
}

func (n *node) View() nic.View {
	n.lan.mu.Lock()
	defer n.lan.mu.Unlock()
	if n.gone {
		return nic.View{}
	}
	cards := n.cards()
	cards[0].Addresses = slices.Clone(cards[0].Addresses)
	return nic.View{Cards: cards}
}

// Tell reaches a node with that address, if it has an ear and no cut is between the two.
func (n *node) Tell(from nic.Port, to netip.Addr, message []byte) error {
	l := n.lan
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.talk || !slices.Contains(l.nodes, n) || l.silent(from.Source, to) {
		return nil
	}
	for _, m := range l.nodes {
		for _, c := range m.cards() {
			if slices.ContainsFunc(c.Addresses, func(p netip.Prefix) bool { return p.Addr() == to }) {
				select {
				case m.ear <- said{slices.Clone(message), from.Source}:
				default:
				}
			}
		}
	}
	return nil
}

// Post reaches the node of that name through etcd, if that is there.
func (n *node) Post(name, instance string, message []byte) {
	l := n.lan
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.nodes, n) {
		return
	}
	l.posts++
	for _, m := range l.nodes {
		if m.name == name && l.etcd {
			time.AfterFunc(l.etcdTakes, func() { m.set.Heard(message, netip.Addr{}) })
		}
	}
}

// said is a message on its way.
type said struct {
	message []byte
	from    netip.Addr
}

func (n *node) Hear(b []byte) (int, netip.Addr, error) {
	select {
	case s := <-n.ear:
		return copy(b, s.message), s.from, nil
	case <-n.hushed:
		return 0, netip.Addr{}, errors.New("hushed")
	}
}

func (n *node) Hush() { close(n.hushed) }

// silent tells whether a cut is between two addresses.
func (l *lan) silent(a, b netip.Addr) bool {
	return l.cut != nil && l.cut(a, b)
}

func (n *node) cards() []nic.Card {
	if n.gone {
		return nil
	}
	return append([]nic.Card{n.card}, n.more...)
}

func (n *node) Asleep() time.Duration { return time.Duration(n.asleep.Load()) }

// The node is its own warden, and remembers what it was told.
func (n *node) Beat(uint8, bool, time.Duration) { n.beats.Add(1) }

func (n *node) Hold(_ uint8, _ bool, _ int, a netip.Addr, _ time.Duration) { n.watched.Store(a, true) }

func (n *node) Release(_ uint8, _ bool, _ int, a netip.Addr) { n.watched.Delete(a) }

// Wear gives the node a second card, with that Ethernet address.
func (n *node) Wear(p nic.Port, name string, mac packet.MAC) (int, error) {
	n.lan.mu.Lock()
	defer n.lan.mu.Unlock()
	if n.refuse != nil {
		return 0, n.refuse
	}
	n.pulled = nil
	n.lan.note("%s wear %s %x behind %s", n.name, name, mac, p.Name)
	return n.card.Index, nil
}

func (n *node) Switch(_ int, on bool) error {
	n.lan.mu.Lock()
	defer n.lan.mu.Unlock()
	if n.pulled != nil {
		return n.pulled
	}
	if n.on != on {
		n.on = on
		n.lan.note("%s switch %v", n.name, on)
	}
	return nil
}

func (n *node) Doff(int) error {
	n.lan.mu.Lock()
	defer n.lan.mu.Unlock()
	n.lan.note("%s doff", n.name)
	return nil
}

func (n *node) HoldRoute(_ uint8, _ bool, r nic.Route, _ time.Duration) { n.watched.Store(r, true) }

func (n *node) ReleaseRoute(_ uint8, _ bool, r nic.Route) { n.watched.Delete(r) }

// AddRoute refuses what starts from an address that is not there, as the kernel does.
func (n *node) AddRoute(r nic.Route) (bool, error) {
	n.lan.mu.Lock()
	defer n.lan.mu.Unlock()
	if r.Source.IsValid() && !slices.Contains(n.card.Addresses, netip.PrefixFrom(r.Source, 32)) {
		return false, errors.New("invalid argument")
	}
	if n.refuseRoute != nil {
		return false, n.refuseRoute
	}
	if slices.Contains(n.routes, r) {
		return false, nil
	}
	n.routes = append(n.routes, r)
	n.lan.note("%s add route %v", n.name, r)
	return true, nil
}

func (n *node) RemoveRoute(r nic.Route) (bool, error) {
	n.lan.mu.Lock()
	defer n.lan.mu.Unlock()
	if !slices.Contains(n.routes, r) {
		return false, nil
	}
	n.routes = slices.DeleteFunc(n.routes, func(x nic.Route) bool { return x == r })
	n.lan.note("%s remove route %v", n.name, r)
	return true, nil
}

func (n *node) Routes() ([]nic.Route, error) {
	n.lan.mu.Lock()
	defer n.lan.mu.Unlock()
	return slices.Clone(n.routes), nil
}

func (n *node) Refresh() (nic.View, error) { return n.View(), nil }

// Add gives the address a lifetime, at whose end the node removes it and tells the instances, as the kernel does.
func (n *node) Add(index int, a netip.Addr, life time.Duration) (bool, error) {
	n.lan.mu.Lock()
	defer n.lan.mu.Unlock()
	if n.refuse != nil {
		return false, n.refuse
	}
	if n.pulled != nil {
		return false, n.pulled
	}
	p := netip.PrefixFrom(a, a.BitLen())
	for n.busy {
		n.lan.mu.Unlock()
		time.Sleep(time.Millisecond) // of the bubble's clock
		n.lan.mu.Lock()
	}
	n.adds.Add(1)
	if timer := n.lives[a]; timer != nil {
		timer.Stop()
	}
	n.lives[a] = time.AfterFunc(life, func() {
		n.lan.mu.Lock()
		there := slices.Contains(n.card.Addresses, p)
		if there {
			n.card.Addresses = slices.DeleteFunc(n.card.Addresses, func(q netip.Prefix) bool { return q == p })
			n.lan.note("%s lapse %v", n.name, a)
		}
		n.lan.mu.Unlock()
		if there {
			n.set.Poke()
		}
	})
	if slices.Contains(n.card.Addresses, p) {
		return false, nil
	}
	n.card.Addresses = append(n.card.Addresses, p)
	n.lan.note("%s add %v", n.name, a)
	return true, nil
}

func (n *node) Remove(index int, a netip.Addr) (bool, error) {
	n.lan.mu.Lock()
	defer n.lan.mu.Unlock()
	if err := cmp.Or(n.refuse, n.refuseRemoval); err != nil {
		return false, err
	}
	p := netip.PrefixFrom(a, a.BitLen())
	if index != n.card.Index || !slices.Contains(n.card.Addresses, p) {
		return false, nil
	}
	n.card.Addresses = slices.DeleteFunc(n.card.Addresses, func(q netip.Prefix) bool { return q == p })
	n.lan.note("%s remove %v", n.name, a)
	return true, nil
}

func (n *node) Listen(p nic.Port) (Wire, error) {
	w := &wire{node: n, index: p.Index, source: p.Source, claims: make(chan claim), wake: make(chan struct{}, 1), closed: make(chan struct{})}
	n.lan.mu.Lock()
	defer n.lan.mu.Unlock()
	n.wires = append(n.wires, w)
	return w, nil
}

// wire is a socket on the lan.
type wire struct {
	node    *node
	index   int
	source  netip.Addr
	queue   [][]byte
	watched []netip.Addr
	claims  chan claim
	wake    chan struct{}
	closed  chan struct{}
}

func (w *wire) Wait() error {
	select {
	case <-w.wake:
		return nil
	case <-w.closed:
		return errors.New("closed")
	}
}

func (w *wire) Receive(b []byte) (int, error) {
	w.node.lan.mu.Lock()
	frozen := w.node.frozen
	w.node.lan.mu.Unlock()
	if frozen != nil {
		<-frozen
		return 0, nil // as if it had slept outside of any call
	}
	w.node.lan.mu.Lock()
	defer w.node.lan.mu.Unlock()
	if len(w.queue) == 0 {
		return 0, nil
	}
	n := copy(b, w.queue[0])
	w.queue = w.queue[1:]
	return n, nil
}

func (w *wire) Send(payload []byte) error { return w.SendTo(packet.Group(w.source.Is6()), payload) }

func (w *wire) SendTo(to netip.Addr, payload []byte) error {
	l := w.node.lan
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.node.gone || w.index != w.node.card.Index {
		return errors.New("no such device")
	}
	if to.IsMulticast() {
		l.note("%s advert %d priority %d", w.node.name, payload[1], payload[2])
	}
	if !slices.Contains(l.nodes, w.node) {
		return nil // cut off
	}
	if l.mutedAdvert(payload) {
		return nil
	}
	datagram := datagram(w.source, to, payload)
	for _, n := range l.nodes {
		for _, x := range n.wires {
			if n == w.node || x.source.Is6() != to.Is6() || !to.IsMulticast() && x.source != to || l.silent(w.source, to) || to.IsMulticast() && l.silent(w.source, x.source) {
				continue
			}
			x.queue = append(x.queue, datagram)
			if !n.mute {
				select {
				case x.wake <- struct{}{}:
				default:
				}
			}
		}
	}
	return nil
}

func (w *wire) Via(int) error { return nil }

func (w *wire) Watch(addresses []netip.Addr) error {
	w.node.lan.mu.Lock()
	defer w.node.lan.mu.Unlock()
	w.watched = addresses
	return nil
}

func (w *wire) Claims() (netip.Addr, packet.MAC, error) {
	select {
	case c := <-w.claims:
		return c.address, c.mac, nil
	case <-w.closed:
		return netip.Addr{}, packet.MAC{}, errors.New("closed")
	}
}

func (w *wire) Announce(frame []byte) error {
	w.node.lan.mu.Lock()
	defer w.node.lan.mu.Unlock()
	w.node.lan.note("%s announce %v", w.node.name, announced(frame))
	return nil
}

func (w *wire) Close() error {
	close(w.closed)
	w.node.lan.mu.Lock()
	defer w.node.lan.mu.Unlock()
	w.node.wires = slices.DeleteFunc(w.node.wires, func(x *wire) bool { return x == w })
	return nil
}

// announced is the address of a gratuitous ARP, or of a neighbor advertisement.
func announced(frame []byte) netip.Addr {
	if frame[12] == 0x86 {
		return netip.AddrFrom16([16]byte(frame[14+40+8:]))
	}
	return netip.AddrFrom4([4]byte(frame[38:]))
}

// datagram puts the header before a payload that the kernel would, or, for IPv6, the wire.
func datagram(source, destination netip.Addr, payload []byte) []byte {
	if destination.Is4() {
		return ipv4to(source, destination, payload)
	}
	b := make([]byte, packet.HeaderV6, packet.HeaderV6+len(payload))
	packet.PutHeaderV6(b, source.As16(), destination.As16(), packet.TTL, len(payload))
	return append(b, payload...)
}

// ipv4 puts the header before a payload that the kernel would.
func ipv4(source netip.Addr, payload []byte) []byte {
	return ipv4to(source, packet.Group(false), payload)
}

func ipv4to(source, destination netip.Addr, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[1], b[8], b[9] = 0x45, packet.TypeOfService, packet.TTL, packet.Protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	from, to := source.As4(), destination.As4()
	copy(b[12:], from[:])
	copy(b[16:], to[:])
	return append(b, payload...)
}

// switches are trackers that the test turns.
type switches struct {
	mu      sync.Mutex
	reports map[string]func(bool, string)
	started []string
}

func (s *switches) watch(ctx context.Context, c spec.Check, well bool, report func(bool, string)) {
	s.mu.Lock()
	if s.reports == nil {
		s.reports = map[string]func(bool, string){}
	}
	s.reports[c.Name] = report
	s.started = append(s.started, fmt.Sprintf("%s %s well=%v", c.Name, c.Address, well))
	s.mu.Unlock()
	<-ctx.Done()
}

func (s *switches) turn(name string, well bool, why string) {
	s.mu.Lock()
	report := s.reports[name]
	s.mu.Unlock()
	report(well, why)
	synctest.Wait()
}

// grep keeps the lines that contain one of the words.
func grep(text string, words ...string) string {
	var kept []string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if slices.ContainsFunc(words, func(w string) bool { return strings.Contains(line, w) }) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

func vi1(priority uint8) spec.Local {
	return spec.Local{Name: "VI_1", VirtualRouterID: 53, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.78")},
		Priority: priority, Version: packet.V2, Interval: time.Second, Preempt: true}
}

func vi3(priority uint8) spec.Local {
	return spec.Local{Name: "VI_3", VirtualRouterID: 56, Addresses: []netip.Addr{netip.MustParseAddr("192.168.60.55")},
		Priority: priority, Version: packet.V2, Interval: time.Second, Preempt: true}
}

func pass(d time.Duration) {
	time.Sleep(d) // of the bubble's clock
	synctest.Wait()
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
