package keepalived

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/twotier/twotier/services/internal/importing"
	"github.com/twotier/twotier/services/internal/importing/blocks"

	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// MaxInstances is the most instances of one import: there are no more router ids.
const MaxInstances = 255

// group is an instance: the members that share a router id.
type group struct {
	name      string
	members   []*member
	addresses []address
	interval  setting
	nopreempt bool
	delay     setting
	version   string
	mail      *vrrpv1.Mail
	mailLines []*importing.Line
	routes    []route
	hooks     []hook
	unicast   bool
	sources   map[string]string // addresses of the members, with unicast
	syncGroup string
	syncLines []*importing.Line
	v6        bool
	refresh   setting
	vmac      bool
	fromCard  bool
	hmac      *vrrpv1.Hmac
	hmacLines []*importing.Line
	trackers  []*vrrpv1.Tracker
	// lines are where the trackers were asked for.
	lines []*importing.Line
}

// finish makes instances of the members, and takes out what spec refuses until it refuses nothing.
func (r *reader) finish() []*vrrpv1.Instance {
	groups := r.merge()
	for _, s := range r.groups {
		r.spread(s)
	}
	for _, g := range groups {
		r.agree(g)
		r.agreeMore(g)
		r.watch(g)
	}
	r.sync(groups)
	for {
		var instances []*vrrpv1.Instance
		for _, g := range groups {
			instances = append(instances, g.message())
		}
		_, violations := spec.Parse(instances)
		if len(violations) == 0 {
			r.scripts()
			r.alone(groups)
			return instances
		}
		// The first of each instance: what is dropped for it moves the places of what is behind it.
		mended := map[*group]bool{}
		for _, v := range violations {
			g := groupOf(groups, v.GetField())
			if g == nil || mended[g] {
				continue
			}
			mended[g] = true
			if !g.drop(v.GetField(), v.GetDescription()) {
				g.leave("%s", g.wrong(violations))
				groups = slices.DeleteFunc(groups, func(o *group) bool { return o == g })
			}
		}
		if len(mended) == 0 { // so that the loop ends whatever spec may come to say
			for _, g := range groups {
				g.leave("%s", violations[0].GetDescription())
			}
			groups = nil
		}
	}
}

// agreeMore takes what else must be the same on all members: of the first, or of the best.
func (r *reader) agreeMore(g *group) {
	first, best := g.members[0], g.members[0]
	for _, m := range g.members {
		if m.priority > best.priority {
			best = m
		}
	}
	g.delay, g.version = best.delay, first.version
	if g.v6 {
		g.version = "3" // whatever is said: keepalived speaks no other
	}
	g.routes = first.routes
	for _, m := range g.members {
		if m.delay.line != nil && m.delay.value != best.delay.value {
			m.delay.line.Assumed("%v, as on %s, which has the highest priority", best.delay.value, best.node.name)
		}
		if m.version != g.version && !g.v6 {
			r.report.Warn("%s: %s and %s do not speak the same version of VRRP, so that both are master; that of %s is taken.",
				g.name, first.node.name, m.node.name, first.node.name)
		}
		if m.alert != nil && m.node.globals.mail == nil {
			m.alert.LeftOut("global_defs does not say where mail goes")
		}
	}
	for _, m := range g.members[1:] {
		for _, own := range m.routes {
			if !slices.ContainsFunc(g.routes, func(o route) bool { return proto.Equal(o.route, own.route) }) {
				own.line.LeftOut("the route is not in the file of %s; one instance has the same routes on every node", first.node.name)
			}
		}
	}
	g.hooks = first.hooks
	for _, m := range g.members[1:] {
		for _, own := range m.hooks {
			if !slices.ContainsFunc(g.hooks, func(o hook) bool { return o.state == own.state && proto.Equal(o.script, own.script) }) {
				own.line.LeftOut("the program is not in the file of %s; one instance has the same programs on every node", first.node.name)
			}
		}
	}
	for _, m := range g.members {
		switch {
		case m.authLine != nil && g.version == "3":
			m.authLine.LeftOut("version 3 has no password, and keepalived sends none; hmac signs its adverts")
		case m.authLine != nil && m.hmac != nil:
			m.authLine.LeftOut("auth_hmac takes the place of the password")
		}
		if m.message != nil && (g.v6 || g.version != "3") {
			m.message.Ignored("there is but one form with IPv6 and with version 2")
		}
	}
	r.agreeHMAC(g)
	r.agreeCard(g)
	for _, m := range g.members {
		if own := m.announces(); own.line != nil && (g.refresh.line == nil || own.value < g.refresh.value) {
			g.refresh = own
		}
	}
	r.agreeMail(g)
	r.agreeUnicast(g)
}

