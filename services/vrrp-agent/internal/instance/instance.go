// Package instance answers: what does this node do for an instance at this moment?
//
// One goroutine for each instance owns its state machine, its one timer and its place on the network; nothing else
// decides when an advert is sent. Sending is a prebuilt packet and no allocation.
package instance

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/parley"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

const (
	// announceCopies is how often gratuitous ARP is sent at once: single frames get lost (keepalived: garp_master_repeat).
	announceCopies = 5
	// announceAgain is the pause before it is sent once more, for switches that were still learning (keepalived:
	// garp_master_delay).
	announceAgain = 5 * time.Second
	// refreshCopies is how often it is sent each time that it is sent again later (keepalived: garp_master_refresh_repeat).
	refreshCopies = 1
	// announcePause is the shortest pause between two announcements that a rival's adverts can bring about.
	announcePause = time.Second
	// retryPause is how long an instance stays in fault after the kernel has refused its addresses or its socket.
	retryPause = 30 * time.Second
	// drainMost bounds the packets taken in at one go, so that a flood cannot keep the timer waiting. It is more than the
	// socket's buffer holds (netdev): one go reads all that has come while the process was held up, the adverts of other
	// instances included.
	drainMost = 1024
	// historyMost is how many changes of state are remembered.
	historyMost = 32
	// complaintPause is the shortest pause between two words in the log about the same, such as adverts that were dropped for
	// the same reason, or an address that somebody removes again and again.
	complaintPause = time.Minute
	// advertsMost is how many of the last adverts are remembered, to tell why a state has changed.
	advertsMost = 4
	// peersMost bounds the peers whose form of checksum is remembered: senders can be invented.
	peersMost = spec.MaxMembers
	// replayWindow is how far the clocks of two members may be apart, or three intervals (keepalived: time).
	replayWindow = 5 * time.Second
	// datagramMost holds any advert: 255 addresses behind an IP header with options make 1096 bytes.
	datagramMost = 1500
)

// Causes of a fault. A tracker's cause is its name behind causeTracker.
const (
	causeCard      = "network card"
	causeAddresses = "addresses"
	causeTracker   = "tracker "
)

// Network is this node's network, as an instance needs it.
type Network interface {
	// View is the newest view of the cards.
	View() nic.View
	// Add puts a single address on a card for life, whole seconds, after which the kernel removes it. One that is there
	// lives for that long from now on. It tells whether it was not there before. Any goroutine may call.
	Add(index int, a netip.Addr, life time.Duration) (added bool, err error)
	// Wear makes, or finds, a card with an Ethernet address of its own behind that of the port, and tells its index; Switch
	// switches it on and off, and Doff removes it. Any goroutine may call.
	Wear(p nic.Port, name string, mac packet.MAC) (index int, err error)
	Switch(index int, on bool) error
	Doff(index int) error
	// Asleep is how long the machine has been asleep since its start. Any goroutine may call.
	Asleep() time.Duration
	// Remove takes it off and tells whether it was there; that it was not is no error.
	Remove(index int, a netip.Addr) (removed bool, err error)
	// AddRoute makes a route and tells whether it was not there before; that somebody else has one to the same place with
	// the same metric is an error.
	AddRoute(nic.Route) (added bool, err error)
	// RemoveRoute takes it away, if it is one of ours, and tells whether it was there; that it was not is no error.
	RemoveRoute(nic.Route) (removed bool, err error)
	// Tell sends a message to another agent from a port. Any goroutine may call.
	Tell(from nic.Port, to netip.Addr, message []byte) error
	// Post leaves a message for an instance on another node where all nodes can read, outside of the networks between the
	// two. It does not wait, and may come to nothing. Any goroutine may call.
	Post(node, instance string, message []byte)
	// Listen joins the adverts at a port.
	Listen(p nic.Port) (Wire, error)
}

// Wire is a place where adverts go in and out.
type Wire interface {
	// Wait blocks until there is something to receive; it ends with an error when the wire is closed.
	Wait() error
	// Receive reads one IP packet without waiting; 0: there is none.
	Receive(b []byte) (int, error)
	// Send sends an advert without waiting.
	Send(payload []byte) error
	// SendTo sends an advert to one address without waiting.
	SendTo(to netip.Addr, payload []byte) error
	// Via makes the card with that index the one that adverts to the group go out by; 0: the port's.
	Via(index int) error
	// Watch says for which addresses Claims is to report. Any goroutine may call.
	Watch([]netip.Addr) error
	// Claims blocks until somebody else says to have one of them; it ends with an error when the wire is closed.
	Claims() (netip.Addr, packet.MAC, error)
	// Announce sends an Ethernet frame without waiting.
	Announce(frame []byte) error
	// Close ends it.
	Close() error
}

