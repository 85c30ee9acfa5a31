package nftables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

const (
	// rebuildMost bounds the size of one transaction of a rebuild, in bytes as size guesses them.
	rebuildMost = 4 << 20
	// elementsPerMessage bounds one netlink message; an attribute cannot be above 64 KiB.
	elementsPerMessage = 200
)

// Plane is the nftables data plane of the network namespace that its methods are called in, always the same one. It has a table
// for each family of addresses; nothing of the one touches the other.
type Plane struct {
	halves [2]*half
	last   sight
	own    own
	looks  looks
}

// half is the table of one family.
type half struct {
	conn *nft.Conn
	last []netlink.Message // what ends the next transaction and the library cannot say
	layout
}

// Probe tells whether this kernel can do what the plane needs, by making its objects in transactions of tables of
// another name and removing them in the same transaction: the kernel checks everything and nothing remains.
func Probe() dataplane.Report {
	r := dataplane.Report{Name: dataplane.NFTables, Lacks: maps.Clone(lacks)}
	// RFC 5737 and RFC 3849: documentation only.
	four := spec.Service{VIP: spec.MustParseVIP("192.0.2.1:80"), Reals: []spec.Real{{Address: netip.MustParseAddrPort("192.0.2.2:80"), Weight: 1}}}
	if err := probe(layout4, four); err != nil {
		r.Reason = fmt.Sprintf("this kernel refuses a table with nat, numgen and maps: %v", err)
		return r
	}
	six := spec.Service{VIP: spec.MustParseVIP("[2001:db8::1]:80"), Reals: []spec.Real{{Address: netip.MustParseAddrPort("[2001:db8::2]:80"), Weight: 1}}}
	if err := probe(layout6, six); err != nil {
		r.Lacks[spec.FeatureIPv6] = fmt.Sprintf("this kernel refuses a table of the family ip6: %v", err)
	}
	four.Persistence = spec.Persistence{Timeout: spec.DefaultPersistence, Prefix: 24}
	if err := probe(layout4, four); err != nil {
		r.Lacks[spec.FeaturePersistence] = fmt.Sprintf("this kernel refuses a map that packets write: %v", err)
	}
	delete(r.Lacks, spec.FeatureThresholds) // the loop keeps them, by CountOpen
	r.Usable, r.Reason = true, "nf_tables with nat, numgen and maps; lc and wlc by slots that follow the connections counted each second"
	return r
}

func probe(l layout, s spec.Service) error {
	l.table = &nft.Table{Name: TableName + "_probe", Family: l.table.Family}
	p := openHalf(l)
	if err := p.addBase(); err != nil {
		return err
	}
	if err := p.addService(s); err != nil {
		return err
	}
	remove, err := request(l.table.Family, unix.NFT_MSG_DELTABLE, 0, netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: []byte(l.table.Name + "\x00")})
	p.last = append(p.last, remove) // behind the rules that are there already
	return errors.Join(err, p.conn.Flush())
}

// lacks are the features that the plane has not.
var lacks = func() spec.Lacks {
	l := spec.Lacks{}
	l[spec.FeatureMark] = "the director does not do it with nf_tables"
	l[spec.FeatureThresholds] = "the director keeps them for it, by counting once a second"
	for _, f := range []spec.Feature{spec.FeatureDirect, spec.FeatureIPIP, spec.FeatureGUE, spec.FeatureGRE, spec.FeatureMixedFamilies} {
		l[f] = "conntrack translates, it does not wrap: use the plane ipvs"
	}
	l[spec.FeatureOnePacket] = "conntrack keeps the datagrams of a flow together: use the plane ipvs"
	l[spec.FeatureTimeouts] = "conntrack has its own: set net.netfilter.nf_conntrack_tcp_timeout_established and its like"
	l[spec.FeatureSync] = "another director takes over without it"
	for _, s := range spec.Schedulers {
		if !slices.Contains([]spec.Scheduler{spec.RR, spec.WRR, spec.LC, spec.WLC, spec.SH, spec.MH}, s) {
			l[s.Feature()] = "it is one of IPVS"
		}
	}
	return l
}()

// Open makes the plane. Nothing is changed.
func Open() *Plane { return &Plane{halves: [2]*half{openHalf(layout4), openHalf(layout6)}} }