// agreeHMAC takes the keys of the first node that has any.
func (r *reader) agreeHMAC(g *group) {
	var from *member
	for _, m := range g.members {
		if m.hmac == nil {
			continue
		}
		for _, k := range m.keys {
			if k.key.File == "" {
				k.key.File = fmt.Sprintf("/run/secrets/%s-%d.key", g.name, k.key.GetId())
				k.line.Taken("key %d of %s: write it there on every member as hexadecimal digits, readable by root only; it is not shown here", k.key.GetId(), k.key.File)
			}
			m.hmac.Keys = append(m.hmac.Keys, k.key)
			g.hmacLines = append(g.hmacLines, k.line)
		}
		g.hmacLines = append(g.hmacLines, m.hmacLine)
		switch {
		case from == nil:
			g.hmac, from = m.hmac, m
		case !proto.Equal(m.hmac, g.hmac):
			r.report.Warn("%s: auth_hmac of %s and %s is not the same; that of %s is taken.", g.name, from.node.name, m.node.name, from.node.name)
		}
	}
	if from == nil {
		return
	}
	for _, m := range g.members {
		if m.hmac == nil {
			r.report.Warn("%s: %s signs its adverts, and %s does not; here all do.", g.name, from.node.name, m.node.name)
		}
	}
}

// agreeCard tells whether the addresses have an Ethernet address of their own.
func (r *reader) agreeCard(g *group) {
	with, fromCard := 0, 0
	for _, m := range g.members {
		switch {
		case m.vmac != nil:
			with++
			if m.fromCard != nil {
				fromCard++
			}
		case m.fromCard != nil:
			m.fromCard.LeftOut("it belongs to use_vmac, which is not there")
		}
	}
	g.vmac, g.fromCard = with > 0, fromCard > 0
	if with > 0 && with < len(g.members) {
		r.report.Warn("%s: not all nodes have use_vmac; here virtual_mac is for all members.", g.name)
	}
	if fromCard > 0 && fromCard < with {
		r.report.Warn("%s: not all nodes have vmac_xmit_base, so that they do not hear each other; here adverts_from_card is for all members.", g.name)
	}
}

// agreeMail takes the mail of the first node that has any.
func (r *reader) agreeMail(g *group) {
	var from node
	for _, m := range g.members {
		own := m.node.globals.mail
		switch {
		case own == nil:
			continue
		case g.mail == nil:
			g.mail, from = proto.CloneOf(own), m.node
		case !proto.Equal(g.mail, own):
			r.report.Warn("%s: %s and %s do not send mail the same way (%s and %s); that of %s is taken.",
				g.name, from.name, m.node.name, mailing(g.mail), mailing(own), from.name)
		}
		g.mailLines = append(g.mailLines, m.node.globals.mailLines...)
	}
	for _, line := range g.mailLines {
		line.Taken("mail of instance/%s", g.name)
	}
}

func mailing(m *vrrpv1.Mail) string {
	return importing.Short(fmt.Sprintf("from %s to %s by %s", m.GetFrom(), strings.Join(m.GetTo(), ", "), m.GetServer()), 128)
}