// Guard takes the addresses away when this process no longer can; see package warden. Any goroutine may call.
type Guard interface {
	// Beat tells that the instance lives, and for how long that may be believed.
	Beat(id uint8, v6 bool, patience time.Duration)
	// Hold and Release tell what it holds; Hold is a beat too.
	Hold(id uint8, v6 bool, index int, a netip.Addr, patience time.Duration)
	Release(id uint8, v6 bool, index int, a netip.Addr)
	// HoldRoute and ReleaseRoute tell which routes it has; HoldRoute is a beat too.
	HoldRoute(id uint8, v6 bool, r nic.Route, patience time.Duration)
	ReleaseRoute(id uint8, v6 bool, r nic.Route)
}

// Watch runs one check until ctx ends and reports whenever the answer has changed, from its own goroutine; why tells
// what is wrong. well is the state that it starts from.
type Watch func(ctx context.Context, c spec.Check, well bool, report func(well bool, why string))

// Tell is told of each change of state, in order. It must not block.
type Tell func(spec.Local, plan.Transition)

// order is what the goroutine is told to do from now on.
type order struct {
	local          spec.Local
	authentication packet.Authentication
	ring           *packet.Ring  // nil: adverts are not signed
	keys           []parley.Key  // what agents say is checked with all of them, and said with the first
	obeyed         chan struct{} // closed when it is in force; nil with the first order
}

// finding is the report of a tracker.
type finding struct {
	tracker *tracker
	well    bool
	why     string
}

// tracker is a running check.
type tracker struct {
	check spec.Check
	stop  context.CancelFunc
	sum   int // what it adds to the priority
	found plan.Finding
}

// counters may be read at any time.
type counters struct {
	transitions, sent, received, mismatched, witnessed, claims atomic.Uint64
	dropped                                                    [packet.Drops]atomic.Uint64
}

// instance is a running instance. All fields below "owned" belong to its goroutine.
type instance struct {
	network Network
	guard   Guard
	watch   Watch
	log     *zap.Logger
	changed func() // tells that status is new
	tellOf  Tell

	orders   chan order
	pokes    chan struct{}
	findings chan finding
	words    chan word
	commands chan command
	pulls    chan pull
	claims   chan claim
	hears    atomic.Int64 // until when, in ns of the wall clock, its master counts as heard
	group    *group       // nil: none
	name     string
	done     chan struct{}

	counters counters
	status   atomic.Pointer[plan.Instance] // without the counters

	// owned
	order     order
	state     fsm.State
	why       string // reason for the state
	heard     cause  // what the last advert heard would explain
	config    fsm.Config
	expect    packet.Expect
	port      nic.Port
	wire      Wire
	readable  chan struct{}
	closeWire chan struct{}
	goroutine sync.WaitGroup

	advert, resign []byte
	frames         map[netip.Addr][]byte
	held           []netip.Addr
	routes         []nic.Route // that this node has made
	master         netip.Addr
	interval       time.Duration                  // of the last advert heard
	peers          map[netip.Addr]packet.Checksum // what their checksums cover, with V3
	format         packet.Format
	faults         map[string]string // cause -> reason
	trackers       map[string]*tracker
	refused        error // what the kernel said to the addresses during the present step

	parleys

	complained [packet.Drops]complaint // by reason
	mismatched complaint
	tampered   [tamperings]complaint

	adverts   [advertsMost]plan.Advert // that were taken in, in a ring
	advertsAt int                      // the oldest of them
	history   []plan.Transition
	toldFault string // what the group knows
	follow    bool   // the group has moved; this instance follows when its own handover fails

	startup time.Time // until when a node that has started listens
	patient time.Time // until when it does not preempt

	timer    *time.Timer
	due      time.Time // zero: the timer is stopped
	again    *time.Timer
	refresh  *time.Timer // runs while addresses are held
	retry    *time.Timer
	life     *time.Timer    // runs while addresses are held
	renewing <-chan renewed // nil: no renewal is under way
	awake    time.Time      // when the goroutine went on last
	asleep   time.Duration  // how long the machine had slept until then

	advertised time.Time // when the last advert was due, sent or not
	late       time.Time // when an advert was due last that came so late that it was missed
	announced  time.Time
	replay     packet.Replay
	buffer     []byte
	listed     []netip.Addr // room for the addresses of an advert
}

