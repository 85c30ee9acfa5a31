// Package spec answers: which VRRP instances are wanted, and is that possible?
//
// It turns the messages of the desired state into values of ours, fills in the defaults and checks everything once. The
// package is pure.
package spec

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
)

// Kind of the desired objects in the key space.
const KindInstance = "instance"

// Limits and defaults of the desired state.
const (
	// MaxAddresses is the most virtual addresses of one instance; keepalived has the same limit for adverts.
	MaxAddresses = 20
	// MaxRoutes is the most virtual routes of one instance.
	MaxRoutes = 16
	// DefaultMetricV6 is the metric of a route of IPv6 that is given none (IP6_RT_PRIO_USER in include/uapi/linux/ipv6_route.h).
	DefaultMetricV6 = 1024
	// MaxMembers is the most nodes of one instance.
	MaxMembers = 32
	// MaxTrackers is the most trackers of one instance.
	MaxTrackers = 16
	// MaxPriority is the highest priority. 255 is kept for a router that owns the address for good (RFC 3768, section
	// 5.3.4), which a floating address has not.
	MaxPriority = 254
	// MaxMemberAddresses is the most addresses of one member; parley has the same limit.
	MaxMemberAddresses = 16
	// MinInterval is the shortest advert interval of version 2, and its unit.
	MinInterval = time.Second
	// MaxInterval is the longest of version 2: its field has one byte (RFC 3768, section 5.3.7).
	MaxInterval = 255 * time.Second
	// MinIntervalV3 is the shortest advert interval of version 3, and its unit (RFC 5798, section 5.2.7).
	MinIntervalV3 = packet.Centisecond
	// MaxIntervalV3 is the longest of version 3: its field has twelve bits.
	MaxIntervalV3 = 4095 * packet.Centisecond
	// MaxCheckPause bounds a tracker's interval and timeout.
	MaxCheckPause = time.Minute
	// MinCheckInterval is the shortest pause between two checks of a tracker.
	MinCheckInterval = 10 * time.Millisecond
	// MinCheckTimeout is the shortest timeout of a check.
	MinCheckTimeout = time.Millisecond
	// MaxWeight is the largest weight of a tracker, as in keepalived.
	MaxWeight = 253
	// MaxHoldDown is the longest hold_down of a tracker.
	MaxHoldDown = 10 * time.Minute
	// MaxDelay is the longest preempt_delay and startup_delay, as in keepalived.
	MaxDelay = 1000 * time.Second
	// MinRefresh and MaxRefresh bound how often addresses are announced again.
	MinRefresh = time.Second
	MaxRefresh = time.Hour
	// MaxArguments and MaxArgument bound the command of a script.
	MaxArguments = 32
	// MaxKey is the longest key in etcd, in bytes.
	MaxKey      = 1024
	MaxArgument = 4096
	// MaxProcessName is the length of a process's name in the kernel (TASK_COMM_LEN without its end).
	MaxProcessName = 15
	// MaxCount is the highest rise or fall of a tracker.
	MaxCount = 100

	// DefaultInterval between two adverts.
	DefaultInterval = time.Second
	// FastInterval is the default of the profile fast.
	FastInterval = 30 * time.Millisecond
	// DefaultCheckInterval between two checks of a tracker.
	DefaultCheckInterval = 200 * time.Millisecond
	// DefaultCheckTimeout of a check, unless the interval is longer.
	DefaultCheckTimeout = time.Second
	// DefaultRefresh is how often a master announces its addresses again: more often than most caches forget.
	DefaultRefresh = time.Minute
	// DefaultCount is the rise and fall of a tracker.
	DefaultCount = 2
)

// Checksum is which form of checksum the adverts of version 3 carry.
type Checksum uint8

const (
	// ChecksumAuto does as the peers do.
	ChecksumAuto Checksum = iota
	// ChecksumPseudoHeader is packet.ChecksumPseudoHeader, whatever the peers do.
	ChecksumPseudoHeader
	// ChecksumMessage is packet.ChecksumMessage, whatever the peers do.
	ChecksumMessage
)

