package keepalived

import (
	"fmt"
	"slices"
	"strings"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/twotier/twotier/services/internal/importing"

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
	trackers  []*vrrpv1.Tracker
	// lines are where the trackers were asked for.
	lines []*importing.Line
}

// finish makes instances of the members, and takes out what spec refuses until it refuses nothing.
func (r *reader) finish() []*vrrpv1.Instance {
	groups := r.merge()
	for _, g := range groups {
		r.agree(g)
		r.watch(g)
	}
	r.scripts()
	for {
		var instances []*vrrpv1.Instance
		for _, g := range groups {
			instances = append(instances, g.message())
		}
		_, violations := spec.Parse(instances)
		if len(violations) == 0 {
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
				g.leave("%s", v.GetDescription())
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

// merge puts the members together by router id, in the order of the files.
func (r *reader) merge() (groups []*group) {
	byID := map[uint32]*group{}
	for _, m := range r.members {
		g := byID[m.id]
		switch {
		case m.id == 0:
			m.block.leave("vrrp_instance %s has no good virtual_router_id", importing.Quote(m.name))
			continue
		case g == nil && len(groups) == MaxInstances:
			m.block.leave("there are no more than %d instances", MaxInstances)
			continue
		case g == nil:
			g = &group{name: unique(m.name, groups)}
			byID[m.id] = g
			groups = append(groups, g)
			m.block.line.Taken("instance/%s, member %s", g.name, m.node.name)
			if g.name != m.name {
				m.block.line.Assumed("another name than %s", importing.Quote(m.name))
			}
		case slices.ContainsFunc(g.members, func(o *member) bool { return o.node.name == m.node.name }):
			m.block.leave("router id %d belongs to instance %s on this node already; ids are unique here, whatever the card", m.id, g.name)
			continue
		default:
			m.block.line.Taken("instance/%s, member %s", g.name, m.node.name)
			if m.name != g.members[0].name {
				m.block.line.Assumed("it is instance %s of %s: the router id is the same", importing.Quote(g.members[0].name), g.members[0].node.name)
			}
		}
		g.members = append(g.members, m)
	}
	return groups
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
		if m.password != first.password || (m.authLine == nil) != (first.authLine == nil) {
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
		Profile: vrrpv1.Profile_PROFILE_COMPAT,
	}
	for _, a := range g.addresses {
		m.VirtualAddresses = append(m.VirtualAddresses, a.text)
	}
	for _, each := range g.members {
		m.Members = append(m.Members, &vrrpv1.Member{Node: each.node.name, Priority: each.priority})
		if each.authLine != nil {
			m.Authentication = &vrrpv1.Authentication{PasswordFile: g.passwordFile()}
		}
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
	index := -1
	for _, prefix := range []string{"virtual_addresses[", "trackers["} {
		if after, ok := strings.CutPrefix(rest, prefix); ok {
			if _, err := fmt.Sscanf(after, "%d]", &index); err != nil {
				return false
			}
		}
	}
	switch {
	case rest == "advert_interval" && g.interval.line != nil:
		g.interval.line.Unsupported("%s; 1s is taken", why)
		g.interval = setting{}
	case strings.HasPrefix(rest, "virtual_addresses[") && index < len(g.addresses):
		g.addresses[index].line.LeftOut("%s", why)
		g.addresses = slices.Delete(slices.Clone(g.addresses), index, index+1)
	case strings.HasPrefix(rest, "trackers[") && index < len(g.trackers):
		g.lines[index].Unsupported("%s; the tracker is left out", why)
		g.trackers, g.lines = slices.Delete(slices.Clone(g.trackers), index, index+1), slices.Delete(slices.Clone(g.lines), index, index+1)
	default:
		return false
	}
	return true
}

func (g *group) leave(format string, args ...any) {
	for _, m := range g.members {
		m.block.leave("the instance is left out: "+format, args...)
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
	for _, m := range g.members {
		for _, t := range m.tracks {
			tracker, why := g.tracker(t.script)
			if tracker == nil {
				t.line.Unsupported("%s; without a tracker the address stays where its service is dead", why)
				continue
			}
			m.node.scripts[t.script].tracked = true
			t.line.Taken("tracker %s of instance/%s", tracker.GetName(), g.name)
			if t.weight != nil {
				t.line.Assumed("fault in place of weight %d: a tracker that fails gives up the addresses", *t.weight)
			}
			if !done[t.script] {
				g.trackers, g.lines = append(g.trackers, tracker), append(g.lines, t.line)
			}
			done[t.script] = true
		}
	}
}

// tracker asks the router's health in place of a script that looks after haproxy.
func (g *group) tracker(name string) (tracker *vrrpv1.Tracker, why string) {
	health := &vrrpv1.GrpcHealth{Address: map[string]string{}, Service: "twotier.router.v1.Router"}
	var c *script
	for _, m := range g.members {
		if own := m.node.scripts[name]; own != nil && c == nil {
			c = own
		}
		if m.node.routerHealth == "" {
			return nil, fmt.Sprintf("a script does not become a tracker by itself; tell router_health of %s with its file, or apply the instance with a tracker", m.node.name)
		}
		health.Address[m.node.name] = m.node.routerHealth
	}
	if !strings.Contains(c.command, "haproxy") {
		return nil, "a script does not become a tracker by itself; apply the instance with one of the kind script"
	}
	tracker = &vrrpv1.Tracker{Name: name, GrpcHealth: health, Interval: durationpb.New(c.interval), Rise: c.rise, Fall: c.fall}
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
	for _, s := range append([]*statement{c.block}, c.block.children...) {
		word := s.word(0)
		switch {
		case !c.tracked && word == "script":
			s.line.Unsupported("a line for the shell is no program: give the tracker `script` what it runs as argv, or tell router_health of each node with its file")
		case !c.tracked:
			s.line.Unsupported("it belongs to a script that does not become a tracker")
		case word == "weight":
			s.line.Assumed("fault in place of a weight: a tracker that fails gives up the addresses, whatever the priorities")
		case word == "script":
			s.line.Assumed("the router's gRPC health is asked in place of the command, which finds a process but not whether it serves")
		case word == "vrrp_script":
			s.line.Taken("a tracker of the instances that track it")
		default:
			s.line.Taken("%s of the tracker", importing.Short(word, 64))
		}
	}
}