func openHalf(l layout) *half {
	h := &half{layout: l}
	h.forget()
	return h
}

// forget lets go of a transaction that was begun.
func (p *half) forget() { p.last, p.conn = nil, through(nil, &p.last) }

// Close lets go of the kernel. The rules stay and go on forwarding.
func (p *Plane) Close() error { return nil }

// Remove takes the tables away, as a director that now uses another plane must. No table is no error.
func (p *Plane) Remove(ctx context.Context) error {
	if err := errors.Join(ctx.Err(), removeKept()); err != nil {
		return err
	}
	for _, h := range p.halves {
		there, err := h.tableThere()
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if !there {
			continue
		}
		h.conn.DelTable(h.table)
		if err := h.conn.Flush(); err != nil {
			return fmt.Errorf("remove table %s: %w", h, err)
		}
	}
	return nil
}

// Apply does the changes, those of one service in one transaction: packets see all of them or none.
func (p *Plane) Apply(ctx context.Context, changes []plan.Change) (done []plan.Change, err error) {
	for _, c := range changes {
		if err := dataplane.Check(c, lacks); err != nil {
			return nil, err
		}
	}
	have, err := p.sighted(ctx)
	if err != nil {
		return nil, err
	}
	if len(changes) == 1 && changes[0].Kind == plan.Rebuild {
		for _, h := range p.halves {
			services := slices.DeleteFunc(slices.Clone(changes[0].Services), func(s spec.Service) bool { return !h.has(s.VIP) })
			if there, err := h.tableThere(); err != nil || !there && len(services) == 0 {
				if err != nil {
					return nil, err
				}
				continue
			}
			if _, err := h.apply(ctx, nil, have.Damage, []plan.Change{{Kind: plan.Rebuild, Services: services, Reason: changes[0].Reason}}); err != nil {
				return nil, err
			}
		}
		return changes, nil
	}
	is := present(have)
	for _, h := range p.halves {
		here := changes
		if elsewhere := func(c plan.Change) bool { return !h.has(c.VIP) }; slices.ContainsFunc(changes, elsewhere) {
			here = slices.DeleteFunc(slices.Clone(changes), elsewhere)
		}
		if len(here) == 0 {
			continue
		}
		theirs := maps.Clone(is)
		maps.DeleteFunc(theirs, func(vip spec.VIP, _ spec.Service) bool { return !h.has(vip) })
		made, err := h.apply(ctx, theirs, have.Damage, here)
		done = append(done, made...)
		if err != nil {
			return done, err
		}
	}
	p.expect(done)
	return done, nil
}

// has tells whether a service belongs to this family.
func (p *half) has(vip spec.VIP) bool { return vip.Is6() == (p.table.Family == nft.TableFamilyIPv6) }

// String names the table for people.
func (p *half) String() string {
	if p.table.Family == nft.TableFamilyIPv6 {
		return "ip6 " + TableName
	}
	return "ip " + TableName
}

// apply does changes of services of this family.
func (p *half) apply(ctx context.Context, is services, damage string, changes []plan.Change) (done []plan.Change, err error) {
	if list, ok := fromNothing(is, damage, changes); ok {
		if _, err := p.rebuild(list); err != nil {
			p.forget()
			return nil, fmt.Errorf("make %d services: %w", len(list), err)
		}
		return changes, nil
	}
	for _, batch := range perService(changes) {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		becomes, err := p.transact(is, damage, batch)
		if err != nil {
			p.forget()
			return done, fmt.Errorf("%s: %w", batch[0], err)
		}
		is = becomes
		done = append(done, batch...)
	}
	return done, nil
}

// fromNothing tells which services the changes make where there are none; false: they are not that. Those are made in as few
// transactions as a rebuild: the kernel looks through the whole table at the end of each.
func fromNothing(is services, damage string, changes []plan.Change) (list []spec.Service, ok bool) {
	if len(is) > 0 || damage != "" {
		return nil, false
	}
	all := services{}
	for _, c := range changes {
		if c.Kind != plan.AddService && c.Kind != plan.AddReal {
			return nil, false
		}
		was, there := all[c.VIP]
		now, _, err := plan.Fold(was, there, c)
		if err != nil {
			return nil, false // whoever makes the changes one by one will say so
		}
		all[c.VIP] = now
	}
	for _, vip := range keysOf(all) {
		list = append(list, all[vip])
	}
	return list, len(list) > 1
}