// String names the choice.
func (c Checksum) String() string {
	switch c {
	case ChecksumPseudoHeader:
		return packet.ChecksumPseudoHeader.String()
	case ChecksumMessage:
		return packet.ChecksumMessage.String()
	}
	return "auto"
}

// Instance is a wanted VRRP instance, for all its members.
type Instance struct {
	// Name, unique among the instances.
	Name string
	// VirtualRouterID, 1 to 255, unique among the instances.
	VirtualRouterID uint8
	// Addresses that one member holds, of one family, in the order of the adverts. On IPv6 the first is link-local, and at
	// least one is not.
	Addresses []netip.Addr
	// Network whose card carries the instance. Invalid: the narrowest that holds the addresses.
	Network netip.Prefix
	// Members in the order of the desired state.
	Members []Member
	// Version of VRRP.
	Version packet.Version
	// Interval between two adverts. V2: whole seconds, 1 s to 255 s; V3: centiseconds, 10 ms to 40.95 s.
	Interval time.Duration
	// Checksum of the adverts, with V3.
	Checksum Checksum
	// PasswordFile holds the simple text password. Empty: there is none.
	PasswordFile string
	// HMAC signs the adverts.
	HMAC HMAC
	// Preempt: a higher priority takes over from a living master.
	Preempt bool
	// SyncGroup of the instance; empty: none.
	SyncGroup string
	// Unicast: adverts go to the first address of each other member, and come from there.
	Unicast bool
	// Hooks and Mail tell of changes of state.
	Hooks []Hook
	Mail  Mail
	// VirtualMAC: the addresses have an Ethernet address of their own, which moves with them. AdvertsFromCard: adverts do not
	// come from it.
	VirtualMAC, AdvertsFromCard bool
	// Refresh is how often the master tells the network again where the addresses are. 0: never, which Parse does not make.
	Refresh time.Duration
	// PreemptDelay is how long a node that has started or recovered does not preempt.
	PreemptDelay time.Duration
	// StartupDelay is how long a node that has started listens at least.
	StartupDelay time.Duration
	// Routes that the master has.
	Routes []Route
	// Spread: the instance is moved to where fewer are held.
	Spread bool
	// Trackers that put the instance in fault, or change its priority.
	Trackers []Tracker
}

// Route is a virtual route. It can be compared.
type Route struct {
	Destination netip.Prefix
	// Via is the gateway. Invalid: the destination is on the card of the addresses.
	Via netip.Addr
	// Source is the preferred sender's address. Invalid: the card's own.
	Source netip.Addr
	// Metric of the route.
	Metric uint32
}

// String is the route as the program ip says it.
func (r Route) String() string {
	text := r.Destination.String()
	if r.Via.IsValid() {
		text += " via " + r.Via.String()
	}
	if r.Source.IsValid() {
		text += " src " + r.Source.String()
	}
	if r.Metric > 0 {
		text += fmt.Sprintf(" metric %d", r.Metric)
	}
	return text
}

// What is what a check looks at. It can be compared.
type What struct {
	// Kind of the check.
	Kind CheckKind
	// Target: the service, with CheckGRPC, empty is the server as a whole; the user, with CheckScript; the name, with
	// CheckProcess and CheckInterface; the path, with CheckFile and CheckHTTP; the destination, with CheckRoute; the value, with CheckEtcd.
	Target string
	// Command of CheckScript, each argument ended by a zero byte.
	Command string
	// Host header of CheckHTTP; empty: the address.
	Host string
	// Exact: with CheckEtcd, the value must be Target; otherwise any will do.
	Exact bool
	// Number: with CheckFile, what the file holds has to be 0.
	Number bool
	// Namespace: with CheckFile, the file has to bear the mark of the agent's network namespace.
	Namespace bool
	// LastResort: with CheckGRPC, it only fails while the service is well on another member.
	LastResort bool
	// Reverse: it is well when the thing is not there.
	Reverse bool
}

// Arguments are the command of CheckScript.
func (w What) Arguments() []string { return arguments(w.Command) }

