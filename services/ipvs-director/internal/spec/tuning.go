package spec

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
)

// Tuning is what a plane has once on a node. The zero value leaves everything as it is.
type Tuning struct {
	Timeouts Timeouts
	// Sync is the synchronisation of connections; nil leaves alone what runs.
	Sync *Sync
}

// Timeouts are when connections of which nothing is heard are forgotten, in whole seconds; 0: as it is. It can be compared.
type Timeouts struct {
	// TCP is for established connections, TCPFin for those that one side has closed, UDP for flows.
	TCP, TCPFin, UDP time.Duration
}

// Or fills in the timeouts that are not said.
func (t Timeouts) Or(otherwise Timeouts) Timeouts {
	for _, of := range []struct{ said, otherwise *time.Duration }{{&t.TCP, &otherwise.TCP}, {&t.TCPFin, &otherwise.TCPFin}, {&t.UDP, &otherwise.UDP}} {
		if *of.said == 0 {
			*of.said = *of.otherwise
		}
	}
	return t
}

func (t Timeouts) String() string {
	return fmt.Sprintf("tcp %s, tcp fin %s, udp %s", t.TCP, t.TCPFin, t.UDP)
}

// Sync is the synchronisation of connections between directors.
type Sync struct {
	// Master tells others, Backup listens to them.
	Master, Backup bool
	// Network that the others are on.
	Network netip.Prefix
	Group   SyncGroup
}

// SyncGroup is where directors tell each other of connections. It can be compared.
type SyncGroup struct {
	// ID of the group, 0 to 255.
	ID uint32
	// Address is sent to, and Port; TTL is how far.
	Address netip.Addr
	Port    uint16
	TTL     uint8
}

func (g SyncGroup) String() string {
	return fmt.Sprintf("id %d, %s:%d, ttl %d", g.ID, g.Address, g.Port, g.TTL)
}

// What the kernel takes where nothing is said (make_send_sock of net/netfilter/ipvs/ip_vs_sync.c).
const (
	DefaultSyncPort = 8848
	DefaultSyncTTL  = 1
)

// DefaultSyncGroup is the address that connections are told to where nothing is said.
var DefaultSyncGroup = netip.AddrFrom4([4]byte{224, 0, 0, 81})

const (
	maxSyncID = 255
	minForget = time.Second
	maxForget = 24 * time.Hour
)

// tuning reads what is for the node; what is for others is checked all the same.
func (p *parser) tuning(m *directorv1.Tuning, node string) {
	path := p.named(KindTuning, m.GetName())
	here := p.nodes(path, m.GetNodes(), node)
	p.only(path, m.GetNodes())
	timeouts := m.GetTimeouts()
	t := Tuning{Timeouts: Timeouts{
		TCP:    p.seconds(path+".timeouts.tcp", timeouts.GetTcp()),
		TCPFin: p.seconds(path+".timeouts.tcp_fin", timeouts.GetTcpFin()),
		UDP:    p.seconds(path+".timeouts.udp", timeouts.GetUdp()),
	}}
	if s := m.GetSync(); s != nil {
		t.Sync = p.syncing(path+".sync", s)
	}
	if !here {
		return
	}
	p.want.Tuning = t
	if t.Timeouts != (Timeouts{}) {
		p.need(path+".timeouts", FeatureTimeouts)
	}
	if t.Sync != nil {
		p.need(path+".sync", FeatureSync)
		if t.Sync.Master || t.Sync.Backup {
			p.sync = path + ".sync"
		}
	}
}

// only notes the nodes of a tuning, none of which may have another.
func (p *parser) only(path string, nodes []string) {
	if len(nodes) == 0 {
		for _, n := range slices.Sorted(maps.Keys(p.tuned)) {
			p.bad(path+".nodes", "it is for every node, and %s is for one of them already", p.tuned[n])
			break
		}
		p.tuned[""] = path
	}
	for i, n := range nodes {
		for _, n := range []string{n, ""} {
			if other, taken := p.tuned[n]; taken {
				p.bad(fmt.Sprintf("%s.nodes[%d]", path, i), "%s is for that node already", other)
			}
		}
		p.tuned[n] = path
	}
}

func (p *parser) seconds(field string, m *durationpb.Duration) time.Duration {
	d := p.duration(field, m, 0, minForget, maxForget)
	if d%time.Second != 0 {
		p.bad(field, "want whole seconds, got %s", d)
	}
	return d
}

func (p *parser) syncing(path string, m *directorv1.ConnectionSync) *Sync {
	s := &Sync{Group: SyncGroup{Address: DefaultSyncGroup, Port: DefaultSyncPort}}
	switch m.GetRole() {
	case directorv1.SyncRole_SYNC_ROLE_UNSPECIFIED, directorv1.SyncRole_SYNC_ROLE_BOTH:
		s.Master, s.Backup = true, true
	case directorv1.SyncRole_SYNC_ROLE_MASTER:
		s.Master = true
	case directorv1.SyncRole_SYNC_ROLE_BACKUP:
		s.Backup = true
	case directorv1.SyncRole_SYNC_ROLE_NONE:
	default:
		p.bad(path+".role", "want both, master, backup or none, got %s", m.GetRole())
	}
	network, err := netip.ParsePrefix(m.GetNetwork())
	switch {
	case m.GetNetwork() == "" && !s.Master && !s.Backup:
	case err != nil || !network.Addr().Is4() || network != network.Masked():
		p.bad(path+".network", "want an IPv4 network, such as 192.168.60.0/24, got %q", m.GetNetwork())
	}
	s.Network = network
	if s.Group.ID = m.GetId(); s.Group.ID > maxSyncID {
		p.bad(path+".id", "want 0 to %d, got %d", maxSyncID, s.Group.ID)
	}
	if text := m.GetGroup(); text != "" {
		group, err := netip.ParseAddr(text)
		if err != nil || !group.Is4() || !group.IsMulticast() {
			p.bad(path+".group", "want an IPv4 multicast address, such as %s, got %q", DefaultSyncGroup, text)
		}
		s.Group.Address = group
	}
	if m.GetPort() != 0 {
		s.Group.Port = p.port(path+".port", m.GetPort())
	}
	s.Group.TTL = uint8(p.number(path+".ttl", m.GetTtl(), DefaultSyncTTL, 1, 255))
	return s
}

// mixed refuses real servers of another family beside a synchronisation, whose messages have no room for them (ip_vs_genl_set_cmd).
func (p *parser) mixed() {
	at := slices.IndexFunc(p.want.Needs, func(n Need) bool { return n.Feature == FeatureMixedFamilies })
	if p.sync != "" && at >= 0 {
		p.bad(p.sync, "connections cannot be told of while %s is of another family than the VIP", p.want.Needs[at].Field)
	}
}