// perService groups the changes by service, in the order in which each service is first named.
func perService(changes []plan.Change) (batches [][]plan.Change) {
	at := map[spec.VIP]int{}
	for _, c := range changes {
		i, seen := at[c.VIP]
		if !seen {
			i = len(batches)
			at[c.VIP] = i
			batches = append(batches, nil)
		}
		batches[i] = append(batches[i], c)
	}
	return batches
}

// transact carries out the changes of one service and returns the services that there are then.
func (p *half) transact(is services, damage string, batch []plan.Change) (becomes services, err error) {
	if batch[0].Kind == plan.Rebuild {
		return p.rebuild(batch[0].Services)
	}
	if damage != "" {
		return nil, fmt.Errorf("the table was changed by somebody else: %s", damage)
	}
	vip := batch[0].VIP
	was, there := is[vip]
	now, remains := was, there
	for _, c := range batch {
		if now, remains, err = plan.Fold(now, remains, c); err != nil {
			return nil, err
		}
	}
	becomes = maps.Clone(is)
	delete(becomes, vip)
	if remains {
		becomes[vip] = now
	}
	if !there && remains {
		if tableThere, err := p.tableThere(); err != nil {
			return nil, err
		} else if !tableThere {
			if err := p.addBase(); err != nil {
				return nil, err
			}
		}
	}
	// The sets of the whole table hold every real server: they are compared only when one comes or goes.
	moved := !there || !remains || !slices.EqualFunc(was.Reals, now.Reals, func(a, b spec.Real) bool { return a.Address == b.Address })
	if moved {
		if err := p.enter(is, becomes); err != nil {
			return nil, err
		}
	}
	switch {
	case !there && !remains:
		return is, nil
	case !remains:
		p.removeService(was)
	case !there:
		err = p.addService(now)
	default:
		err = p.changeService(was, now)
	}
	if err == nil && moved {
		err = p.leadBack(is, becomes)
	}
	if err != nil {
		return nil, err
	}
	return becomes, p.conn.Flush()
}

// rebuild makes the table anew, in one transaction unless that would not fit through the socket: then the services
// beyond the first rebuildMost follow in transactions of their own. What guards them all is in the first.
func (p *half) rebuild(list []spec.Service) (services, error) {
	// Adding a table that is there changes nothing, so that the deletion always finds one.
	p.conn.AddTable(p.table)
	p.conn.DelTable(p.table)
	if err := p.addBase(); err != nil {
		return nil, err
	}
	becomes := services{}
	for _, s := range list {
		becomes[s.VIP] = s
	}
	if err := p.enter(nil, becomes); err != nil {
		return nil, err
	}
	queued := 0
	for _, s := range list {
		if queued > 0 && queued+size(s) > rebuildMost {
			if err := p.conn.Flush(); err != nil {
				return nil, err
			}
			queued = 0
		}
		if err := p.addService(s); err != nil {
			return nil, err
		}
		queued += size(s)
	}
	if err := p.leadBack(nil, becomes); err != nil {
		return nil, err
	}
	return becomes, p.conn.Flush()
}

// size guesses, on the high side, how many bytes the messages for a new service take.
func size(s spec.Service) int { return 4<<10 + 1<<10*len(s.Reals) + 128*len(slots.Of(s).Slots) }

// addBase queues the table, its hooks, and the maps and sets that they look into.
func (p *half) addBase() error {
	p.conn.AddTable(p.table)
	counted := p.counted()
	for _, set := range append([]*nft.Set{p.services(), p.reverse(), p.vips(), p.reals()}, counted[:]...) {
		_ = p.conn.AddSet(set, nil) // fails for anonymous sets only
	}
	for _, h := range p.hooks() {
		p.addRule(h.chain, h.rule, nil)
	}
	p.conn.AddChain(p.count())
	rules, err := p.countMessages()
	p.last = append(p.last, rules...)
	return err
}

// addRule queues a chain and its one rule.
func (p *half) addRule(chain *nft.Chain, rule []expr.Any, note []byte) { p.addRules(chain, note, rule) }

