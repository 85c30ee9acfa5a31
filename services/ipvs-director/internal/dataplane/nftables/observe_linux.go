package nftables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// readings is how often the table is read before it is believed although its rules change meanwhile: a listing that
// another transaction interrupts can miss objects.
const readings = 3

// sight is what was read last, and of which generation of the rules.
type sight struct {
	generation uint32 // 0: nothing has been read
	have       plan.Have
}

// Observe reads the table. What it finds is believed only if it is exactly what this plane makes of the services that
// it describes; otherwise Have.Damage says what is not. While nobody changes any rules of the namespace it only reads the
// counters anew, and these less often where there are many of them (looks): a table can have a million slots, and a pass comes
// every second.
func (p *Plane) Observe(ctx context.Context) (plan.Have, error) {
	runtime.LockOSThread() // its processor time is measured
	defer runtime.UnlockOSThread()
	now, err := generation()
	if err != nil {
		return plan.Have{}, err
	}
	if p.last.generation == now && p.last.have.Damage == "" {
		if !p.looks.due(time.Now()) {
			return p.last.have, nil
		}
		before, err := processorTime()
		if err != nil {
			return plan.Have{}, err
		}
		have, err := p.count(p.last.have)
		if err != nil {
			return plan.Have{}, err
		}
		after, err := processorTime()
		if err != nil {
			return plan.Have{}, err
		}
		have.Counted = time.Now()
		p.last.have = have
		p.looks.spent(have.Counted, after-before)
		return have, nil
	}
	if have, ok := p.glance(now); ok {
		p.last, p.own = sight{now, have}, own{}
		return have, nil
	}
	p.last, p.own = sight{}, own{}
	for try := 1; ; try++ {
		if err := ctx.Err(); err != nil {
			return plan.Have{}, err
		}
		have, err := p.read()
		if err != nil {
			return plan.Have{}, err
		}
		have.Counted = time.Now()
		after, err := generation()
		if err != nil {
			return plan.Have{}, err
		}
		if after == now {
			p.last = sight{now, have}
		}
		if after == now || try == readings && have.Damage == "" {
			return have, nil
		}
		if try == readings {
			return plan.Have{}, fmt.Errorf("read the tables %s: somebody changes rules all the time", TableName)
		}
		now = after
	}
}

// processorTime is what the calling thread has used.
func processorTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read the processor time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// read reads both tables.
func (p *Plane) read() (all plan.Have, err error) {
	for _, h := range p.halves {
		have, err := h.read()
		if err != nil {
			return plan.Have{}, fmt.Errorf("read table %s: %w", h, err)
		}
		if have.Damage != "" {
			return plan.Have{Damage: have.Damage}, nil
		}
		all.Services = append(all.Services, have.Services...)
	}
	slices.SortFunc(all.Services, func(a, b plan.Service) int { return a.VIP.Compare(b.VIP) })
	return all, nil
}

// count returns have with the counters of now.
func (p *Plane) count(have plan.Have) (plan.Have, error) {
	if len(have.Services) == 0 {
		return have, nil
	}
	connections, passed := map[string]uint64{}, map[string]plan.Traffic{}
	for _, h := range p.halves {
		if !slices.ContainsFunc(have.Services, func(s plan.Service) bool { return h.has(s.VIP) }) {
			continue
		}
		counted, err := counters(h.table.Family)
		if err != nil {
			return plan.Have{}, err
		}
		maps.Copy(connections, counted) // no chain of the one has the name of one of the other
		here, err := h.passed()
		if err != nil {
			return plan.Have{}, err
		}
		maps.Copy(passed, here)
	}
	have.Services = slices.Clone(have.Services) // what was handed out before stays as it is
	for i := range have.Services {
		s := &have.Services[i]
		s.Reals = slices.Clone(s.Reals)
		for j := range s.Reals {
			r := &s.Reals[j]
			// A listing that somebody's change interrupts can miss a chain: its counter has not gone back to 0.
			r.Total = max(r.Total, connections[realChain(s.VIP, r.Address)])
		}
	}
	tellPassed(have.Services, passed)
	return have, nil
}

