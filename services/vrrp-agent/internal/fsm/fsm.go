// Package fsm answers: given the state of an instance and what has happened, which state comes next and what is to be
// done?
//
// It is RFC 3768 and RFC 5798, section 6.4, with what keepalived adds: the state Fault, and the answer of a master to an
// advert of lower priority; and of our own what agents agree on among themselves, and HeldUp. The package is pure: it has no
// clock, no sockets and no memory; whoever drives it carries out the actions in their order.
package fsm

import (
	"fmt"
	"net/netip"
	"time"
)

// State of an instance on one node.
type State uint8

const (
	// Initialize waits for Startup.
	Initialize State = iota
	// Backup listens to a master, or waits to become it.
	Backup
	// Master holds the addresses.
	Master
	// Fault holds nothing and does not stand for election: something that the instance needs is broken.
	Fault
)

// String names the state as it appears in log and status.
func (s State) String() string {
	switch s {
	case Initialize:
		return "initialize"
	case Backup:
		return "backup"
	case Master:
		return "master"
	case Fault:
		return "fault"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Config is what the machine knows about the instance on this node.
type Config struct {
	// Priority of this node, 1 to 254.
	Priority uint8
	// Interval between two adverts of ours.
	Interval time.Duration
	// MasterInterval is the interval of the master that is listened to (RFC 5798, section 6.1: Master_Adver_Interval).
	// 0: the same as Interval, as it always is in version 2.
	MasterInterval time.Duration
	// SkewByInterval makes the skew a part of the master's interval, as in version 3, and not of a second.
	SkewByInterval bool
	// First: of all that would replace the master that is listened to, this node is the first, and nobody has to be waited
	// for. It counts only where SkewByInterval does, and with a master that has been heard.
	First bool
	// Preempt: a backup takes over from a master of lower priority.
	Preempt bool
	// Self is the address that our adverts come from. It breaks ties of equal priority.
	Self netip.Addr
}

// mastersMissed is how many adverts a backup misses before it takes over (RFC 3768, section 6.1).
const mastersMissed = 3

// FollowedInterval is the interval that a backup reckons with.
func (c Config) FollowedInterval() time.Duration {
	if c.MasterInterval > 0 {
		return c.MasterInterval
	}
	return c.Interval
}

// Skew is how long a backup waits after the master has resigned: less, the higher its priority. RFC 3768, section 6.1:
// (256 - priority) / 256 seconds; RFC 5798, section 6.1: of the master's interval instead of a second. Whose turn it is
// first need not wait.
func (c Config) Skew() time.Duration {
	whole := time.Second
	if c.First && c.SkewByInterval && c.MasterInterval > 0 {
		return 0
	}
	if c.SkewByInterval {
		whole = c.FollowedInterval()
	}
	return time.Duration(256-int(c.Priority)) * whole / 256
}

// MasterDown is how long a backup waits for an advert before it takes over (RFC 3768 and RFC 5798, section 6.1).
func (c Config) MasterDown() time.Duration { return mastersMissed*c.FollowedInterval() + c.Skew() }

// Missed is how long after an advert the next one is missed: half an interval late.
func (c Config) Missed() time.Duration { return c.FollowedInterval() * 3 / 2 }

// Kind of an event.
type Kind uint8

const (
	// Startup begins the instance.
	Startup Kind = iota
	// Shutdown ends it.
	Shutdown
	// Timer: the one timer of the instance has run out. What it was for follows from the state.
	Timer
	// Heard: an advert that has passed all checks.
	Heard
	// Broken: something that the instance needs has failed.
	Broken
	// Mended: nothing that the instance needs fails any more.
	Mended
	// HeldUp: this node has not run for so long that it holds no addresses any more and another has taken over.
	HeldUp
	// Invited: the master hands over to this node, which takes its place now.
	Invited
	// Replaced: the node that this one has handed over to holds the addresses.
	Replaced
	// Resign: give up the addresses to whoever comes first.
	Resign
)

// Event is something that happened.
type Event struct {
	Kind Kind
	// Priority and From of the advert, with Heard.
	Priority uint8
	From     netip.Addr
	// OwnerLives, with Timer: the master is not heard, but it has answered meanwhile that it holds the addresses.
	OwnerLives bool
}

// Action is something to do.
type Action uint8

const (
	// SendAdvert sends an advert with our priority.
	SendAdvert Action = iota
	// SendResign sends an advert with priority 0.
	SendResign
	// AddAddresses puts the addresses on the network card.
	AddAddresses
	// RemoveAddresses takes them away.
	RemoveAddresses
	// Announce sends gratuitous ARP for the addresses.
	Announce
	// TimeAdvert sets the timer to Interval.
	TimeAdvert
	// TimeMasterDown sets the timer to MasterDown.
	TimeMasterDown
	// TimeSkew sets the timer to Skew.
	TimeSkew
	// StopTimer stops the timer.
	StopTimer
	// FollowInterval makes the interval of the advert heard the MasterInterval. It is ours again with the end of Backup.
	FollowInterval
)

var actionNames = [...]string{
	"send-advert", "send-resign", "add-addresses", "remove-addresses", "announce",
	"time-advert", "time-master-down", "time-skew", "stop-timer", "follow-interval",
}

// String names the action.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// The answers are constant lists, so that a step allocates nothing.
var (
	wait      = []Action{TimeMasterDown}
	follow    = []Action{FollowInterval, TimeMasterDown}
	waitSkew  = []Action{TimeSkew}
	stopTimer = []Action{StopTimer}
	// The advert goes first: a rival learns of us before the network does.
	takeOver  = []Action{SendAdvert, AddAddresses, Announce, TimeAdvert}
	advertise = []Action{SendAdvert, TimeAdvert}
	insist    = []Action{SendAdvert, Announce, TimeAdvert}
	yield     = []Action{RemoveAddresses, FollowInterval, TimeMasterDown}
	// The addresses go first: another one has them. A master that has been replaced will answer the resignation, and whoever
	// has just believed our last advert will take over soon.
	demote = []Action{RemoveAddresses, SendResign, TimeMasterDown}
	handed = []Action{RemoveAddresses, TimeMasterDown}
	giveUp = []Action{SendResign, RemoveAddresses, TimeMasterDown}
	resign = []Action{SendResign, RemoveAddresses, StopTimer}
)

// Step returns the next state and the actions that lead there. The actions are not to be changed.
func Step(c Config, s State, e Event) (State, []Action) {
	if e.Kind == Shutdown {
		return stop(s, Initialize)
	}
	switch s {
	case Initialize:
		switch e.Kind {
		case Startup:
			return Backup, wait
		case Broken:
			return Fault, nil
		}
	case Backup:
		switch e.Kind {
		case Timer:
			if e.OwnerLives {
				return Backup, wait
			}
			return Master, takeOver
		case Invited:
			return Master, takeOver
		case Heard:
			return Backup, c.heardAsBackup(e)
		case Broken:
			return stop(s, Fault)
		}
	case Master:
		switch e.Kind {
		case Timer:
			return Master, advertise
		case Heard:
			return c.heardAsMaster(e)
		case HeldUp:
			return Backup, demote
		case Replaced:
			return Backup, handed
		case Resign:
			return Backup, giveUp
		case Broken:
			return stop(s, Fault)
		}
	case Fault:
		if e.Kind == Mended {
			return Backup, wait
		}
	}
	return s, nil
}

// stop leaves s for a state that holds nothing.
func stop(s, next State) (State, []Action) {
	switch s {
	case Master:
		return next, resign
	case Backup:
		return next, stopTimer
	}
	return next, nil
}

// heardAsBackup: RFC 3768 and RFC 5798, section 6.4.2. A master of lower priority does not reset the timer, which therefore ends its
// term.
func (c Config) heardAsBackup(e Event) []Action {
	switch {
	case e.Priority == 0:
		return waitSkew
	case e.Priority >= c.Priority || !c.Preempt:
		return follow
	}
	return nil
}

// heardAsMaster: RFC 3768 and RFC 5798, section 6.4.3. Unlike there, and as in keepalived, a rival of lower priority is answered at
// once, and the network is told again whose the addresses are: its caches may point to the rival.
func (c Config) heardAsMaster(e Event) (State, []Action) {
	switch {
	case e.Priority == 0:
		return Master, advertise
	case e.Priority > c.Priority, e.Priority == c.Priority && c.Self.Less(e.From):
		return Backup, yield
	}
	return Master, insist
}