// addRules queues a chain and its rules, the last of them with a note.
func (p *half) addRules(chain *nft.Chain, note []byte, rules ...[]expr.Any) {
	p.conn.AddChain(chain)
	for i, rule := range rules {
		r := &nft.Rule{Table: p.table, Chain: chain, Exprs: rule}
		if i == len(rules)-1 {
			r.UserData = note
		}
		p.conn.AddRule(r)
	}
}

// addService queues the objects of a new service, last of all its entry in the map of services.
func (p *half) addService(s spec.Service) error {
	for _, set := range []*nft.Set{p.slots(s.VIP), p.weights(s.VIP)} {
		if err := p.conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("add %s: %w", set.Name, err)
		}
	}
	for _, r := range s.Reals {
		p.addReal(s.VIP, r)
	}
	if err := p.memory(spec.Service{}, s); err != nil {
		return err
	}
	p.addRule(p.chain(backChain(s.VIP)), p.backRule(s.VIP), nil)
	if err := p.fillService(s); err != nil {
		return err
	}
	return p.addElements(p.services(), []nft.SetElement{serviceElement(s.VIP)})
}

// changeService queues what makes one state of a service into another. The chains of real servers that stay are not
// touched, because their counters would start again.
func (p *half) changeService(was, becomes spec.Service) error {
	if was.Scheduler == becomes.Scheduler && was.Persistence == becomes.Persistence && slices.Equal(was.Reals, becomes.Reals) {
		return p.lend(was, becomes)
	}
	p.emptyService(was)
	if err := p.memory(was, becomes); err != nil {
		return err
	}
	for _, r := range without(becomes.Reals, was.Reals) {
		p.addReal(was.VIP, r)
	}
	for _, r := range without(was.Reals, becomes.Reals) {
		p.removeReal(was.VIP, r)
	}
	return p.fillService(becomes)
}

// lend queues the slots that another real server gets. Nothing else of the service is otherwise.
func (p *half) lend(was, becomes spec.Service) error {
	then := slotElements(becomes, slots.Of(becomes).Slots)
	var gone, new []nft.SetElement
	for i, e := range slotElements(was, slots.Of(was).Slots) {
		if e.VerdictData.Chain != then[i].VerdictData.Chain {
			gone, new = append(gone, e), append(new, then[i])
		}
	}
	if err := p.deleteElements(p.slots(was.VIP), gone); err != nil {
		return err
	}
	return p.addElements(p.slots(was.VIP), new)
}

// enter queues what makes the sets of VIPs and real servers, and takes ways back away that no longer hold. It comes before
// the changes of a service: the chain of a way back can go only when nothing leads there.
func (p *half) enter(is, becomes services) error {
	was, now := is.entries(), becomes.entries()
	for _, set := range []struct {
		set      *nft.Set
		was, now map[endpoint]bool
	}{{p.vips(), was.vips, now.vips}, {p.reals(), was.reals, now.reals}} {
		if err := p.deleteElements(set.set, plainElements(beyond(set.was, set.now))); err != nil {
			return err
		}
		if err := p.addElements(set.set, plainElements(beyond(set.now, set.was))); err != nil {
			return err
		}
	}
	for _, set := range p.counted() {
		if err := p.deleteElements(set, memberElements(beyond(was.members, now.members))); err != nil {
			return err
		}
		if err := p.addElements(set, memberElements(beyond(now.members, was.members))); err != nil {
			return err
		}
	}
	return p.deleteElements(p.reverse(), backElements(beyond(was.back, now.back), was.back))
}

// leadBack queues the ways back that are new; the chains of their services are there.
func (p *half) leadBack(is, becomes services) error {
	was, now := is.entries(), becomes.entries()
	return p.addElements(p.reverse(), backElements(beyond(now.back, was.back), now.back))
}

// removeService queues the removal of a service. Whatever leads back to it goes before it does; see leadBack.
func (p *half) removeService(s spec.Service) {
	_ = p.conn.SetDeleteElements(p.services(), []nft.SetElement{serviceElement(s.VIP)}) // fails for anonymous sets only
	p.emptyService(s)
	_ = p.memory(s, spec.Service{}) // only an addition can fail
	for _, name := range []string{serviceChain(s.VIP), backChain(s.VIP)} {
		chain := p.chain(name)
		p.conn.FlushChain(chain)
		p.conn.DelChain(chain)
	}
	p.conn.DelSet(p.slots(s.VIP))
	p.conn.DelSet(p.weights(s.VIP))
	for _, r := range s.Reals {
		p.removeReal(s.VIP, r)
	}
}