// agreeUnicast finds the addresses of the members in each other's lists of peers.
func (r *reader) agreeUnicast(g *group) {
	asked := slices.ContainsFunc(g.members, func(m *member) bool { return len(m.peers) > 0 })
	if !asked {
		return
	}
	g.unicast, g.sources = true, map[string]string{}
	for _, m := range g.members {
		source := m.source.text
		if source == "" {
			source = g.listed(m)
		}
		if source == "" || len(m.peers) == 0 {
			g.unicast = false
			r.report.Warn("%s: not all files say by unicast_peer and unicast_src_ip where %s is and whom it speaks to; give its members addresses, and then unicast.",
				g.name, m.node.name)
		}
		g.sources[m.node.name] = source
	}
	for _, m := range g.members {
		for _, p := range m.peers {
			switch {
			case !g.unicast:
				p.line.LeftOut("see the warnings; the instance speaks by multicast")
			case !slices.Contains(slices.Collect(maps.Values(g.sources)), p.text):
				p.line.LeftOut("this is the address of no node whose file is here")
			}
		}
		if !g.unicast && m.source.line != nil {
			m.source.line.LeftOut("see the warnings; the instance speaks by multicast")
		}
	}
}

// listed is the one address that all others list as a peer and the member itself does not; empty: there is no such one.
func (g *group) listed(m *member) string {
	has := func(o *member, text string) bool {
		return slices.ContainsFunc(o.peers, func(p address) bool { return p.text == text })
	}
	found := ""
	for _, o := range g.members {
		if o == m {
			continue
		}
		for _, p := range o.peers {
			everywhere := !slices.ContainsFunc(g.members, func(x *member) bool { return x != m && !has(x, p.text) && x.source.text != p.text })
			if !everywhere || has(m, p.text) || p.text == found {
				continue
			}
			if found != "" {
				return ""
			}
			found = p.text
		}
	}
	return found
}

// spread gives what a sync group tracks and whom it tells to the first of its instances on the same node.
func (r *reader) spread(s syncGroup) {
	for _, each := range s.instances {
		for _, m := range r.members {
			if m.node.name == s.node && m.name == each.text {
				for _, more := range s.more {
					m.ofGroup(more)
				}
				return
			}
		}
	}
	for _, more := range s.more {
		more.Leave("there is no vrrp_instance of this group in this file")
	}
}

// sync puts instances together that keepalived moves together.
func (r *reader) sync(groups []*group) {
	for _, s := range r.groups {
		name := unique(s.name, nil)
		s.block.Line.Taken("sync_group %s of its instances", name)
		for _, each := range s.instances {
			i := slices.IndexFunc(groups, func(g *group) bool {
				return slices.ContainsFunc(g.members, func(m *member) bool { return m.node.name == s.node && m.name == each.text })
			})
			switch {
			case i < 0:
				each.line.LeftOut("there is no vrrp_instance %s in this file", importing.Quote(each.text))
				continue
			case groups[i].syncGroup != "" && groups[i].syncGroup != name:
				each.line.LeftOut("instance/%s is in sync_group %s already", groups[i].name, groups[i].syncGroup)
				continue
			}
			groups[i].syncGroup = name
			groups[i].syncLines = append(groups[i].syncLines, each.line)
			each.line.Taken("sync_group %s of instance/%s", name, groups[i].name)
		}
	}
}

