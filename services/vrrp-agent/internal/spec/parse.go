package spec

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
)

// Parse checks the instances, each alone and all together, and returns them in the order of their names. With violations
// it returns no instances.
func Parse(messages []*vrrpv1.Instance) ([]Instance, []*commonv1.Violation) {
	var c checker
	instances := make([]Instance, 0, len(messages))
	for _, m := range messages {
		instances = append(instances, c.instance(m))
	}
	slices.SortStableFunc(instances, func(a, b Instance) int { return cmp.Compare(a.Name, b.Name) })
	c.together(instances)
	if len(c.violations) > 0 {
		return nil, c.violations
	}
	return instances, nil
}

// name is what instances, nodes and trackers may be called.
var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// IsName tells whether instances, nodes and trackers may be called so.
func IsName(text string) bool { return name.MatchString(text) }

const wantName = "want 1 to 63 letters, digits, dots, underscores or hyphens, the first a letter or digit"

// checker collects what is wrong.
type checker struct {
	violations []*commonv1.Violation
}

func (c *checker) bad(field, format string, args ...any) {
	c.violations = append(c.violations, &commonv1.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
}

func (c *checker) instance(m *vrrpv1.Instance) Instance {
	at := "instance/" + m.GetName() + "."
	i := Instance{Name: m.GetName(), Preempt: !m.GetNopreempt()}
	if !name.MatchString(i.Name) {
		c.bad(at+"name", "%s, got %q", wantName, i.Name)
	}
	if id := m.GetVirtualRouterId(); id < 1 || id > 255 {
		c.bad(at+"virtual_router_id", "want 1 to 255, got %d", id)
	} else {
		i.VirtualRouterID = uint8(id)
	}
	i.Addresses = c.addresses(at, m.GetVirtualAddresses())
	i.Members = c.members(at, m.GetMembers())
	i.Network = c.network(at, m, i)
	i.Routes = c.routes(at, m.GetVirtualRoutes(), i.Addresses)
	i.Version, i.Interval = c.rhythm(at, m)
	i.Checksum = c.checksum(at, m.GetChecksum(), i.Version)
	if i.V6() && i.Version != packet.V3 {
		c.bad(at+"version", "IPv6 needs version 3")
	}
	if i.V6() && i.Checksum == ChecksumMessage {
		c.bad(at+"checksum", "on IPv6 the checksum always covers the pseudo-header")
	}
	i.PasswordFile, i.HMAC = c.authentication(at+"authentication", m.GetAuthentication(), i.Version)
	i.Hooks, i.Mail = c.hooks(at, m), c.mail(at+"mail.", m.GetMail())
	if i.Unicast = m.GetUnicast(); i.Unicast {
		for n, member := range i.Members {
			field := fmt.Sprintf("%smembers[%d].addresses", at, n)
			if len(member.Addresses) == 0 {
				c.bad(field, "want the address for adverts by unicast")
			} else if member.Addresses[0].Is6() != i.V6() {
				c.bad(field+"[0]", "want an address of the family of virtual_addresses for adverts by unicast, got %v", member.Addresses[0])
			}
		}
	}
	i.VirtualMAC, i.AdvertsFromCard = m.GetVirtualMac(), m.GetAdvertsFromCard()
	if i.AdvertsFromCard && !i.VirtualMAC {
		c.bad(at+"adverts_from_card", "without virtual_mac adverts always come from the card")
	}
	i.Refresh = c.duration(at+"announce_refresh", m.GetAnnounceRefresh(), DefaultRefresh, MinRefresh, MaxRefresh)
	i.SyncGroup = m.GetSyncGroup()
	if i.SyncGroup != "" && !name.MatchString(i.SyncGroup) {
		c.bad(at+"sync_group", "%s, got %q", wantName, i.SyncGroup)
	}
	i.PreemptDelay = c.duration(at+"preempt_delay", m.GetPreemptDelay(), 0, 0, MaxDelay)
	i.StartupDelay = c.duration(at+"startup_delay", m.GetStartupDelay(), 0, 0, MaxDelay)
	if m.GetNopreempt() && i.PreemptDelay > 0 {
		c.bad(at+"preempt_delay", "nopreempt leaves nothing to delay")
	}
	i.Trackers = c.trackers(at, m.GetTrackers(), i.Members)
	c.placement(at, m, &i)
	return i
}

// placement of the instance; where it is spread, no priority takes it from the living.
func (c *checker) placement(at string, m *vrrpv1.Instance, i *Instance) {
	switch m.GetPlacement() {
	case vrrpv1.Placement_PLACEMENT_UNSPECIFIED, vrrpv1.Placement_PLACEMENT_PRIORITY:
	case vrrpv1.Placement_PLACEMENT_SPREAD:
		i.Spread, i.Preempt = true, false
		if i.SyncGroup != "" {
			c.bad(at+"placement", "the instances of a sync group are held by one node; they cannot be spread")
		}
		if i.PreemptDelay > 0 {
			c.bad(at+"preempt_delay", "an instance that is spread is not preempted")
		}
	default:
		c.bad(at+"placement", "want priority or spread, got %v", m.GetPlacement())
	}
}

// authentication returns the file of the password, or the keys.
func (c *checker) authentication(at string, a *vrrpv1.Authentication, version packet.Version) (string, HMAC) {
	switch {
	case a == nil:
		return "", HMAC{}
	case a.GetHmac() != nil && a.GetPasswordFile() != "":
		c.bad(at, "want password_file or hmac, not both")
	case a.GetHmac() != nil:
		return "", c.hmac(at+".hmac.", a.GetHmac())
	case version == packet.V3:
		c.bad(at+".password_file", "version 3 has no password; hmac signs its adverts")
	}
	c.file(at+".password_file", a.GetPasswordFile())
	return a.GetPasswordFile(), HMAC{}
}

func (c *checker) file(field, file string) {
	if !path.IsAbs(file) || path.Clean(file) != file {
		c.bad(field, "want the absolute path of a file, got %q", file)
	}
}

func (c *checker) hmac(at string, m *vrrpv1.Hmac) (h HMAC) {
	if len(m.GetKeys()) < 1 || len(m.GetKeys()) > packet.MaxKeys {
		c.bad(at+"keys", "want 1 to %d keys, got %d", packet.MaxKeys, len(m.GetKeys()))
		return h
	}
	for n, k := range m.GetKeys() {
		field := fmt.Sprintf("%skeys[%d].", at, n)
		c.file(field+"file", k.GetFile())
		switch {
		case k.GetId() > 255:
			c.bad(field+"id", "want 0 to 255, got %d", k.GetId())
		case slices.ContainsFunc(h.Keys, func(f KeyFile) bool { return uint32(f.ID) == k.GetId() }):
			c.bad(field+"id", "%d is the identifier of another key already", k.GetId())
		}
		h.Keys = append(h.Keys, KeyFile{ID: uint8(k.GetId()), File: k.GetFile()})
	}
	h.Active = h.Keys[0].ID
	if m.Active != nil {
		if !slices.ContainsFunc(m.GetKeys(), func(k *vrrpv1.HmacKey) bool { return k.GetId() == m.GetActive() }) {
			c.bad(at+"active", "%d is the identifier of no key", m.GetActive())
		}
		h.Active = uint8(m.GetActive())
	}
	switch m.GetMode() {
	case vrrpv1.HmacMode_HMAC_MODE_UNSPECIFIED, vrrpv1.HmacMode_HMAC_MODE_ENFORCE:
		h.Send, h.Require = true, true
	case vrrpv1.HmacMode_HMAC_MODE_PERMISSIVE:
		h.Send = true
	case vrrpv1.HmacMode_HMAC_MODE_RECEIVE_ONLY:
	default:
		c.bad(at+"mode", "want receive-only, permissive or enforce, got %v", m.GetMode())
	}
	return h
}

// rhythm returns version and interval, and what the profile says where they are not given.
func (c *checker) rhythm(at string, m *vrrpv1.Instance) (packet.Version, time.Duration) {
	version, interval := packet.V2, DefaultInterval
	profile := m.GetProfile()
	if profile == vrrpv1.Profile_PROFILE_UNSPECIFIED && m.GetVersion() != uint32(packet.V2) && m.GetAuthentication().GetPasswordFile() == "" {
		profile = vrrpv1.Profile_PROFILE_FAST
	}
	switch profile {
	case vrrpv1.Profile_PROFILE_UNSPECIFIED, vrrpv1.Profile_PROFILE_COMPAT:
	case vrrpv1.Profile_PROFILE_FAST:
		version, interval = packet.V3, FastInterval
		if m.GetVersion() == uint32(packet.V2) {
			c.bad(at+"version", "the profile fast needs version 3")
			return version, interval
		}
	default:
		c.bad(at+"profile", "want compat or fast, got %v", m.GetProfile())
	}
	switch m.GetVersion() {
	case 0: // the profile's
	case uint32(packet.V2), uint32(packet.V3):
		version = packet.Version(m.GetVersion())
	default:
		c.bad(at+"version", "want 2 or 3, got %d", m.GetVersion())
	}
	field := at + "advert_interval"
	if version == packet.V3 {
		interval = c.duration(field, m.GetAdvertInterval(), interval, MinIntervalV3, MaxIntervalV3)
		if interval%MinIntervalV3 != 0 {
			c.bad(field, "want steps of %v, got %v", MinIntervalV3, interval)
		}
		return version, interval
	}
	interval = c.duration(field, m.GetAdvertInterval(), interval, MinInterval, MaxInterval)
	if interval%MinInterval != 0 {
		c.bad(field, "want whole seconds with version 2, got %v", interval)
	}
	return version, interval
}

func (c *checker) checksum(at string, form vrrpv1.ChecksumForm, version packet.Version) Checksum {
	if form != vrrpv1.ChecksumForm_CHECKSUM_FORM_UNSPECIFIED && version != packet.V3 {
		c.bad(at+"checksum", "only version 3 has a choice")
	}
	switch form {
	case vrrpv1.ChecksumForm_CHECKSUM_FORM_UNSPECIFIED:
	case vrrpv1.ChecksumForm_CHECKSUM_FORM_PSEUDO_HEADER:
		return ChecksumPseudoHeader
	case vrrpv1.ChecksumForm_CHECKSUM_FORM_MESSAGE:
		return ChecksumMessage
	default:
		c.bad(at+"checksum", "want pseudo-header or message, got %v", form)
	}
	return ChecksumAuto
}

func (c *checker) addresses(at string, texts []string) []netip.Addr {
	if len(texts) < 1 || len(texts) > MaxAddresses {
		c.bad(at+"virtual_addresses", "want 1 to %d addresses, got %d", MaxAddresses, len(texts))
	}
	var all []netip.Addr
	located := false
	for n, text := range texts {
		field := fmt.Sprintf("%svirtual_addresses[%d]", at, n)
		a, err := netip.ParseAddr(text)
		switch {
		case err != nil || a.Zone() != "" || a.Is4In6():
			c.bad(field, "want an IPv4 or IPv6 address without a mask, got %q", text)
			continue
		case !ordinary(a):
			c.bad(field, "want an address that one machine can have, got %v", a)
			continue
		case len(all) > 0 && a.Is6() != all[0].Is6():
			c.bad(field, "want one family in all addresses: %v and %v are two instances, which a sync group can hold together", all[0], a)
		case a.Is6() && n == 0 && !linkLocal(a):
			c.bad(field, "want a link-local address first (RFC 9568, section 5.2.9), such as fe80::%x, got %v", a.As16()[15], a)
		}
		located = located || !linkLocal(a)
		all = append(all, a)
	}
	if len(all) > 0 && !located {
		c.bad(at+"virtual_addresses", "want one that is not link-local: the network card is found by its subnet")
	}
	return all
}

// linkLocal tells whether an address of IPv6 is link-local, and so in a subnet that every card has.
func linkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// ordinary leaves out what no network card can have as a floating address: of IPv4 this network (0/8), loopback,
// link-local, multicast and what lies above; of IPv6 loopback and multicast (RFC 6890).
func ordinary(a netip.Addr) bool {
	if a.Is6() {
		return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast()
	}
	first := a.As4()[0]
	return first != 0 && first < 224 && !a.IsLoopback() && !a.IsLinkLocalUnicast()
}

func (c *checker) members(at string, messages []*vrrpv1.Member) []Member {
	if len(messages) < 1 || len(messages) > MaxMembers {
		c.bad(at+"members", "want 1 to %d members, got %d", MaxMembers, len(messages))
	}
	nodes, priorities := map[string]int{}, map[uint32]int{}
	var all []Member
	for n, m := range messages {
		field := fmt.Sprintf("%smembers[%d]", at, n)
		if !name.MatchString(m.GetNode()) {
			c.bad(field+".node", "%s, got %q", wantName, m.GetNode())
		} else if first, twice := nodes[m.GetNode()]; twice {
			c.bad(field+".node", "%s is members[%d] already", m.GetNode(), first)
		} else {
			nodes[m.GetNode()] = n
		}
		switch first, twice := priorities[m.GetPriority()]; {
		case m.GetPriority() < 1 || m.GetPriority() > MaxPriority:
			c.bad(field+".priority", "want 1 to %d, got %d", MaxPriority, m.GetPriority())
		case twice:
			c.bad(field+".priority", "%d is the priority of members[%d] already; with two equals chance decides who is master",
				m.GetPriority(), first)
		default:
			priorities[m.GetPriority()] = n
			all = append(all, Member{
				Node: m.GetNode(), Priority: uint8(m.GetPriority()), Addresses: c.memberAddresses(field, m.GetAddresses()),
			})
		}
	}
	return all
}

// memberAddresses are where a member can be asked.
func (c *checker) memberAddresses(at string, texts []string) []netip.Addr {
	if len(texts) > MaxMemberAddresses {
		c.bad(at+".addresses", "want %d addresses at most, got %d", MaxMemberAddresses, len(texts))
	}
	var all []netip.Addr
	for n, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || a.Is4In6() || !ordinary(a) {
			c.bad(fmt.Sprintf("%s.addresses[%d]", at, n), "want an IPv4 or IPv6 address of that node, without a mask, got %q", text)
			continue
		}
		all = append(all, a)
	}
	return all
}