// tellPassed gives services of the caller what has passed. What a listing has missed has not gone back to 0.
func tellPassed(services []plan.Service, passed map[string]plan.Traffic) {
	for _, s := range services {
		for i := range s.Reals {
			r := &s.Reals[i]
			t := passed[string(memberKey(memberOf(s.VIP, r.Address)))]
			if before := r.Traffic; before != nil {
				t.PacketsIn, t.PacketsOut = max(t.PacketsIn, before.PacketsIn), max(t.PacketsOut, before.PacketsOut)
				t.BytesIn, t.BytesOut = max(t.BytesIn, before.BytesIn), max(t.BytesOut, before.BytesOut)
			}
			r.Traffic = &t
		}
	}
}

// content is the table as listed.
type content struct {
	table    *nft.Table // nil: there is none
	chains   map[string]*nft.Chain
	rules    map[string][]*nft.Rule // by chain
	elements map[string][]nft.SetElement
	tallies  map[string]map[string]tally // what the elements of sets that count have counted, by their keys
	counts   bool                        // the rules that count what passes are ours
	strange  string                      // what somebody has put in that cannot even be read; empty: nothing
}

// list reads the table through one socket: thousands of real servers are as many questions.
func (p *half) list() (c content, err error) {
	c = content{chains: map[string]*nft.Chain{}, rules: map[string][]*nft.Rule{}, elements: map[string][]nft.SetElement{}, tallies: map[string]map[string]tally{}}
	door, err := openDoor()
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, door.Close()) }()
	conn := through(door, nil)
	if c.table, err = p.findTable(conn); err != nil || c.table == nil {
		return c, err
	}
	chains, err := conn.ListChainsOfTableFamily(p.table.Family)
	if err != nil {
		return c, fmt.Errorf("list chains: %w", err)
	}
	for _, chain := range chains {
		if chain.Table.Name != TableName {
			continue
		}
		c.chains[chain.Name] = chain
		if chain.Name == countChain {
			if c.counts, err = p.counts(); err != nil {
				return c, err
			}
			continue
		}
		if c.rules[chain.Name], err = conn.GetRules(p.table, chain); err != nil {
			return c.unread("the rules of chain "+chain.Name, err)
		}
	}
	sets, err := conn.GetSets(p.table)
	if err != nil {
		return c.unread("the maps", err)
	}
	for _, set := range sets {
		if set.Name == inSet || set.Name == outSet {
			if c.tallies[set.Name], err = p.tallies(set.Name); err != nil {
				return c, err
			}
			continue
		}
		if isSticky(set.Name) {
			c.elements[set.Name] = nil // only that it is there: it may be large, and is not ours to judge
			continue
		}
		if c.elements[set.Name], err = conn.GetSetElements(set); err != nil {
			return c.unread("the elements of map "+set.Name, err)
		}
	}
	return c, nil
}

// unread tells an answer that the library does not understand, which is somebody else's work, from a kernel that does
// not answer. The library marks the errors of the exchange itself by their text alone.
func (c content) unread(what string, err error) (content, error) {
	var exchange *netlink.OpError
	if errors.As(err, &exchange) || strings.HasPrefix(err.Error(), "SendMessages") || strings.HasPrefix(err.Error(), "receiveAckAware") {
		return c, fmt.Errorf("list %s: %w", what, err)
	}
	c.strange = fmt.Sprintf("%s are not ours: %v", what, err)
	return c, nil
}

