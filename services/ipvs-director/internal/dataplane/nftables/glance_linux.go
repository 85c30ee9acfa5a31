package nftables

import (
	"context"
	"slices"

	nft "github.com/google/nftables"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// own is what this plane itself has done since the last sight: services that it changed without making or removing chains.
type own struct {
	generation uint32 // of the rules, if nobody else has done anything; 0: nothing has been done
	touched    []spec.VIP
}

// sighted is what there is, with counters that may be those of the last look.
func (p *Plane) sighted(ctx context.Context) (plan.Have, error) {
	if now, err := generation(); err == nil && p.last.generation == now && p.last.have.Damage == "" {
		return p.last.have, nil
	}
	return p.Observe(ctx)
}

// expect notes what the next look may find after these changes, each service's in one transaction.
func (p *Plane) expect(changes []plan.Change) {
	p.own = own{}
	if p.last.generation == 0 {
		return
	}
	for _, c := range changes {
		if c.Kind != plan.SetReal && c.Kind != plan.SetService && c.Kind != plan.Lend {
			return
		}
	}
	batches := perService(changes)
	for _, batch := range batches {
		p.own.touched = append(p.own.touched, batch[0].VIP)
	}
	p.own.generation = p.last.generation + uint32(len(batches)) // each transaction makes the next one
}

// glance reads only what this plane has changed since the last sight; false: that does not do, everything has to be read.
func (p *Plane) glance(now uint32) (plan.Have, bool) {
	if p.own.generation != now || p.last.generation == 0 || p.last.have.Damage != "" {
		return plan.Have{}, false
	}
	have := p.last.have
	have.Services = slices.Clone(have.Services) // what was handed out before stays as it is
	for _, vip := range p.own.touched {
		at := slices.IndexFunc(have.Services, func(s plan.Service) bool { return s.VIP == vip })
		if at < 0 || have.Services[at].Persistence != (spec.Persistence{}) {
			return plan.Have{}, false
		}
		for _, h := range p.halves {
			if !h.has(vip) {
				continue
			}
			service, ok := h.readOne(have.Services[at])
			if !ok {
				return plan.Have{}, false // the whole look will say what is wrong
			}
			have.Services[at] = service
		}
	}
	after, err := generation()
	return have, err == nil && after == now
}

// readOne reads the objects of one service that has the real servers that it had.
func (p *half) readOne(was plan.Service) (is plan.Service, ok bool) {
	door, err := openDoor()
	if err != nil {
		return is, false
	}
	defer func() { ok = door.Close() == nil && ok }()
	conn := through(door, nil)
	c := content{chains: map[string]*nft.Chain{}, rules: map[string][]*nft.Rule{}, elements: map[string][]nft.SetElement{}}
	chains := []string{serviceChain(was.VIP), backChain(was.VIP)}
	for _, r := range was.Reals {
		chains = append(chains, realChain(was.VIP, r.Address))
	}
	for _, name := range chains {
		if c.rules[name], err = conn.GetRules(p.table, p.chain(name)); err != nil {
			return is, false
		}
	}
	for _, name := range []string{slotsPrefix + suffix(was.VIP), weightsPrefix + suffix(was.VIP)} {
		set, err := conn.GetSetByName(p.table, name)
		if err != nil {
			return is, false
		}
		if c.elements[name], err = conn.GetSetElements(set); err != nil {
			return is, false
		}
	}
	is, flaw := p.service(c, was.VIP)
	if flaw != "" || len(is.Reals) != len(was.Reals) {
		return is, false
	}
	for i := range is.Reals {
		is.Reals[i].Traffic = was.Reals[i].Traffic // until the counters are read
	}
	return is, true
}