// routes returns the virtual routes, which are of the family of the addresses.
func (c *checker) routes(at string, messages []*vrrpv1.VirtualRoute, addresses []netip.Addr) []Route {
	if len(messages) > MaxRoutes {
		c.bad(at+"virtual_routes", "want %d routes at most, got %d", MaxRoutes, len(messages))
	}
	v6 := len(addresses) > 0 && addresses[0].Is6()
	family, example := "IPv4", "0.0.0.0/0"
	if v6 {
		family, example = "IPv6", "::/0"
	}
	var all []Route
	for n, m := range messages {
		field := fmt.Sprintf("%svirtual_routes[%d].", at, n)
		r := Route{Metric: m.GetMetric()}
		if v6 && r.Metric == 0 {
			r.Metric = DefaultMetricV6
		}
		var err error
		if r.Destination, err = netip.ParsePrefix(m.GetDestination()); err != nil || r.Destination.Addr().Is6() != v6 || r.Destination != r.Destination.Masked() {
			c.bad(field+"destination", "want an %s network as in %s, got %q", family, example, m.GetDestination())
		}
		if m.GetVia() != "" {
			if r.Via, err = netip.ParseAddr(m.GetVia()); err != nil || r.Via.Is6() != v6 || r.Via.Zone() != "" || !ordinary(r.Via) {
				c.bad(field+"via", "want the %s address of a gateway, got %q", family, m.GetVia())
			}
		}
		if m.GetSource() != "" {
			if r.Source, err = netip.ParseAddr(m.GetSource()); err != nil || !slices.Contains(addresses, r.Source) {
				c.bad(field+"source", "want one of the virtual addresses, got %q", m.GetSource())
			}
		}
		all = append(all, r)
	}
	return all
}