func (p *half) read() (plan.Have, error) {
	c, err := p.list()
	if err != nil || c.table == nil {
		return plan.Have{}, err
	}
	damage := func(format string, args ...any) (plan.Have, error) {
		return plan.Have{Damage: fmt.Sprintf(format, args...)}, nil
	}
	if c.strange != "" {
		return damage("%s", c.strange)
	}
	if c.table.Flags != 0 {
		return damage("the table has the flags 0x%x", c.table.Flags) // 0x1 is dormant: no chain is called
	}
	for _, h := range p.hooks() {
		if !sameHook(c.chains[h.chain.Name], h.chain) {
			return damage("chain %s is not the hook that it was", h.chain.Name)
		}
		if !sameRule(c.rules[h.chain.Name], h.rule) {
			return damage("the rule of chain %s is not the one that it was", h.chain.Name)
		}
		delete(c.chains, h.chain.Name)
	}
	if !sameHook(c.chains[countChain], p.count()) || !c.counts {
		return damage("chain %s does not count what it did", countChain)
	}
	delete(c.chains, countChain)
	if _, ok := c.elements[servicesMap]; !ok {
		return damage("map %s is gone", servicesMap)
	}
	var have plan.Have
	for _, e := range c.elements[servicesMap] {
		end, isKey := parseEndpoint(e.Key)
		vip := spec.VIP{AddrPort: end.AddrPort, Protocol: end.Protocol}
		if chain, isGoto := gotoChain(e); !isKey || !isGoto || chain != serviceChain(vip) {
			return damage("an entry of map %s leads elsewhere", servicesMap)
		}
		service, flaw := p.service(c, vip)
		if flaw != "" {
			return damage("service %s: %s", vip, flaw)
		}
		have.Services = append(have.Services, service)
	}
	tellPassed(have.Services, bothWays(c.tallies[inSet], c.tallies[outSet]))
	if flaw := c.entries(present(have).entries()); flaw != "" {
		return damage("%s", flaw)
	}
	delete(c.elements, servicesMap)
	if strays := slices.Sorted(maps.Keys(c.chains)); len(strays) > 0 {
		return damage("chain %s belongs to no service", strings.Join(strays, ", "))
	}
	if strays := slices.Sorted(maps.Keys(c.elements)); len(strays) > 0 {
		return damage("map %s belongs to no service", strings.Join(strays, ", "))
	}
	return have, nil
}

// entries compares the sets and the ways back of the whole table with what its services make, and takes them out of c.
func (c content) entries(want entries) (flaw string) {
	for name, keys := range map[string][]endpoint{vipsSet: keysOf(want.vips), realsSet: keysOf(want.reals)} {
		if !sameElements(c.elements[name], plainElements(keys)) {
			return fmt.Sprintf("set %s does not hold what the services make", name)
		}
		delete(c.elements, name)
	}
	for _, name := range []string{inSet, outSet} {
		counted := c.tallies[name]
		same := len(counted) == len(want.members)
		for m := range want.members {
			_, there := counted[string(memberKey(m))]
			same = same && there
		}
		if !same {
			return fmt.Sprintf("set %s does not hold what the services make", name)
		}
	}
	if !sameElements(c.elements[reverseMap], backElements(keysOf(want.back), want.back)) {
		return fmt.Sprintf("map %s does not hold what the services make", reverseMap)
	}
	delete(c.elements, reverseMap)
	return ""
}

// sameElements tells whether a map or set holds just these elements, in whatever order the kernel lists them.
func sameElements(have, want []nft.SetElement) bool {
	line := func(e nft.SetElement) string {
		if e.VerdictData != nil {
			return string(e.Key) + e.VerdictData.Chain
		}
		chain, _ := gotoChain(e)
		return string(e.Key) + chain
	}
	left := map[string]bool{}
	for _, e := range want {
		left[line(e)] = true
	}
	for _, e := range have {
		if !left[line(e)] {
			return false
		}
		delete(left, line(e))
	}
	return len(left) == 0
}

// service reads one service from its weights and compares all its objects with what those weights make. What it has
// read, it takes out of c.
func (l layout) service(c content, vip spec.VIP) (s plan.Service, flaw string) {
	s.VIP = vip
	chain, slotsName, weightsName := serviceChain(vip), slotsPrefix+suffix(vip), weightsPrefix+suffix(vip)
	defer func() {
		delete(c.chains, chain)
		delete(c.chains, backChain(vip))
		delete(c.elements, slotsName)
		delete(c.elements, weightsName)
	}()

	var reals []spec.Real
	for _, e := range c.elements[weightsName] {
		address, isKey := parseKey(e.Key)
		weight, isWeight := parseWeight(e.Val)
		if !isKey || !isWeight {
			return s, "an entry of its weights is not ours"
		}
		reals = append(reals, spec.Real{Address: address, Weight: weight})
	}
	slices.SortFunc(reals, func(a, b spec.Real) int { return a.Address.Compare(b.Address) })
	for _, r := range reals {
		name := realChain(vip, r.Address)
		if !sameRule(c.rules[name], l.realRule(r.Address)) {
			return s, fmt.Sprintf("the rule of real server %s is not the one that it was", r.Address)
		}
		delete(c.chains, name)
		s.Reals = append(s.Reals, plan.Real{Real: r, Total: c.rules[name][0].Exprs[0].(*expr.Counter).Packets})
	}

	rules := c.rules[chain]
	if len(rules) == 0 {
		return s, "its rule is gone"
	}
	var ok bool
	if s.Scheduler, s.Persistence, ok = parseComment(rules[len(rules)-1].UserData); !ok {
		return s, "its rule does not name the scheduler"
	}
	service := spec.Service{VIP: vip, Scheduler: s.Scheduler, Persistence: s.Persistence, Reals: reals}
	table := slots.Of(service)
	if s.Lent, ok = lent(service, c.elements[slotsName], table.Slots); !ok {
		return s, "its slots are not what its weights make"
	}
	if s.Persistence != (spec.Persistence{}) {
		if flaw := l.persistence(c, service); flaw != "" {
			return s, flaw
		}
	}
	if !sameRules(rules, l.serviceRules(service, table)) {
		return s, "its rule is not what its slots make"
	}
	if !sameRule(c.rules[backChain(vip)], l.backRule(vip)) {
		return s, "its way back is not the one that it was"
	}
	return s, ""
}