// merge puts the members together by router id, in the order of the files.
func (r *reader) merge() (groups []*group) {
	type identity struct { // an id can be there once in each family
		id uint32
		v6 bool
	}
	byID := map[identity]*group{}
	slices.SortStableFunc(r.members, func(a, b *member) int { return cmp.Compare(bit(a.part), bit(b.part)) }) // parts give way
	for _, m := range r.members {
		is := identity{m.id, m.v6()}
		g := byID[is]
		switch {
		case m.id == 0:
			m.leave("vrrp_instance %s has no good virtual_router_id", importing.Quote(m.name))
			continue
		case g == nil && len(groups) == MaxInstances:
			m.leave("there are no more than %d instances", MaxInstances)
			continue
		case g == nil:
			g = &group{name: unique(m.name, groups), v6: is.v6}
			byID[is] = g
			groups = append(groups, g)
			m.block.Line.Taken("instance/%s, member %s", g.name, m.node.name)
			if g.name != m.name {
				m.block.Line.Assumed("another name than %s", importing.Quote(m.name))
			}
		case slices.ContainsFunc(g.members, func(o *member) bool { return o.node.name == m.node.name }):
			m.leave("router id %d belongs to instance %s on this node already; ids are unique here, whatever the card", m.id, g.name)
			continue
		default:
			m.block.Line.Taken("instance/%s, member %s", g.name, m.node.name)
			if m.name != g.members[0].name {
				m.block.Line.Assumed("it is instance %s of %s: the router id is the same", importing.Quote(g.members[0].name), g.members[0].node.name)
			}
		}
		g.members = append(g.members, m)
	}
	return groups
}

func bit(is bool) int {
	if is {
		return 1
	}
	return 0
}

// unique makes a name of ours that no other group has.
func unique(name string, groups []*group) string {
	clean := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' {
			return c
		}
		return '-'
	}, name)
	clean = clean[:min(len(clean), 56)] // room for a number
	if !spec.IsName(clean) {
		clean = "VI" + clean
	}
	ours := clean
	for n := 2; slices.ContainsFunc(groups, func(g *group) bool { return g.name == ours }); n++ {
		ours = fmt.Sprintf("%s-%d", clean, n)
	}
	return ours
}

// agree takes what must be the same on all members, and speaks where it is not.
func (r *reader) agree(g *group) {
	first := g.members[0]
	g.interval = first.interval
	seen := map[string]bool{}
	for _, a := range first.addresses {
		if seen[a.text] {
			a.line.LeftOut("the address is there already")
			continue
		}
		if len(g.addresses) == spec.MaxAddresses {
			a.line.LeftOut("an instance has %d addresses at most; use another one", spec.MaxAddresses)
			continue
		}
		seen[a.text] = true
		g.addresses = append(g.addresses, a)
	}
	best := first
	for _, m := range g.members {
		if m.priority > best.priority {
			best = m
		}
		if m.authLine != nil {
			m.authLine.Taken("password_file %s: write the password there on every member, readable by root only; it is not shown here", g.passwordFile())
		}
	}
	g.nopreempt = best.nopreempt != nil
	for _, m := range g.members {
		if m.nopreempt != nil && !g.nopreempt {
			m.nopreempt.Assumed("no nopreempt: the member with the highest priority, %s, has it not", best.node.name)
		}
	}
	for _, m := range g.members[1:] {
		if m.advertInterval() != first.advertInterval() {
			r.report.Warn("%s: advert_int is %v on %s and %v on %s; keepalived drops such adverts, so that both are master. %v is taken.",
				g.name, first.advertInterval(), first.node.name, m.advertInterval(), m.node.name, first.advertInterval())
			if m.interval.line != nil {
				m.interval.line.Assumed("%v, as on %s", first.advertInterval(), first.node.name)
			}
		}
		withPassword := !g.v6 && first.version != "3"
		if withPassword && (m.password != first.password || (m.authLine == nil) != (first.authLine == nil)) {
			r.report.Warn("%s: the passwords of %s and %s are not the same; keepalived drops such adverts, so that both are master.",
				g.name, first.node.name, m.node.name)
		}
		texts := map[string]bool{}
		for _, a := range m.addresses {
			texts[a.text] = true
			if !seen[a.text] {
				a.line.LeftOut("the address is not in the file of %s; one instance has the same addresses on every node", first.node.name)
			}
		}
		if !slices.ContainsFunc(g.addresses, func(a address) bool { return !texts[a.text] }) && len(texts) == len(seen) {
			continue
		}
		r.report.Warn("%s: %s and %s do not have the same addresses; those of %s are taken.", g.name, first.node.name, m.node.name, first.node.name)
	}
	if g.v6 {
		r.linkLocalFirst(g)
	}
}

