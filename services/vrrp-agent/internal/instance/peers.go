package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
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
	// helloPause is the pause between two questions of a backup that hears its master: by them the master knows whom it
	// can hand over to.
	helloPause = time.Second
	// askPause is the shortest pause between two questions of a master to its peers: whether one of them is master too.
	askPause = 50 * time.Millisecond
	// agentMemory is how long an agent that is not heard of any more counts as one that can be spoken to.
	agentMemory = 3 * time.Second
	// answerMemory is how many questions an answer can belong to, and numberMemory how long their numbers are good for.
	answerMemory = 16
	numberMemory = 5 * time.Second
	// deafMemory is how long a master sends its adverts by unicast too to an agent that has missed them.
	deafMemory = 10 * time.Second
	// deafMost bounds those agents.
	deafMost = spec.MaxMembers
	// offerPause is the pause between two offers of one handover: single datagrams get lost.
	offerPause = 20 * time.Millisecond
	// offerMost is how long a master waits for the other one to confirm.
	offerMost = 500 * time.Millisecond
	// offerSure is how long the other one may rely on it that the master, which is not told yet, stays where it is.
	offerSure = offerMost / 2
	// requestsMost is how often a backup asks a master of lower priority, which is an agent, to hand over, before it takes
	// over in the manner of VRRP.
	requestsMost = 5
	// requestPause is the shortest pause between two of these requests.
	requestPause = 100 * time.Millisecond
	// postPause is the shortest pause between two questions through etcd. A master that gets no answer to them asks
	// ever more rarely, down to postMost: etcd keeps every one of them for a while.
	postPause = 200 * time.Millisecond
	postMost  = 10 * time.Second
	// postMemory is how many questions through etcd an answer can belong to.
	postMemory = 8
	// postGrace is how long a master counts as alive that has answered through etcd, once it was only to be had there:
	// an answer takes longer that way than a silence that suffices to replace a master.
	postGrace = time.Second
	// directMemory is how long a peer counts as one that is to be had without etcd.
	directMemory = time.Second
	// deafMessage is the word in the log about them.
	deafMessage = "an agent does not hear our adverts; it gets them by unicast too"
	// wordsMost bounds the messages that wait for an instance.
	wordsMost = 64
)

// Errors of a handover.
var (
	// ErrNotMaster: this node does not hold the addresses.
	ErrNotMaster = errors.New("this node is not master")
	// ErrSelf and ErrNotMember: the node that was named is this one, or none of the instance's members.
	ErrSelf      = errors.New("this is the node that is to hand over; want another member of the instance")
	ErrNotMember = errors.New("no member of the instance has this name")
	// ErrNoAgent: nobody is there who could take them in an agreed order.
	ErrNoAgent = errors.New("no agent answers that is ready to take over")
	// ErrRefused: the other one will not.
	ErrRefused = errors.New("the other node refused")
	// ErrUnconfirmed: the other one has not confirmed in time.
	ErrUnconfirmed = errors.New("the other node has not confirmed in time")
	// ErrBusy: another handover is under way.
	ErrBusy = errors.New("another handover is under way")
)

// word is a message as it came. One that came through etcd has no address.
type word struct {
	bytes []byte
	from  netip.Addr
}

// command is what the control API wants of an instance.
type command struct {
	do   func(answer func(string, error))
	done chan outcome // has room for one
}

type outcome struct {
	node string
	err  error
}

// agent is a peer that speaks to us.
type agent struct {
	addresses    []netip.Addr
	priority     uint8
	owner, ready bool
	number       uint64    // of its last question
	seen         time.Time // by the network; through etcd nothing can be handed over
	shown        time.Time // when the status told of it last
}

// takes tells whether it would take an offer: it is ready, and has asked what the offer can echo.
func (a *agent) takes() bool {
	return a.ready && a.number != 0 && time.Since(a.seen) <= agentMemory
}

// asked is a question of ours.
type asked struct {
	number uint64
	at     time.Time
}

// offer is a handover that is under way.
type offer struct {
	node   string
	number uint64
	until  time.Time
	answer func(node string, err error)
}