// persistence compares what a service has for it with what its weights make, and takes it out of c.
func (l layout) persistence(c content, s spec.Service) (flaw string) {
	sticky, takers := stickyPrefix+suffix(s.VIP), takersPrefix+suffix(s.VIP)
	if _, ok := c.elements[sticky]; !ok {
		return "the map of its clients is gone"
	}
	numbers := numbers(s.Reals)
	if !sameElements(c.elements[takers], takerElements(s, numbers)) {
		return "its takers are not what its weights make"
	}
	delete(c.elements, sticky)
	delete(c.elements, takers)
	for _, r := range s.Reals {
		name := stickChain(s.VIP, r.Address)
		if !sameRules(c.rules[name], l.stickRules(s, r.Address, numbers[r.Address])) {
			return fmt.Sprintf("the rules that remember real server %s are not those that they were", r.Address)
		}
		delete(c.chains, name)
	}
	return ""
}

func sameHook(have, want *nft.Chain) bool {
	return have != nil && have.Type == want.Type &&
		have.Hooknum != nil && *have.Hooknum == *want.Hooknum &&
		have.Priority != nil && *have.Priority == *want.Priority &&
		have.Policy != nil && *have.Policy == *want.Policy
}

// sameRule tells whether rules are exactly the one rule with these expressions.
func sameRule(rules []*nft.Rule, want []expr.Any) bool { return sameRules(rules, [][]expr.Any{want}) }

// sameRules tells whether rules are exactly those with these expressions, whatever they have counted.
func sameRules(rules []*nft.Rule, want [][]expr.Any) bool {
	return slices.EqualFunc(rules, want, func(rule *nft.Rule, want []expr.Any) bool {
		return slices.EqualFunc(rule.Exprs, want, func(a, b expr.Any) bool {
			_, counts := a.(*expr.Counter)
			_, shallCount := b.(*expr.Counter)
			return counts && shallCount || reflect.DeepEqual(a, b)
		})
	})
}

// lent tells which slots others have than the weights say; false: they are not slots that this plane could have made.
func lent(s spec.Service, elements []nft.SetElement, table []netip.AddrPort) (loans []spec.Loan, ok bool) {
	if len(elements) != len(table) {
		return nil, false
	}
	borrowers := map[string]netip.AddrPort{} // by chain
	for _, r := range s.Reals {
		if r.Weight > 0 && s.Scheduler.ByLoad() {
			borrowers[entry(s, r.Address)] = r.Address
		}
	}
	for _, e := range elements {
		i, isTurn := parseTurn(e.Key)
		chain, isGoto := gotoChain(e)
		if !isTurn || !isGoto || i < 0 || i >= len(table) {
			return nil, false
		}
		if chain == entry(s, table[i]) {
			continue
		}
		to, takes := borrowers[chain]
		if !takes {
			return nil, false
		}
		loans = append(loans, spec.Loan{Slot: i, To: to})
	}
	slices.SortFunc(loans, func(a, b spec.Loan) int { return cmp.Compare(a.Slot, b.Slot) })
	return loans, true
}