// linkLocalFirst puts a link-local address first, as RFC 9568, section 5.2.9 wants it, and adds one where there is none: that
// which a card with the virtual router's Ethernet address would make for itself (RFC 4291, appendix A).
func (r *reader) linkLocalFirst(g *group) {
	at := slices.IndexFunc(g.addresses, func(a address) bool {
		parsed, err := netip.ParseAddr(a.text)
		return err == nil && parsed.Is6() && parsed.IsLinkLocalUnicast()
	})
	switch {
	case at > 0:
		first := g.addresses[at]
		first.line.Assumed("it is the first of the addresses, as RFC 9568 has it")
		g.addresses = slices.Insert(slices.Delete(slices.Clone(g.addresses), at, at+1), 0, first)
	case at < 0 && len(g.addresses) > 0:
		made := fmt.Sprintf("fe80::200:5eff:fe00:2%02x", g.members[0].id)
		g.addresses = slices.Insert(slices.Clone(g.addresses), 0, address{made, g.addresses[0].line})
		r.report.Warn("%s: the first address of an instance of IPv6 has to be link-local (RFC 9568, section 5.2.9), and there is none; %s is added. "+
			"A keepalived before 2.3.3 drops adverts with other addresses than its own: give it the same one.", g.name, made)
	}
}

func (g *group) passwordFile() string { return "/run/secrets/" + g.name + ".pass" }

// alone warns of instances with one member.
func (r *reader) alone(groups []*group) {
	for _, g := range groups {
		if len(g.members) == 1 {
			r.report.Warn("%s: %s is its only member, so that nobody takes over. Import the files of all nodes together.", g.name, g.members[0].node.name)
		}
	}
}

func (g *group) message() *vrrpv1.Instance {
	m := &vrrpv1.Instance{
		Name: g.name, VirtualRouterId: g.members[0].id, Nopreempt: g.nopreempt, Trackers: g.trackers,
		Profile: vrrpv1.Profile_PROFILE_COMPAT, Mail: g.mail, SyncGroup: g.syncGroup, Unicast: g.unicast,
	}
	if g.version == "3" {
		m.Version = 3
		if g.members[0].message != nil && !g.v6 {
			m.Checksum = vrrpv1.ChecksumForm_CHECKSUM_FORM_MESSAGE
		}
	}
	for _, a := range g.addresses {
		m.VirtualAddresses = append(m.VirtualAddresses, a.text)
	}
	for _, each := range g.members {
		member := &vrrpv1.Member{Node: each.node.name, Priority: each.priority}
		if g.unicast {
			member.Addresses = []string{g.sources[each.node.name]}
		}
		m.Members = append(m.Members, member)
		if each.authLine != nil && g.version != "3" && g.hmac == nil {
			m.Authentication = &vrrpv1.Authentication{PasswordFile: g.passwordFile()}
		}
		if d := each.node.globals.startupDelay; d > m.GetStartupDelay().AsDuration() {
			m.StartupDelay = durationpb.New(min(d, spec.MaxDelay))
		}
	}
	m.VirtualMac, m.AdvertsFromCard = g.vmac, g.vmac && g.fromCard
	if g.hmac != nil {
		m.Authentication = &vrrpv1.Authentication{Hmac: g.hmac}
	}
	if g.refresh.line != nil {
		m.AnnounceRefresh = durationpb.New(g.refresh.value)
	}
	for _, each := range g.routes {
		m.VirtualRoutes = append(m.VirtualRoutes, each.route)
	}
	for _, h := range g.hooks {
		list := map[string]*[]*vrrpv1.Script{
			"notify": &m.Notify, "notify_master": &m.NotifyMaster, "notify_backup": &m.NotifyBackup, "notify_fault": &m.NotifyFault, "notify_stop": &m.NotifyStop,
		}[h.state]
		*list = append(*list, h.script)
	}
	if g.delay.line != nil && !g.nopreempt {
		m.PreemptDelay = durationpb.New(g.delay.value)
	}
	if g.interval.line != nil {
		m.AdvertInterval = durationpb.New(g.interval.value)
	}
	return m
}