// emptyService queues the removal of a service's rule, slots and weights.
func (p *half) emptyService(s spec.Service) {
	p.conn.FlushChain(p.chain(serviceChain(s.VIP)))
	p.conn.FlushSet(p.slots(s.VIP))
	p.conn.FlushSet(p.weights(s.VIP))
	if s.Persistence != (spec.Persistence{}) {
		p.unstick(s)
	}
}

// fillService queues rule, slots and weights of a service that has none; the chains of its real servers are there.
func (p *half) fillService(s spec.Service) error {
	table := slots.Of(s)
	if s.Persistence != (spec.Persistence{}) {
		if err := p.stick(s); err != nil {
			return err
		}
	}
	if err := p.addElements(p.slots(s.VIP), slotElements(s, table.Slots)); err != nil {
		return err
	}
	var weights []nft.SetElement
	for _, r := range s.Reals {
		weights = append(weights, nft.SetElement{Key: key(r.Address), Val: weight(r.Weight)})
	}
	if err := p.addElements(p.weights(s.VIP), weights); err != nil {
		return err
	}
	p.addRules(p.chain(serviceChain(s.VIP)), comment(s), p.serviceRules(s, table)...)
	return nil
}

func (p *half) addReal(vip spec.VIP, r spec.Real) {
	p.addRule(p.chain(realChain(vip, r.Address)), p.realRule(r.Address), nil)
}

func (p *half) removeReal(vip spec.VIP, r spec.Real) {
	chain := p.chain(realChain(vip, r.Address))
	p.conn.FlushChain(chain)
	p.conn.DelChain(chain)
}

// without returns the real servers of all whose addresses are not in others.
func without(all, others []spec.Real) []spec.Real {
	return slices.DeleteFunc(slices.Clone(all), func(r spec.Real) bool {
		return slices.ContainsFunc(others, func(o spec.Real) bool { return o.Address == r.Address })
	})
}

func (p *half) addElements(set *nft.Set, elements []nft.SetElement) error {
	for part := range slices.Chunk(elements, elementsPerMessage) {
		if err := p.conn.SetAddElements(set, part); err != nil {
			return fmt.Errorf("add to %s: %w", set.Name, err)
		}
	}
	return nil
}

func (p *half) deleteElements(set *nft.Set, elements []nft.SetElement) error {
	for part := range slices.Chunk(elements, elementsPerMessage) {
		if err := p.conn.SetDeleteElements(set, part); err != nil {
			return fmt.Errorf("delete from %s: %w", set.Name, err)
		}
	}
	return nil
}

func (p *half) tableThere() (bool, error) {
	table, err := p.findTable(p.conn)
	return table != nil, err
}

// findTable returns the table as the kernel has it; nil when there is none.
func (l layout) findTable(conn *nft.Conn) (*nft.Table, error) {
	tables, err := conn.ListTablesOfFamily(l.table.Family)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	if i := slices.IndexFunc(tables, func(t *nft.Table) bool { return t.Name == TableName }); i >= 0 {
		return tables[i], nil
	}
	return nil, nil
}

func slotElements(s spec.Service, table []netip.AddrPort) (elements []nft.SetElement) {
	for i, real := range table {
		elements = append(elements, gotoElement(turn(i), entry(s, real)))
	}
	return elements
}

func plainElements(ends []endpoint) (elements []nft.SetElement) {
	for _, e := range ends {
		elements = append(elements, nft.SetElement{Key: endpointKey(e)})
	}
	return elements
}

func backElements(reals []endpoint, back map[endpoint]spec.VIP) (elements []nft.SetElement) {
	for _, real := range reals {
		elements = append(elements, gotoElement(endpointKey(real), backChain(back[real])))
	}
	return elements
}

func serviceElement(vip spec.VIP) nft.SetElement {
	return gotoElement(endpointKey(front(vip)), serviceChain(vip))
}

func gotoElement(key []byte, chain string) nft.SetElement {
	return nft.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}