// Arguments are the command.
func (h Hook) Arguments() []string { return arguments(h.Command) }

func arguments(command string) []string {
	if command == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(command, "\x00"), "\x00")
}

// Member is a node of an instance.
type Member struct {
	// Node name.
	Node string
	// Priority, 1 to 254.
	Priority uint8
	// Addresses by which the other members ask this one how it stands.
	Addresses []netip.Addr
}

// Hook is a program that is told of changes.
type Hook struct {
	// Command, each argument ended by a zero byte, and the User who runs it.
	Command, User string
	// State of which it is told, without further arguments; empty: of all, with keepalived's arguments.
	State string
}

// States that a hook can be told of, by keepalived's names.
const (
	StateMaster = "MASTER"
	StateBackup = "BACKUP"
	StateFault  = "FAULT"
	StateStop   = "STOP"
)

// Mail is where changes are told by SMTP. The zero value: nowhere.
type Mail struct {
	From    string
	To      []string
	Server  string // HOST:PORT
	Timeout time.Duration
}

// Limits of what is told.
const (
	// MaxHooks is the most programs of one instance.
	MaxHooks = 8
	// MaxReceivers is the most receivers of a mail.
	MaxReceivers = 16
	// DefaultMailTimeout is how long a mail may take, as in keepalived.
	DefaultMailTimeout = 30 * time.Second
	// MinMailTimeout and MaxMailTimeout bound it.
	MinMailTimeout = time.Second
	MaxMailTimeout = 5 * time.Minute
)

// HMAC is how adverts are signed.
type HMAC struct {
	// Keys by their files; none: adverts are not signed.
	Keys []KeyFile
	// Active is the identifier of the key that our adverts are made with.
	Active uint8
	// Send: ours bear a code. Require: those without one are dropped.
	Send, Require bool
}

// KeyFile is a key and where it is read.
type KeyFile struct {
	ID   uint8
	File string
}

// CheckKind is what a tracker looks at.
type CheckKind uint8

const (
	// CheckGRPC asks the health service of a gRPC server.
	CheckGRPC CheckKind = iota
	// CheckScript runs a program.
	CheckScript
	// CheckProcess looks for a process.
	CheckProcess
	// CheckFile looks for a file.
	CheckFile
	// CheckInterface looks at a network card.
	CheckInterface
	// CheckRoute looks for a route.
	CheckRoute
	// CheckTCP connects.
	CheckTCP
	// CheckHTTP asks by HTTP.
	CheckHTTP
	// CheckEtcd looks for a key in etcd.
	CheckEtcd
)

// Tracker is a wanted check of something on the members' own nodes.
type Tracker struct {
	// Name, unique within the instance.
	Name string
	// What is the part of the check that is the same on all nodes.
	What What
	// Addresses to ask, HOST:PORT or unix:PATH, by node; with CheckGRPC, CheckTCP and CheckHTTP. The key, with
	// CheckEtcd.
	Addresses map[string]string
	// Weight that is added to the priority; 0: a failure is a fault.
	Weight int
	// HoldDown is how long it counts as failed at least.
	HoldDown time.Duration
	// Interval between two checks.
	Interval time.Duration
	// Timeout of one check.
	Timeout time.Duration
	// Rise is the number of good checks in a row that end the fault.
	Rise int
	// Fall is the number of bad checks in a row that begin it.
	Fall int
}