// groupOf is the instance that a field belongs to.
func groupOf(groups []*group, field string) (owner *group) {
	for _, g := range groups {
		// Names may have dots: the longest is meant.
		if strings.HasPrefix(field, "instance/"+g.name+".") && (owner == nil || len(g.name) > len(owner.name)) {
			owner = g
		}
	}
	return owner
}

// drop takes out the part of an instance that spec has refused; false: without it the instance makes no sense.
func (g *group) drop(field, why string) bool {
	rest := strings.TrimPrefix(field, "instance/"+g.name+".")
	list, index := rest, -1
	if name, after, ok := strings.Cut(rest, "["); ok {
		list = name
		if _, err := fmt.Sscanf(after, "%d]", &index); err != nil {
			return false
		}
	}
	without := func(n int) bool { return index >= 0 && index < n }
	switch {
	case rest == "advert_interval" && g.interval.line != nil:
		g.interval.line.Unsupported("%s; 1s is taken", why)
		g.interval = setting{}
	case rest == "announce_refresh" && g.refresh.line != nil:
		g.refresh.line.LeftOut("%s; %v is taken", why, spec.DefaultRefresh)
		g.refresh = setting{}
	case strings.HasPrefix(rest, "authentication.hmac") && g.hmac != nil:
		for _, line := range g.hmacLines {
			line.LeftOut("instance/%s does not sign its adverts: %s", g.name, why)
		}
		g.hmac = nil
	case rest == "preempt_delay" && g.delay.line != nil:
		g.delay.line.LeftOut("%s", why)
		g.delay = setting{}
	case list == "virtual_addresses" && without(len(g.addresses)):
		g.addresses[index].line.LeftOut("%s", why)
		g.addresses = slices.Delete(slices.Clone(g.addresses), index, index+1)
	case list == "virtual_routes" && without(len(g.routes)):
		g.routes[index].line.LeftOut("%s", why)
		g.routes = slices.Delete(slices.Clone(g.routes), index, index+1)
	case list == "trackers" && without(len(g.trackers)) && strings.HasSuffix(rest, ".weight") && g.trackers[index].GetWeight() != 0 && !g.trackers[index].GetReverse():
		g.lines[index].Assumed("fault in place of weight %d: %s", g.trackers[index].GetWeight(), why)
		g.trackers[index].Weight = 0
		for _, m := range g.members {
			if c := m.node.scripts[g.trackers[index].GetName()]; c != nil {
				c.kept = false
			}
		}
	case list == "trackers" && without(len(g.trackers)):
		g.lines[index].Unsupported("%s; the tracker is left out", why)
		g.trackers, g.lines = slices.Delete(slices.Clone(g.trackers), index, index+1), slices.Delete(slices.Clone(g.lines), index, index+1)
	case g.syncGroup != "" && (rest == "sync_group" || rest == "members" && strings.Contains(why, "sync group")):
		for _, line := range g.syncLines {
			line.LeftOut("%s", why)
		}
		g.syncGroup = ""
	case strings.HasPrefix(rest, "mail.") && g.mail != nil:
		for _, line := range g.mailLines {
			line.Unsupported("instance/%s sends no mail: %s", g.name, why)
		}
		g.mail = nil
	case strings.HasPrefix(rest, "notify"):
		state, at := list, 0
		for i, h := range g.hooks {
			if h.state != state {
				continue
			}
			if at == index || index < 0 && at == spec.MaxHooks {
				h.line.LeftOut("%s", why)
				g.hooks = slices.Delete(slices.Clone(g.hooks), i, i+1)
				return true
			}
			at++
		}
		return false
	case g.unicast && strings.HasPrefix(rest, "members[") && strings.Contains(rest, ".addresses"):
		for _, m := range g.members {
			for _, p := range append(m.peers, m.source) {
				if p.line != nil {
					p.line.LeftOut("%s", why)
				}
			}
		}
		g.unicast = false
	default:
		return false
	}
	return true
}