// newInstance prepares an instance; run runs it.
func newInstance(n Network, g Guard, w Watch, log *zap.Logger, changed func(), tell Tell, o order) *instance {
	i := &instance{
		network: n, guard: g, watch: w, changed: changed, tellOf: tell,
		log:      log.With(logging.Instance(o.local.Name)),
		orders:   make(chan order),
		pokes:    make(chan struct{}, 1),
		findings: make(chan finding),
		words:    make(chan word, wordsMost),
		commands: make(chan command),
		pulls:    make(chan pull, pullsMost),
		claims:   make(chan claim),
		name:     o.local.Name,
		parleys:  newParleys(),
		done:     make(chan struct{}),
		peers:    map[netip.Addr]packet.Checksum{},
		faults:   map[string]string{},
		trackers: map[string]*tracker{},
		timer:    stoppedTimer(),
		again:    stoppedTimer(),
		refresh:  stoppedTimer(),
		retry:    stoppedTimer(),
		life:     stoppedTimer(),
		buffer:   make([]byte, datagramMost),
		listed:   make([]netip.Addr, 0, math.MaxUint8),
	}
	i.take(o)
	i.publish()
	return i
}

// poke asks the instance to look at the network again. It never blocks.
func (i *instance) poke() {
	select {
	case i.pokes <- struct{}{}:
	default:
	}
}