// Local is what one node has to do for an instance.
type Local struct {
	// Name of the instance.
	Name string
	// Node is this node.
	Node string
	// Peers are the other members.
	Peers []Peer
	// VirtualRouterID of the instance.
	VirtualRouterID uint8
	// Addresses of the instance.
	Addresses []netip.Addr
	// Network whose card carries the instance. Invalid: the narrowest that holds the addresses.
	Network netip.Prefix
	// Priority of this node.
	Priority uint8
	// Version of VRRP.
	Version packet.Version
	// Interval between two adverts.
	Interval time.Duration
	// Checksum of the adverts, with V3.
	Checksum Checksum
	// PasswordFile of the instance. Empty: there is none.
	PasswordFile string
	// HMAC of the instance.
	HMAC HMAC
	// SyncGroup of the instance; empty: none.
	SyncGroup string
	// Unicast: adverts go to the first address of each other member, and come from there.
	Unicast bool
	// Hooks and Mail tell of changes of state.
	Hooks []Hook
	Mail  Mail
	// VirtualMAC: the addresses have an Ethernet address of their own, which moves with them. AdvertsFromCard: adverts do not
	// come from it.
	VirtualMAC, AdvertsFromCard bool
	// Refresh is how often the master tells the network again where the addresses are. 0: never, which Parse does not make.
	Refresh time.Duration
	// Preempt: take over from a living master of lower priority, PreemptDelay after the start or a fault.
	Preempt      bool
	PreemptDelay time.Duration
	// StartupDelay is how long to listen at least after the start.
	StartupDelay time.Duration
	// Routes that it has as master.
	Routes []Route
	// Spread: the instance is moved to where fewer are held.
	Spread bool
	// Trackers to run on this node.
	Trackers []Check
}

// Peer is another member of an instance.
type Peer struct {
	// Node name.
	Node string
	// Priority of it.
	Priority uint8
	// Addresses by which it can be asked; empty: those that it tells.
	Addresses []netip.Addr
}

// Check is a tracker on one node.
type Check struct {
	// Name of the tracker.
	Name string
	// What it looks at.
	What What
	// Address to ask, HOST:PORT or unix:PATH, or the key in etcd.
	Address string
	// Others are the addresses on the other members, each ended by a zero byte; only with LastResort.
	Others string
	// Weight that is added to the priority; 0: a failure is a fault.
	Weight int
	// HoldDown is how long it counts as failed at least.
	HoldDown time.Duration
	// Interval and Timeout of the checks.
	Interval, Timeout time.Duration
	// Rise and Fall: good and bad checks in a row that change the state.
	Rise, Fall int
}

// On returns what the node has to do, in the order of the names. Instances that do not name the node are left out.
func On(node string, instances []Instance) []Local {
	var all []Local
	for _, i := range instances {
		for _, m := range i.Members {
			if m.Node == node {
				all = append(all, i.on(m))
			}
		}
	}
	return all
}

// V6 tells whether the instance is one of IPv6.
func (i Instance) V6() bool { return len(i.Addresses) > 0 && i.Addresses[0].Is6() }

// V6 tells whether the instance is one of IPv6.
func (l Local) V6() bool { return len(l.Addresses) > 0 && l.Addresses[0].Is6() }

func (i Instance) on(m Member) Local {
	l := Local{
		Name: i.Name, Node: m.Node, VirtualRouterID: i.VirtualRouterID, Addresses: i.Addresses, Network: i.Network, Priority: m.Priority,
		Version: i.Version, Interval: i.Interval, Checksum: i.Checksum, PasswordFile: i.PasswordFile, HMAC: i.HMAC, Unicast: i.Unicast, SyncGroup: i.SyncGroup, Hooks: i.Hooks, Mail: i.Mail, Preempt: i.Preempt,
		VirtualMAC: i.VirtualMAC, AdvertsFromCard: i.AdvertsFromCard, Refresh: i.Refresh, PreemptDelay: i.PreemptDelay, StartupDelay: i.StartupDelay, Routes: i.Routes, Spread: i.Spread,
	}
	for _, other := range i.Members {
		if other.Node != m.Node {
			l.Peers = append(l.Peers, Peer(other))
		}
	}
	for _, t := range i.Trackers {
		check := Check{
			Name: t.Name, What: t.What, Address: t.Addresses[m.Node], Weight: t.Weight, HoldDown: t.HoldDown,
			Interval: t.Interval, Timeout: t.Timeout, Rise: t.Rise, Fall: t.Fall,
		}
		if t.What.LastResort {
			for _, other := range l.Peers {
				check.Others += t.Addresses[other.Node] + "\x00"
			}
		}
		l.Trackers = append(l.Trackers, check)
	}
	return l
}