// wrong is all that is wrong with the instance.
func (g *group) wrong(violations []*commonv1.Violation) string {
	var all []string
	for _, v := range violations {
		if field, ok := strings.CutPrefix(v.GetField(), "instance/"+g.name+"."); ok {
			all = append(all, field+": "+v.GetDescription())
		}
	}
	return strings.Join(all, "; ")
}

func (g *group) leave(format string, args ...any) {
	for _, m := range g.members {
		m.leave("the instance is left out: "+format, args...)
	}
}

// watch makes trackers of the scripts, and tells what their weights would do.
func (r *reader) watch(g *group) {
	best, next := g.members[0], (*member)(nil)
	for _, m := range g.members {
		if m.priority > best.priority {
			best = m
		}
	}
	for _, m := range g.members {
		if m != best && (next == nil || m.priority > next.priority) {
			next = m
		}
	}
	if next != nil {
		for _, t := range best.tracks {
			r.arithmetic(g, best, next, t)
		}
	}
	done := map[string]bool{}
	add := func(t *vrrpv1.Tracker, line *importing.Line) {
		if !done[t.GetName()] {
			g.trackers, g.lines = append(g.trackers, t), append(g.lines, line)
		}
		done[t.GetName()] = true
	}
	for _, m := range g.members {
		for _, t := range m.tracks {
			tracker, why := g.tracker(t.script)
			if tracker == nil {
				t.line.Unsupported("%s; without a tracker the address stays where its service is dead", why)
				continue
			}
			c := m.node.scripts[t.script]
			c.tracked, c.becomes = true, tracker
			t.line.Taken("tracker %s of instance/%s", tracker.GetName(), g.name)
			if weight := weightOn(m, t.script); tracker.GetGrpcHealth() == nil {
				tracker.Weight, c.kept = int32(weight), weight != 0
			} else if t.weight != nil {
				t.line.Assumed("fault in place of weight %d: a tracker that fails gives up the addresses", *t.weight)
			}
			add(tracker, t.line)
		}
		for _, w := range m.watched {
			w.tracker.Name = strings.TrimLeft(unique(w.tracker.GetName(), nil), ".")
			add(w.tracker, w.line)
		}
	}
}

// tracker asks the router's health in place of a script that looks after haproxy, if it is known where, looks for the
// process itself in place of a script that only does that, or runs the program.
func (g *group) tracker(name string) (tracker *vrrpv1.Tracker, why string) {
	health := &vrrpv1.GrpcHealth{Address: map[string]string{}, Service: "twotier.router.v1.Router"}
	var c *script
	everywhere := true
	for _, m := range g.members {
		if own := m.node.scripts[name]; own != nil && c == nil {
			c = own
		}
		everywhere = everywhere && m.node.routerHealth != ""
		health.Address[m.node.name] = m.node.routerHealth
	}
	tracker = &vrrpv1.Tracker{Name: name, Interval: durationpb.New(c.interval), Rise: c.rise, Fall: c.fall}
	switch {
	case everywhere && strings.Contains(c.command, "haproxy"):
		tracker.GrpcHealth = health
	case c.process != "":
		tracker.Process = &vrrpv1.Process{Name: c.process}
	case c.argv != nil:
		tracker.Script = &vrrpv1.Script{Argv: c.argv, User: c.user}
	default:
		return nil, "a line for the shell is no program: give the instance a tracker of the kind script with what it runs as argv"
	}
	if c.timeout > 0 {
		tracker.Timeout = durationpb.New(c.timeout)
	}
	return tracker, ""
}