// widest is the largest network that a card is taken to stand in, in bits: the old class A.
const widest = 8

// network returns the network that is asked for, and checks that the addresses fit in it, or at least in some.
func (c *checker) network(at string, m *vrrpv1.Instance, i Instance) netip.Prefix {
	for n, a := range i.Addresses {
		for k, member := range i.Members {
			if slices.Contains(member.Addresses, a) {
				c.bad(fmt.Sprintf("%svirtual_addresses[%d]", at, n), "%v is members[%d]'s own address, which cannot move", a, k)
			}
		}
	}
	if m.GetNetwork() == "" {
		if m.GetOutsideNetwork() {
			c.bad(at+"network", "want the network that the addresses may lie outside of")
		}
		var first netip.Addr
		for n, a := range i.Addresses {
			if linkLocal(a) {
				continue
			}
			if !first.IsValid() {
				first = a
			}
			if p, err := first.Prefix(widest); a.Is6() == first.Is6() && (err != nil || !p.Contains(a)) {
				c.bad(fmt.Sprintf("%svirtual_addresses[%d]", at, n),
					"%v and %v are in no network together; use an instance for each, or give network and outside_network", first, a)
			}
		}
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(m.GetNetwork())
	if err != nil || p != p.Masked() || p.Bits() < widest || p.IsSingleIP() || linkLocal(p.Addr()) {
		c.bad(at+"network", "want a network as in 192.168.60.0/24, got %q", m.GetNetwork())
		return netip.Prefix{}
	}
	if len(i.Addresses) > 0 && p.Addr().Is6() != i.V6() {
		c.bad(at+"network", "want a network of the family of virtual_addresses, got %v", p)
		return netip.Prefix{}
	}
	for n, a := range i.Addresses {
		if !m.GetOutsideNetwork() && !p.Contains(a) && !linkLocal(a) {
			c.bad(fmt.Sprintf("%svirtual_addresses[%d]", at, n), "%v is not in network %v; with outside_network it may be elsewhere", a, p)
		}
	}
	for n, member := range i.Members {
		if m.GetUnicast() && len(member.Addresses) > 0 && !p.Contains(member.Addresses[0]) && !linkLocal(member.Addresses[0]) {
			c.bad(fmt.Sprintf("%smembers[%d].addresses[0]", at, n), "%v is not in network %v, where adverts go", member.Addresses[0], p)
		}
	}
	return p
}

func (c *checker) trackers(at string, messages []*vrrpv1.Tracker, members []Member) []Tracker {
	if len(messages) > MaxTrackers {
		c.bad(at+"trackers", "want %d trackers at most, got %d", MaxTrackers, len(messages))
	}
	seen := map[string]int{}
	var all []Tracker
	for n, m := range messages {
		field := fmt.Sprintf("%strackers[%d].", at, n)
		if first, twice := seen[m.GetName()]; twice {
			c.bad(field+"name", "%q is the name of trackers[%d] already", m.GetName(), first)
		} else if !name.MatchString(m.GetName()) {
			c.bad(field+"name", "%s, got %q", wantName, m.GetName())
		}
		seen[m.GetName()] = n
		t := Tracker{Name: m.GetName(), Weight: int(m.GetWeight())}
		t.What, t.Addresses = c.what(field, m, members)
		if t.Weight < -MaxWeight || t.Weight > MaxWeight {
			c.bad(field+"weight", "want %d to %d, got %d", -MaxWeight, MaxWeight, t.Weight)
			t.Weight = 0
		}
		t.HoldDown = c.duration(field+"hold_down", m.GetHoldDown(), 0, 0, MaxHoldDown)
		t.Interval = c.duration(field+"interval", m.GetInterval(), DefaultCheckInterval, MinCheckInterval, MaxCheckPause)
		t.Timeout = c.duration(field+"timeout", m.GetTimeout(), max(t.Interval, DefaultCheckTimeout), MinCheckTimeout, MaxCheckPause)
		t.Rise = c.count(field+"rise", m.GetRise())
		t.Fall = c.count(field+"fall", m.GetFall())
		all = append(all, t)
	}
	c.weights(at, all, members)
	return all
}

func dialable(address string) bool {
	if file, ok := strings.CutPrefix(address, "unix:"); ok {
		return path.IsAbs(file)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || strings.ContainsAny(host, " /") {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func (c *checker) duration(field string, d *durationpb.Duration, byDefault, least, most time.Duration) time.Duration {
	if d == nil {
		return byDefault
	}
	if err := d.CheckValid(); err != nil || d.AsDuration() < least || d.AsDuration() > most {
		c.bad(field, "want %v to %v, got %v", least, most, d.AsDuration())
		return byDefault
	}
	return d.AsDuration()
}

func (c *checker) count(field string, n uint32) int {
	if n > MaxCount {
		c.bad(field, "want 1 to %d, got %d", MaxCount, n)
	}
	if n == 0 {
		return DefaultCount
	}
	return int(n)
}

// together checks what must differ between instances.
func (c *checker) together(instances []Instance) {
	type router struct { // the two families of one network do not know each other
		id uint8
		v6 bool
	}
	names, ids, addresses := map[string]bool{}, map[router]string{}, map[netip.Addr]string{}
	for _, i := range instances {
		at := "instance/" + i.Name + "."
		if names[i.Name] {
			c.bad(at+"name", "there is another instance of this name")
		}
		names[i.Name] = true
		own := router{i.VirtualRouterID, i.V6()}
		if other, taken := ids[own]; taken && i.VirtualRouterID != 0 {
			c.bad(at+"virtual_router_id", "%d belongs to instance %s already", i.VirtualRouterID, other)
		} else {
			ids[own] = i.Name
		}
		for n, a := range i.Addresses {
			if other, taken := addresses[a]; taken {
				c.bad(fmt.Sprintf("%svirtual_addresses[%d]", at, n), "%v belongs to instance %s already", a, other)
			} else {
				addresses[a] = i.Name
			}
		}
	}
	c.rivals(instances)
	c.groups(instances)
}

// rivals refuses two routes of which a node that holds both could have only one.
func (c *checker) rivals(instances []Instance) {
	type key struct {
		destination netip.Prefix
		metric      uint32
	}
	seen := map[key]string{}
	for _, i := range instances {
		for n, r := range i.Routes {
			k := key{r.Destination, r.Metric}
			if other, taken := seen[k]; taken && r.Destination.IsValid() {
				c.bad(fmt.Sprintf("instance/%s.virtual_routes[%d]", i.Name, n),
					"instance %s has a route to %v with metric %d already; give this one another metric", other, r.Destination, r.Metric)
				continue
			}
			seen[k] = i.Name
		}
	}
}

// groups checks that the instances of a sync group can move together: the same nodes in the same order of preference.
func (c *checker) groups(instances []Instance) {
	first := map[string]Instance{}
	for _, i := range instances {
		if i.SyncGroup == "" {
			continue
		}
		at := "instance/" + i.Name + "."
		for n, t := range i.Trackers {
			if t.Weight != 0 {
				c.bad(fmt.Sprintf("%strackers[%d].weight", at, n), "in a sync group a failure is the fault of all; a weight would part them")
			}
		}
		f, known := first[i.SyncGroup]
		if !known {
			first[i.SyncGroup] = i
			continue
		}
		same := func(a, b Member) bool { return a.Node == b.Node && a.Priority == b.Priority }
		by := func(a, b Member) int { return cmp.Compare(a.Node, b.Node) }
		mine, theirs := slices.SortedFunc(slices.Values(i.Members), by), slices.SortedFunc(slices.Values(f.Members), by)
		if !slices.EqualFunc(mine, theirs, same) {
			c.bad(at+"members", "want the members and priorities of instance %s, which is in sync group %s too", f.Name, i.SyncGroup)
		}
		if i.Version != f.Version || i.Interval != f.Interval || i.Preempt != f.Preempt || i.PreemptDelay != f.PreemptDelay {
			c.bad(at+"sync_group", "want version, advert_interval, nopreempt and preempt_delay of instance %s, which is in sync group %s too", f.Name, i.SyncGroup)
		}
	}
}