// update gives the instance a new order and waits until it is in force.
func (i *instance) update(ctx context.Context, o order) error {
	o.obeyed = make(chan struct{})
	select {
	case i.orders <- o:
	case <-i.done:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-o.obeyed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// observe returns how the instance stands. Any goroutine may call.
func (i *instance) observe() plan.Instance {
	o := *i.status.Load()
	o.Transitions = i.counters.transitions.Load()
	o.Sent = i.counters.sent.Load()
	o.Received = i.counters.received.Load()
	o.Mismatched = i.counters.mismatched.Load()
	o.Witnessed = i.counters.witnessed.Load()
	o.Claims = i.counters.claims.Load()
	for n := range o.Dropped {
		o.Dropped[n] = i.counters.dropped[n].Load()
	}
	return o
}

// run is the instance's goroutine. When ctx ends it resigns, removes the addresses and returns.
func (i *instance) run(ctx context.Context) {
	defer close(i.done)
	// What is due is sent from a thread that nobody else runs on. It is given back: a thread must not end at real-time
	// priority (warden.Ordinary).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer i.stopTimers()
	defer i.goroutine.Wait()

	tracking, stopTracking := context.WithCancel(ctx)
	defer stopTracking()
	for _, c := range i.order.local.Trackers {
		// Nobody stands for election before the first answer.
		i.faults[causeTracker+c.Name] = "tracker " + c.Name + " has not answered yet"
		i.track(tracking, c, false)
	}
	now := time.Now()
	i.startup, i.patient = now.Add(i.order.local.StartupDelay), now.Add(i.order.local.PreemptDelay)
	i.config.Preempt = i.preempt()
	i.look()
	i.ownFault()
	i.syncFaults()
	if len(i.faults) > 0 {
		i.step(fsm.Event{Kind: fsm.Broken}, because(i.faultReason()))
	} else {
		i.step(fsm.Event{Kind: fsm.Startup}, because("started"))
	}

	// What makes a master speak up reads the socket first: after the process was held up, there is perhaps another one.
	i.awake, i.asleep = time.Now(), i.network.Asleep()
	stop, leaving := ctx.Done(), false
	for !leaving || i.offer != nil {
		select {
		case <-stop:
			stop, leaving = nil, true
			i.wake()
			i.drain()
			i.handOver("", false, func(string, error) {}) // so that nothing is lost, if somebody is there
		case <-i.readable:
			i.wake()
			i.drain()
		case <-i.timer.C:
			i.wake()
			i.timeout()
		case <-i.life.C:
			i.wake()
			i.drain()
			i.renew()
		case r := <-i.renewing:
			i.renewing = nil // before anything that waits for it
			i.wake()
			i.drain()
			i.afterRenewal(r)
		case <-i.again.C:
			i.wake()
			i.drain()
			i.sendFrames(announceCopies)
		case <-i.refresh.C:
			i.wake()
			i.drain()
			i.announceLater()
			i.sendFrames(refreshCopies)
		case <-i.retry.C:
			i.wake()
			i.mend(causeAddresses)
			i.look()
		case <-i.pokes:
			i.wake()
			i.drain()
			i.look()
		case o := <-i.orders:
			i.wake()
			i.drain()
			i.obey(tracking, o)
			close(o.obeyed)
		case f := <-i.findings:
			i.wake()
			i.judge(f)
		case w := <-i.words:
			i.wake()
			i.drain()
			i.listen(w)
		case <-i.asking.C:
			i.wake()
			i.drain()
			i.inquire()
		case <-i.offering.C:
			i.wake()
			i.drain()
			i.repeatOffer()
		case p := <-i.pulls:
			i.wake()
			i.drain()
			i.pulled(p)
		case c := <-i.claims:
			i.wake()
			i.drain()
			i.claimed(c)
		case c := <-i.commands:
			i.wake()
			i.drain()
			c.do(func(node string, err error) { c.done <- outcome{node, err} })
		}
	}
	i.step(fsm.Event{Kind: fsm.Shutdown}, because("stopped"))
	i.hangUp()
}

func (i *instance) stopTimers() {
	for _, t := range []*time.Timer{i.timer, i.again, i.refresh, i.retry, i.life, i.asking, i.offering} {
		t.Stop()
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// cause is why something happens. It is put into words only when it has changed a state: adverts come often.
type cause struct {
	text string     // whole, or the text behind the address
	from netip.Addr // of an advert
	// priority of the advert; 0: it has resigned
	priority uint8
}

// String puts it into words; "" with the zero value.
func (c cause) String() string {
	switch {
	case !c.from.IsValid():
		return c.text
	case c.priority == packet.PriorityStop:
		return fmt.Sprintf("%s%v resigned", c.text, c.from)
	}
	return fmt.Sprintf("%s%v has priority %d", c.text, c.from, c.priority)
}

// because is a cause in words.
func because(text string) cause { return cause{text: text} }

// step feeds the machine and does what it says.
func (i *instance) step(e fsm.Event, why cause) {
	old := i.state
	next, actions := fsm.Step(i.config, i.state, e)
	i.state = next
	if next != fsm.Backup {
		i.config.MasterInterval = 0 // our own again
	}
	if next != old {
		i.requests, i.declined, i.unheard = 0, false, false
		i.postEach = 0
		i.asking.Stop()
	}
	if old == fsm.Fault && next == fsm.Backup && i.order.local.PreemptDelay > 0 {
		i.patient = time.Now().Add(i.order.local.PreemptDelay)
		i.config.Preempt = i.preempt()
	}
	if next == fsm.Master && old != next {
		i.stoodBack = false
		i.config.Preempt = i.preempt()
		i.asking.Reset(max(i.config.Interval, askPause))
	}
	if next == fsm.Master && old != next {
		i.refuse(i.switchOn()) // before the first advert, which bears its Ethernet address
	}
	for _, a := range actions {
		i.act(a)
	}
	if old == fsm.Master && next != old {
		i.switchOff() // behind the last advert
	}
	if next != old {
		i.why, i.heard = why.String(), cause{}
		i.counters.transitions.Add(1)
		i.remember(old, next)
		i.log.Info("instance changed state", logging.Old(old.String()), logging.To(next.String()), logging.Reason(i.why))
		i.publish()
		i.changed()
		i.lead(old, next)
	}
	i.checkRefused()
}

// remember keeps a change of state, and tells who wants to know of it.
func (i *instance) remember(old, next fsm.State) {
	t := plan.Transition{At: time.Now(), From: old, To: next, Reason: i.why, Priority: i.config.Priority, Master: i.master,
		Adverts: i.lastAdverts(), Trackers: i.findingsNow()}
	i.history = append(i.history[max(0, len(i.history)-historyMost+1):len(i.history):len(i.history)], t)
	i.tellOf(i.order.local, t)
}

// lastAdverts are those that were taken in last, the newest last.
func (i *instance) lastAdverts() []plan.Advert {
	all := slices.Concat(i.adverts[i.advertsAt:], i.adverts[:i.advertsAt])
	return slices.DeleteFunc(all, func(a plan.Advert) bool { return a.At.IsZero() })
}

// lead tells the group of a change that the others follow. A fault they learn of as such.
func (i *instance) lead(old, next fsm.State) {
	i.group.note(i, next == fsm.Master)
	switch {
	case next == fsm.Master:
		i.hears.Store(0)
		i.group.pull(i, pull{kind: pullMaster, from: i.name})
	case old == fsm.Master && next == fsm.Backup:
		i.group.pull(i, pull{kind: pullDown, from: i.name})
	}
}

// checkRefused puts the instance in fault when the kernel has refused its addresses.
func (i *instance) checkRefused() {
	if err := i.refused; err != nil {
		i.refused = nil
		i.retry.Reset(retryPause)
		i.fail(causeAddresses, err.Error())
	}
}

func (i *instance) act(a fsm.Action) {
	switch a {
	case fsm.SendAdvert:
		i.send(i.advert, false)
	case fsm.SendResign:
		i.send(i.resign, true)
	case fsm.AddAddresses:
		i.hold()
	case fsm.RemoveAddresses:
		i.release(i.held)
	case fsm.Announce:
		i.announce()
	case fsm.TimeAdvert:
		i.arm(i.config.Interval)
	case fsm.TimeMasterDown:
		i.arm(max(i.config.MasterDown(), time.Until(i.startup)))
		i.asking.Reset(i.config.Missed())
		i.since, i.lives = time.Now(), ""
	case fsm.TimeSkew:
		i.arm(i.config.Skew())
		i.asking.Stop()
		i.lives = ""
	case fsm.FollowInterval:
		i.config.MasterInterval = i.interval
	case fsm.StopTimer:
		i.due = time.Time{}
		i.timer.Stop()
	}
}

// arm sets the timer.
func (i *instance) arm(d time.Duration) {
	i.due = time.Now().Add(d)
	i.timer.Reset(d)
}

// timeout: the timer has run out. What lies in the socket is older than this moment and goes first: when the whole
// process was held up, the master's adverts are there, unread, and there is no reason to take over.
func (i *instance) timeout() {
	i.drain()
	if i.due.IsZero() || time.Now().Before(i.due) {
		return
	}
	var why cause
	if i.state == fsm.Backup {
		if i.silent() {
			return
		}
		why = i.heard
		if why == (cause{}) {
			why = because("no advert for " + i.config.MasterDown().String())
		}
	}
	i.step(fsm.Event{Kind: fsm.Timer}, why)
}

// send sends the advert, or the resignation.
func (i *instance) send(payload []byte, resign bool) {
	if i.wire == nil {
		return
	}
	now := time.Now()
	if now.Sub(i.advertised) >= i.config.Missed() {
		i.late = now
	}
	i.advertised = now
	if len(i.held) > 0 {
		i.beat() // whether the advert leaves or not: this instance lives
	}
	if len(i.deaf) > 0 {
		i.sendUnicast(resign)
	}
	if i.order.local.Unicast {
		i.counters.sent.Add(1)
		return
	}
	i.sign(payload, i.format)
	if err := i.wire.Send(payload); err != nil {
		// The next advert is the next try. A card that is gone is reported by its own event.
		i.log.Debug("send advert", zap.Error(err))
		return
	}
	i.counters.sent.Add(1)
}

// sign makes an advert a new one, if adverts are signed.
func (i *instance) sign(payload []byte, f packet.Format) {
	if f.Ring != nil {
		f.Ring.Sign(payload, f, time.Now())
	}
}

// drain takes in the packets that have come.
func (i *instance) drain() {
	for range drainMost {
		if i.wire == nil {
			return
		}
		n, err := i.wire.Receive(i.buffer)
		if err != nil {
			i.fail(causeCard, "receive adverts: "+err.Error())
			i.hangUp()
			i.retry.Reset(retryPause)
			return
		}
		if n == 0 {
			return
		}
		i.receive(i.buffer[:n])
	}
}

func (i *instance) receive(datagram []byte) {
	a, err := i.expect.Receive(datagram, i.listed[:0])
	if drop, ok := err.(packet.Drop); ok {
		if drop != packet.DropOtherRouter { // of our neighbour instances, which is no fault
			i.drop(drop, i.expect.Source(datagram))
		}
		return
	}
	if a.Signed && !i.replay.Take(a.From, a.Sequence, time.Now(), max(replayWindow, 3*i.config.Interval)) {
		i.drop(packet.DropReplay, a.From)
		return
	}
	i.counters.received.Add(1)
	i.adverts[i.advertsAt] = plan.Advert{At: time.Now(), From: a.From, Priority: a.Priority}
	i.advertsAt = (i.advertsAt + 1) % advertsMost
	if !sameAddresses(a.Addresses, i.order.local.Addresses) {
		i.mismatch(a)
	}
	from := a.From
	if from != i.master {
		i.master = from
		i.config.First = i.first()
		i.publish()
	}
	i.learn(a)
	if i.state == fsm.Backup && !i.patient.IsZero() && !time.Now().Before(i.patient) {
		i.patient = time.Time{}
		i.config.Preempt = i.preempt()
	}
	if i.state == fsm.Backup {
		i.hello(a.Priority)
	}
	if i.state == fsm.Master && a.Priority != packet.PriorityStop && i.moving(from) {
		return
	}
	var why cause
	if i.state == fsm.Master {
		why = cause{from: from, priority: a.Priority}
	}
	i.interval = a.Interval
	i.step(fsm.Event{Kind: fsm.Heard, Priority: a.Priority, From: from}, why)
	i.heard = cause{}
	// What the timer runs on for: a resignation, or a master that is not good enough.
	if a.Priority == packet.PriorityStop || a.Priority < i.config.Priority && i.config.Preempt {
		i.heard = cause{text: "master ", from: from, priority: a.Priority}
	}
}

// complaint keeps the log from being told the same without end.
type complaint struct {
	told  time.Time
	since int // how often it has happened since then
}

// due counts that it has happened, and tells whether to say so, and how often it has happened since that was said last.
func (c *complaint) due() (count int, due bool) {
	c.since++
	if now := time.Now(); now.Sub(c.told) >= complaintPause {
		count, c.told, c.since = c.since, now, 0
		return count, true
	}
	return 0, false
}

// What somebody else may do to addresses and routes.
const (
	tamperRemoved = iota
	tamperAdded
	tamperRemovedRoute
	tamperAddedRoute
	tamperings
)

// tamper says that somebody else has done something to what is ours to do.
func (i *instance) tamper(what int, message string, fields ...zap.Field) {
	if count, due := i.tampered[what].due(); due {
		i.log.Warn(message, append(fields, logging.Count(count))...)
	}
}

// drop counts an advert that was not taken in, and says so now and then.
func (i *instance) drop(why packet.Drop, from netip.Addr) {
	count := i.counters.dropped[why].Add(1)
	if _, due := i.complained[why].due(); due {
		i.log.Warn("dropped an advert", logging.Reason(why.Error()), logging.Address(from.String()), logging.Count(int(count)))
	}
}

// mismatch counts an advert with other addresses than ours, and says so now and then.
func (i *instance) mismatch(a packet.Received) {
	count := i.counters.mismatched.Add(1)
	if _, due := i.mismatched.due(); due {
		i.log.Warn("an advert has other addresses than ours", logging.Address(a.From.String()), zap.Stringers("addresses", a.Addresses), logging.Count(int(count)))
	}
}

// hello notes that a master was heard, and asks it now and then, so that it knows of us.
func (i *instance) hello(priority uint8) {
	now := time.Now()
	i.heardAt = now
	if priority >= i.config.Priority {
		i.hears.Store(now.Add(i.config.Missed()).UnixNano())
	} else {
		i.hears.Store(0)
	}
	if i.unheard {
		i.unheard = false
		i.log.Info("the master is heard again")
		i.publish()
	}
	if priority != packet.PriorityStop && now.Sub(i.lastAsked()) >= helloPause {
		i.ask()
	}
}

// sameAddresses compares without regard to the order.
func sameAddresses(a, b []netip.Addr) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(x netip.Addr) bool { return !slices.Contains(b, x) })
}

// publish makes the state visible.
func (i *instance) publish() {
	i.status.Store(&plan.Instance{
		Local: i.order.local, State: i.state, Priority: i.config.Priority, Held: slices.Clone(i.held), Master: i.master, Reason: i.why,
		Checksum: i.format.Checksum, Peers: maps.Clone(i.peers),
		Trackers: i.findingsNow(), Card: i.card(), Own: i.own(), Routes: slices.Clone(i.routes),
		History: i.history, Agents: i.agentsNow(), Unheard: i.unheard, StoodBack: i.stoodBack, Drained: i.drained,
	})
}