// arithmetic tells when the weight of a script cannot do what it is there for: move the addresses from best to next when
// the script fails on best alone.
func (r *reader) arithmetic(g *group, best, next *member, t track) {
	weight := weightOn(best, t.script)
	p, q := int(best.priority), int(next.priority)
	failed, other := fmt.Sprint(p), fmt.Sprint(q)
	switch onNext := weightOn(next, t.script); {
	case weight == 0:
		return // keepalived goes to fault then, as the agent does
	case weight < 0:
		failed = fmt.Sprintf("%d - %d = %d", p, -weight, p+weight)
		p += weight
	case onNext > 0:
		other = fmt.Sprintf("%d + %d = %d", q, onNext, q+onNext)
		q += onNext
	}
	if p < q {
		return
	}
	relation := "still above"
	if p == q {
		relation = "a tie, which leaves the master in office, with"
	}
	enough := int(next.priority) - int(best.priority) - 1
	if line := best.node.scripts[t.script].weightLine; line != nil {
		line.Unsupported("it can never move %s, see the warnings", g.texts())
	}
	r.report.Warn("%s: weight %+d of %s can never move %s: when the script fails on %s, its priority is %s, %s the %s of %s. "+
		"The address stays where the service is dead. A weight of %d or less would move it (%d - %d = %d); here a failed tracker means fault, whatever the priorities.",
		g.name, weight, t.script, g.texts(), best.node.name, failed, relation, other, next.node.name,
		enough, best.priority, -enough, int(best.priority)+enough)
}

// weightOn is what the script does to the priority of a member; 0 also when it is not tracked there.
func weightOn(m *member, name string) int {
	for _, t := range m.tracks {
		if t.script == name && t.weight != nil {
			return *t.weight
		}
		if t.script == name {
			return m.node.scripts[name].weight
		}
	}
	return 0
}

func (g *group) texts() string {
	var all []string
	for _, a := range g.addresses {
		all = append(all, a.text)
	}
	return importing.Short(strings.Join(all, " and "), 64)
}

// scripts speaks about the lines of the vrrp_script blocks, now that it is known whether something tracks them.
func (r *reader) scripts() {
	for _, n := range r.nodes {
		for _, c := range n.scripts {
			c.speak()
		}
	}
}

func (c *script) speak() {
	for _, s := range append([]*blocks.Statement{c.block}, c.block.Children...) {
		word := s.Word(0)
		switch {
		case !c.tracked && word == "script" && c.argv == nil && c.process == "":
			s.Line.Unsupported("a line for the shell is no program: give the tracker `script` what it runs as argv, or tell router_health of each node with its file")
		case !c.tracked:
			s.Line.Unsupported("it belongs to a script that does not become a tracker")
		case word == "weight" && c.weight == 0:
			s.Line.Taken("a failure is a fault")
		case word == "weight" && c.kept:
			s.Line.Taken("weight of the tracker")
		case word == "weight":
			s.Line.Assumed("fault in place of a weight: a tracker that fails gives up the addresses, whatever the priorities")
		case word == "script" && c.becomes.GetGrpcHealth() != nil:
			s.Line.Assumed("the router's gRPC health is asked in place of the command, which finds a process but not whether it serves")
		case word == "script" && c.becomes.GetProcess() != nil:
			s.Line.Assumed("the agent looks for the process %s itself; that it is there does not tell that it serves", importing.Quote(c.process))
		case word == "script":
			s.Line.Taken("the tracker runs it without a shell")
			if c.becomes.GetScript().GetUser() == "" {
				s.Line.Assumed("nobody runs it, where keepalived takes keepalived_script or root; set user if that is not enough")
			}
		case word == "vrrp_script":
			s.Line.Taken("a tracker of the instances that track it")
		default:
			s.Line.Taken("%s of the tracker", importing.Short(word, 64))
		}
	}
}