// parleys is what an instance knows of the other agents. It belongs to the instance's goroutine.
type parleys struct {
	agents   map[string]*agent
	asked    [answerMemory]asked
	askedAt  int // the next place in asked
	asking   *time.Timer
	posted   [postMemory]asked // through etcd
	postedAt int               // the next place in posted
	postEach time.Duration     // pause until the next question through etcd
	witness  string            // the node that has answered through etcd last that it is master
	vouched  time.Time         // when it was asked
	since    time.Time         // the last word of a master, from when its silence counts
	heardAt  time.Time         // the last advert
	lives    string            // the node that has answered since then that it is master; "" if none has
	unheard  bool
	deaf     map[netip.Addr]deaf
	offer    *offer
	offering *time.Timer
	move     move
	accepted uint64 // the number of the offer that made us master
	requests int    // since the last change of state
	declined bool   // the last of them
	// stoodBack and drained as in plan.Instance.
	stoodBack, drained bool
}

// deaf is an agent that misses our adverts.
type deaf struct {
	until          time.Time
	peer           bool // all adverts go by unicast, for good
	advert, resign []byte
}

func newParleys() parleys {
	return parleys{agents: map[string]*agent{}, deaf: map[netip.Addr]deaf{}, asking: stoppedTimer(), offering: stoppedTimer()}
}

// ready tells whether this node would take an offer.
func (i *instance) ready() bool { return i.state == fsm.Backup && !i.drained }

// first tells whether no other member would replace the master before this node does: nobody but the master has a higher
// priority.
func (i *instance) first() bool {
	if i.drained || !i.master.IsValid() {
		return false
	}
	peers := i.order.local.Peers
	for _, p := range peers {
		if p.Priority < i.order.local.Priority || len(peers) == 1 {
			continue
		}
		if a := i.agents[p.Node]; a == nil || !slices.Contains(a.addresses, i.master) {
			return false
		}
	}
	return len(peers) > 0
}

// message begins a message of ours.
func (i *instance) message(kind parley.Kind, echo uint64) parley.Message {
	l := i.order.local
	return parley.Message{
		Kind: kind, Instance: l.Name, Node: l.Node, VirtualRouterID: l.VirtualRouterID,
		Owner: i.state == fsm.Master, Ready: i.ready(), Priority: i.config.Priority,
		Number: rand.Uint64(), Echo: echo, Addresses: i.ownAddresses(),
	}
}

// ownAddresses are those by which the others can reach this node. The link-local one of IPv6 is only of use on the
// network of the instance; its adverts come from there.
func (i *instance) ownAddresses() []netip.Addr {
	own := i.network.View().Own()
	if i.port.Source.Is6() {
		return slices.Concat([]netip.Addr{i.port.Source}, own)
	}
	return own
}

// tell sends a message over every network by which one of the addresses is to be had.
func (i *instance) tell(m parley.Message, addresses ...netip.Addr) {
	view, bytes := i.network.View(), m.Append(nil, i.order.keys[0])
	for _, to := range addresses {
		port, ok := i.toward(view, to)
		if !ok {
			continue
		}
		if err := i.network.Tell(port, to, bytes); err != nil {
			i.log.Debug("speak to another agent", logging.Address(to.String()), zap.Error(err))
		}
	}
}

// toward is the port by which an address is reached; a link-local one of IPv6 is meant on the network of the instance.
func (i *instance) toward(view nic.View, to netip.Addr) (nic.Port, bool) {
	if to.Is6() && to.IsLinkLocalUnicast() {
		return i.port, i.wire != nil && i.port.Source.Is6()
	}
	return view.Toward(to)
}

// all returns where the other agents can be asked: what they have told, what is configured, and where the last advert
// came from.
func (i *instance) all() []netip.Addr {
	var all []netip.Addr
	for _, p := range i.order.local.Peers {
		all = append(all, p.Addresses...)
	}
	for _, node := range slices.Sorted(maps.Keys(i.agents)) {
		all = append(all, i.agents[node].addresses...)
	}
	if i.master.IsValid() {
		all = append(all, i.master)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// ask asks all other agents how they stand.
func (i *instance) ask() {
	now := time.Now()
	deaf := i.state == fsm.Backup && now.Sub(i.heardAt) >= i.config.Missed()
	i.post(now, deaf)
	to := i.all()
	if len(to) == 0 {
		return
	}
	m := i.message(parley.Question, 0)
	m.Deaf = deaf
	i.asked[i.askedAt] = asked{m.Number, now}
	i.askedAt = (i.askedAt + 1) % len(i.asked)
	i.tell(m, to...)
}

// post asks through etcd too: a backup that misses its master, and a master that does not hear from its peers.
func (i *instance) post(now time.Time, deaf bool) {
	last := i.posted[(i.postedAt+postMemory-1)%postMemory].at
	switch {
	case deaf && (now.Sub(last) >= postPause || last.Before(i.since) && !i.unheard):
		i.postEach = 0
	case i.state == fsm.Master && now.Sub(last) >= i.postEach:
		i.postEach = min(max(2*i.postEach, postPause), postMost)
	default:
		return
	}
	m := i.message(parley.Question, 0)
	m.Deaf = deaf
	i.posted[i.postedAt] = asked{m.Number, now}
	i.postedAt = (i.postedAt + 1) % postMemory
	bytes := m.Append(nil, i.order.keys[0])
	for _, p := range i.order.local.Peers {
		if a := i.agents[p.Node]; deaf || a == nil || now.Sub(a.seen) > directMemory {
			i.network.Post(p.Node, i.name, bytes)
		}
	}
}

// lastAsked is when the last question was asked.
func (i *instance) lastAsked() time.Time {
	return i.asked[(i.askedAt+len(i.asked)-1)%len(i.asked)].at
}

// askedAs finds a question of ours by its number.
func (i *instance) askedAs(number uint64) (at time.Time, ok bool) {
	for _, a := range i.asked {
		if a.number == number && number != 0 && time.Since(a.at) < numberMemory {
			return a.at, true
		}
	}
	return time.Time{}, false
}

// inquire asks on its turn: as a backup from the first missed advert on, as a master now and then.
func (i *instance) inquire() {
	switch i.state {
	case fsm.Backup:
		i.ask()
		i.asking.Reset(i.config.FollowedInterval())
	case fsm.Master:
		i.ask()
		i.asking.Reset(max(i.config.Interval, askPause))
	}
}

// listen takes in a message.
func (i *instance) listen(w word) {
	l := i.order.local
	var m parley.Message
	var err error
	for _, key := range i.order.keys {
		if m, err = parley.Parse(w.bytes, key); err == nil {
			break
		}
	}
	if err != nil {
		i.log.Debug("message of another agent", logging.Address(w.from.String()), zap.Error(err))
		return
	}
	if m.Node == l.Node || m.VirtualRouterID != l.VirtualRouterID ||
		!slices.ContainsFunc(l.Peers, func(p spec.Peer) bool { return p.Node == m.Node }) {
		return
	}
	a := i.agents[m.Node]
	if a == nil {
		a = &agent{}
		i.agents[m.Node] = a
	}
	owner, takes, priority := a.owner, a.takes(), a.priority
	a.addresses, a.priority, a.owner, a.ready = m.Addresses, m.Priority, m.Owner, m.Ready
	if w.from.IsValid() {
		a.seen = time.Now()
		if linkLocal := w.from.Is6() && w.from.IsLinkLocalUnicast(); !linkLocal && !slices.Contains(a.addresses, w.from) {
			a.addresses = append(a.addresses, w.from)
		}
	}
	switch m.Kind {
	case parley.Question:
		a.number = m.Number
		i.answer(m, a, w.from)
	case parley.Answer:
		i.learnAnswer(m, !w.from.IsValid())
	case parley.Request:
		i.requested(m, a)
	case parley.Offer:
		i.offered(m, a)
	case parley.Taken, parley.Refused:
		i.concluded(m)
	}
	if a.owner != owner || a.takes() != takes || a.priority != priority || time.Since(a.shown) >= helloPause {
		a.shown = time.Now()
		i.config.First = i.first()
		i.publish()
	}
}

// answer answers a question. One who is deaf is answered by every way, and sent our adverts by unicast.
func (i *instance) answer(q parley.Message, a *agent, from netip.Addr) {
	if !from.IsValid() {
		i.network.Post(q.Node, i.name, i.message(parley.Answer, q.Number).Append(nil, i.order.keys[0]))
	}
	to := []netip.Addr{from}
	if !from.IsValid() {
		to = nil
	}
	if q.Deaf {
		to = a.addresses
		if i.state == fsm.Master && !i.wasLate(!from.IsValid()) {
			for _, address := range to {
				i.sendToo(address)
			}
		}
	}
	i.tell(i.message(parley.Answer, q.Number), to...)
}

// wasLate tells whether a question may be of a time when no advert of ours was to be heard. Such a one is answered before an
// advert is missed anew; through etcd it is longer on its way. One who is deaf asks again.
func (i *instance) wasLate(posted bool) bool {
	now, memory := time.Now(), i.config.Missed()
	if posted {
		memory = max(memory, postGrace)
	}
	return now.Sub(i.advertised) >= i.config.Missed() || now.Sub(i.late) < memory
}

// sendToo sends our adverts to the address too, for a while. It must be in the network of the instance, and, with IPv6,
// link-local, so that they come from where those by multicast come from.
func (i *instance) sendToo(to netip.Addr) {
	d, known := i.deaf[to]
	if d.peer || to.Is6() != i.order.local.V6() || to.Is6() && !to.IsLinkLocalUnicast() {
		return
	}
	if port, ok := i.toward(i.network.View(), to); !ok || port.Index != i.port.Index || !known && len(i.deaf) >= deafMost {
		return
	}
	d.until = time.Now().Add(deafMemory)
	i.deaf[to] = d
	if !known {
		i.log.Warn(deafMessage, logging.Address(to.String()))
		i.write()
		i.sendUnicast(false)
	}
}

// sendUnicast sends the advert to those who are deaf.
func (i *instance) sendUnicast(resign bool) {
	for to, d := range i.deaf {
		if !d.peer && time.Now().After(d.until) {
			delete(i.deaf, to)
			continue
		}
		payload := d.advert
		if resign {
			payload = d.resign
		}
		f := i.format
		f.Source, f.Destination = i.port.From(to), to
		i.sign(payload, f)
		if err := i.wire.SendTo(to, payload); err != nil {
			i.log.Debug("send advert by unicast", logging.Address(to.String()), zap.Error(err))
		}
	}
}

// learnAnswer takes in an answer.
func (i *instance) learnAnswer(m parley.Message, posted bool) {
	at, ok := i.askedAs(m.Echo)
	if posted {
		at, ok = i.postedAs(m.Echo)
	}
	if !ok || !m.Owner {
		return
	}
	if posted {
		i.witness, i.vouched = m.Node, at
	}
	from := netip.IPv4Unspecified() // below all others, if it has not told any
	if len(m.Addresses) > 0 {
		from = m.Addresses[0]
	}
	switch {
	case i.state == fsm.Backup && at.After(i.since):
		i.lives = m.Node
	case i.state == fsm.Master && !i.moving(from):
		// Two masters that do not hear each other. The rule of VRRP decides, as if it had been an advert.
		i.step(fsm.Event{Kind: fsm.Heard, Priority: m.Priority, From: from}, because(fmt.Sprintf("node %s is master with priority %d", m.Node, m.Priority)))
	}
}

// postedAs finds a question through etcd by its number.
func (i *instance) postedAs(number uint64) (at time.Time, ok bool) {
	for _, a := range i.posted {
		if a.number == number && number != 0 {
			return a.at, true
		}
	}
	return time.Time{}, false
}

// silent is what a backup does when it has waited long enough: true, it goes on waiting.
func (i *instance) silent() bool {
	fresh := time.Since(i.heardAt) <= i.config.Missed()
	if i.heard != (cause{}) && i.heard.priority != packet.PriorityStop && fresh {
		return i.request()
	}
	if i.lives == "" && time.Since(i.vouched) < postGrace {
		i.lives = i.witness
	}
	if i.lives == "" && i.group.hears(i) {
		i.lives = "the one that sync group " + i.group.name + " hears"
	}
	if i.lives == "" || i.heard.from.IsValid() && i.heard.priority == packet.PriorityStop {
		return false
	}
	i.counters.witnessed.Add(1)
	if !i.unheard {
		i.unheard = true
		i.log.Warn("the master is not heard but lives; this node does not take over", zap.String("master", i.lives))
	}
	i.step(fsm.Event{Kind: fsm.Timer, OwnerLives: true}, cause{})
	i.publish()
	return true
}

// request asks a living master of lower priority to hand over, if it is an agent: then nothing is lost. true: it is worth
// waiting for.
func (i *instance) request() bool {
	for node, a := range i.agents {
		if !slices.Contains(a.addresses, i.master) || time.Since(a.seen) > agentMemory {
			continue
		}
		if i.requests >= requestsMost && !i.declined {
			i.log.Warn("the master does not hand over; taking over", zap.String("master", node))
			return false
		}
		if i.declined {
			i.requests, i.declined = 0, false
			i.arm(i.config.MasterDown())
			return true
		}
		i.requests++
		i.ask() // the offer must bear a number that is fresh
		i.tell(i.message(parley.Request, 0), a.addresses...)
		i.arm(max(i.config.FollowedInterval(), requestPause))
		return true
	}
	return false
}

// requested: a backup of higher priority asks for the addresses.
func (i *instance) requested(m parley.Message, a *agent) {
	if i.state == fsm.Master && i.offer != nil && i.offer.node == m.Node {
		return
	}
	if i.state != fsm.Master || i.offer != nil || !m.Ready || m.Priority <= i.config.Priority {
		i.tell(i.message(parley.Refused, m.Number), a.addresses...)
		return
	}
	i.makeOffer(m.Node, func(string, error) {}) // what comes of it is in the log
	i.group.pull(i, pull{kind: pullOffer, from: i.name, node: m.Node})
}

// handOver gives the addresses to a node, or to the best one, and tells when it is done.
func (i *instance) handOver(node string, resign bool, answer func(string, error)) {
	if node == i.order.local.Node && node != "" {
		answer("", ErrSelf)
		return
	}
	if node != "" && !slices.ContainsFunc(i.order.local.Peers, func(p spec.Peer) bool { return p.Node == node }) {
		answer("", ErrNotMember)
		return
	}
	if i.state != fsm.Master {
		answer("", ErrNotMaster)
		return
	}
	if i.offer != nil {
		answer("", ErrBusy)
		return
	}
	if node == "" {
		node = i.successor()
	}
	if a := i.agents[node]; a == nil || !a.takes() {
		if !resign {
			answer("", ErrNoAgent)
			return
		}
		i.stoodBack = true
		i.build()
		i.step(fsm.Event{Kind: fsm.Resign}, because("resigned as asked"))
		answer("", nil)
		return
	}
	i.makeOffer(node, answer)
	i.group.pull(i, pull{kind: pullOffer, from: i.name, node: node})
}

// successor is the best agent that would take over; "" if there is none.
func (i *instance) successor() string {
	best := ""
	for node, a := range i.agents {
		if a.takes() && (best == "" || cmp.Or(cmp.Compare(a.priority, i.agents[best].priority), cmp.Compare(best, node)) > 0) {
			best = node
		}
	}
	return best
}

// beginMove notes a handover with a node, before anything is said of it.
func (i *instance) beginMove(node string) {
	i.move = move{node, time.Now().Add(offerMost)}
	i.group.begin(i.move)
}

// moving tells whether a handover with the node at that address is under way. Both are master for a moment then, and
// neither goes by what the other one says of itself until it is over.
func (i *instance) moving(with netip.Addr) bool {
	for _, m := range []move{i.move, i.group.current()} {
		if m.node == "" || !time.Now().Before(m.until) {
			continue
		}
		if a := i.agents[m.node]; a != nil && slices.Contains(a.addresses, with) {
			return true
		}
	}
	return false
}

func (i *instance) makeOffer(node string, answer func(string, error)) {
	i.beginMove(node)
	i.offer = &offer{node: node, number: rand.Uint64(), until: time.Now().Add(offerMost), answer: answer}
	i.repeatOffer()
}

// repeatOffer says it again, or gives up.
func (i *instance) repeatOffer() {
	o := i.offer
	if o == nil {
		return
	}
	if i.state != fsm.Master {
		i.endOffer(ErrNotMaster)
		return
	}
	if !time.Now().Before(o.until) {
		i.endOffer(ErrUnconfirmed)
		return
	}
	m := i.message(parley.Offer, i.agents[o.node].number)
	m.Number = o.number
	i.tell(m, i.agents[o.node].addresses...)
	i.offering.Reset(offerPause)
}

func (i *instance) endOffer(err error) {
	o := i.offer
	i.offer = nil
	i.offering.Stop()
	if follow := i.follow; follow {
		i.follow = false
		if err != nil && i.state == fsm.Master {
			i.step(fsm.Event{Kind: fsm.Resign}, because("sync group "+i.group.name+" has moved"))
		}
	}
	if err != nil {
		i.log.Warn("addresses were not handed over", zap.String("to", o.node), zap.Error(err))
		o.answer("", err)
		return
	}
	o.answer(o.node, nil)
}

// offerAway tells the best agent that the addresses are free, without waiting for it: the reason is that they are of no
// use here.
func (i *instance) offerAway() {
	node := i.successor()
	if i.state != fsm.Master || node == "" || i.offer != nil {
		return
	}
	i.tell(i.message(parley.Offer, i.agents[node].number), i.agents[node].addresses...)
}

// offered: the master hands over to us.
func (i *instance) offered(m parley.Message, a *agent) {
	_, fresh := i.askedAs(m.Echo)
	if !fresh && m.Owner && i.ready() {
		// Of a former life of this node, or of a stranger who plays it back. A master repeats an offer that gets no answer, with
		// the number of our newest question.
		if time.Since(i.lastAsked()) >= offerPause {
			i.ask()
		}
		return
	}
	// One who is master already, by its sync group, only says so.
	if (i.ready() || i.state == fsm.Master) && m.Owner && fresh && i.accepted != m.Number {
		i.beginMove(m.Node)
		i.step(fsm.Event{Kind: fsm.Invited}, because("node "+m.Node+" hands over"))
		if i.state == fsm.Master {
			i.accepted = m.Number // once; the repetitions of the offer lie behind it
			i.settleIn()
		}
	}
	kind := parley.Refused
	if i.state == fsm.Master && i.accepted == m.Number && m.Number != 0 {
		kind = parley.Taken
	}
	i.tell(i.message(kind, m.Number), a.addresses...)
}

// concluded: the other one has taken the addresses, or will not.
func (i *instance) concluded(m parley.Message) {
	if m.Kind == parley.Refused && i.state == fsm.Backup {
		i.declined = true
		return
	}
	if i.offer == nil || i.offer.node != m.Node || i.offer.number != m.Echo {
		return
	}
	if m.Kind == parley.Refused {
		i.endOffer(ErrRefused)
		return
	}
	i.stoodBack = m.Priority <= i.config.Priority
	i.build()
	i.step(fsm.Event{Kind: fsm.Replaced}, because("handed over to node "+m.Node))
	i.heardAt = time.Now() // nothing was to be heard until now
	i.ask()                // so that the new master can hand back at once
	i.endOffer(nil)
}

// setDrained drains the node, or ends that.
func (i *instance) setDrained(on bool, answer func(string, error)) {
	i.drained = on
	if !on {
		i.stoodBack = false
	}
	i.build()
	i.publish()
	if !on || i.state != fsm.Master {
		answer("", nil)
		return
	}
	i.send(i.advert, false) // the peers learn of the low priority now
	i.handOver("", false, answer)
}

// agentsNow lists the agents for people.
func (i *instance) agentsNow() []plan.Agent {
	var all []plan.Agent
	for _, node := range slices.Sorted(maps.Keys(i.agents)) {
		a := i.agents[node]
		all = append(all, plan.Agent{
			Node: node, Addresses: slices.Clone(a.addresses), Priority: a.priority, Owner: a.owner, Ready: a.takes(), Seen: a.seen,
		})
	}
	return all
}

// command runs something on the instance's goroutine and waits for what comes of it.
func (i *instance) command(ctx context.Context, do func(answer func(string, error))) (string, error) {
	c := command{do: do, done: make(chan outcome, 1)}
	select {
	case i.commands <- c:
	case <-i.done:
		return "", errStopped
	case <-ctx.Done():
		return "", ctx.Err()
	}
	select {
	case o := <-c.done:
		return o.node, o.err
	case <-i.done:
		return "", errStopped
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
