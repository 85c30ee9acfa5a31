package loop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/board"

	"github.com/twotier/twotier/services/ipvs-director/internal/kept"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

const (
	// KeptEvery is how often a director that holds a VIP looks, while any connection is elsewhere than its slot says, which of
	// them have ended and which are told of wrongly.
	KeptEvery = 2 * time.Second
	// keptShare bounds the time for that: one part in so many. A look goes through all that conntrack knows.
	keptShare = 20
	// keptAfter is how long it looks after slots have moved: connections that were beginning then are open by the end of it.
	keptAfter = 10 * time.Second
	// keptNotes is how many notes may be up before they are written anew with what is left of them.
	keptNotes = 2 * kept.Most / kept.PerNote
)

// Keeper is what a plane that deals by a table has for connections whose slot has moved.
type Keeper interface {
	// Flows are the open connections to some VIPs.
	Flows(ctx context.Context, vips map[spec.VIP]bool) ([]kept.Flow, error)
	// Keep makes the kernel send the middle of just these connections to their real servers.
	Keep(ctx context.Context, flows map[kept.Ends]netip.AddrPort) error
	// Forget makes the kernel forget all connections to some VIPs.
	Forget(ctx context.Context, vips map[spec.VIP]bool) error
}

// Board is where directors tell each other of those connections.
type Board interface {
	// Notes are all, the oldest first; false: they have not been read.
	Notes() (notes []board.Note, read bool)
	// Pin puts one up for the other directors.
	Pin(ctx context.Context, value []byte) error
	// Unpin takes one away that this process has put up.
	Unpin(ctx context.Context, key string) error
}

// keeping is what the loop knows of connections whose slot has moved.
type keeping struct {
	keeper Keeper // nil: the plane has none, or there is nobody to tell
	// services and held are what the tables follow from and which VIPs this node holds, as they were at the last pass.
	services   []spec.Service
	held       map[spec.VIP]bool
	known      map[kept.Ends]netip.AddrPort // that the kernel has been given; never changed once it is handed out
	told       int                          // connections that the notes spoke of then
	moved      time.Time                    // when one of them was another
	looked     time.Time
	pause      time.Duration          // until the next look
	leftOut    int                    // connections that nobody is told of, because there are too many
	failed     error                  // of the last telling
	lentFailed error                  // of the last telling what is lent
	decoded    map[string]decodedNote // by key
	absent     map[spec.VIP]absence   // VIPs that this node had
}

// decodedNote is a note as it was read once.
type decodedNote struct {
	key      string
	revision int64
	own      bool
	flows    []kept.Flow
	lent     *kept.Lent // nil: it is about flows
}

// notes are what an operator should know of it.
func (k keeping) notes() (all []string) {
	if k.leftOut > 0 {
		all = append(all, fmt.Sprintf("%d connections more than %d are elsewhere than their slot says: a take-over would lose them", k.leftOut, kept.Most))
	}
	if k.failed != nil {
		all = append(all, fmt.Sprintf("a take-over would lose connections whose slot has moved: %v", k.failed))
	}
	if k.lentFailed != nil {
		all = append(all, fmt.Sprintf("another director may deal by other slots than this one, and no more of them are lent: %v", k.lentFailed))
	}
	return all
}

// keep has the kernel know what the other directors tell of connections, and tells them of those that this node has.
func (l *Loop) keep(ctx context.Context, course steer.Course, have plan.Have) error {
	if l.kept.keeper == nil {
		return nil
	}
	notes, read := l.cfg.Board.Notes()
	if !read {
		return nil // the kernel keeps what it has
	}
	told, own := connections(l.read(notes))
	known := usable(told, have)
	err := l.kept.keeper.Keep(ctx, known)
	if err == nil {
		l.kept.known = known
	}
	held, now := holds(have), time.Now()
	lapsed := len(told) < l.kept.told // with their lease, or with an etcd that was lost
	l.kept.told = len(told)
	if lapsed || !reflect.DeepEqual(held, l.kept.held) || !reflect.DeepEqual(course.Services, l.kept.services) {
		l.kept.held, l.kept.services, l.kept.moved, l.kept.pause = held, course.Services, now, 0
	}
	if len(held) == 0 && len(own) > 0 && now.Sub(l.kept.moved) > board.Lease {
		l.kept.failed = l.tell(ctx, nil, nil, own) // they have gone on elsewhere for so long that all is known there
	}
	concerned := len(told) > 0 || l.kept.failed != nil || now.Sub(l.kept.moved) < keptAfter
	if len(held) == 0 || !concerned || now.Sub(l.kept.looked) < l.kept.pause {
		return err
	}
	flows, lookErr := l.kept.keeper.Flows(ctx, held)
	l.kept.looked = time.Now()
	l.kept.pause = max(KeptEvery, keptShare*l.kept.looked.Sub(now))
	if lookErr != nil {
		return errors.Join(err, lookErr)
	}
	// Without etcd it is tried again; nothing else depends on it.
	l.kept.failed = l.tell(ctx, kept.Strays(flows, tables(course.Services), told), flows, own)
	return err
}

// read decodes the notes, each revision of one once.
func (l *Loop) read(notes []board.Note) (all []decodedNote) {
	decoded := make(map[string]decodedNote, len(notes))
	for _, n := range notes {
		d, ok := l.kept.decoded[n.Key]
		if !ok || d.revision != n.Revision {
			d = l.decode(n)
		}
		d.own = n.Own // a lease can be lost
		decoded[n.Key] = d
		all = append(all, d)
	}
	l.kept.decoded = decoded
	return all
}

// connections are what the notes say of them, the newest word about each, and what this process's own notes do.
func connections(notes []decodedNote) (told map[kept.Ends]netip.AddrPort, own map[string][]kept.Flow) {
	told, own = map[kept.Ends]netip.AddrPort{}, map[string][]kept.Flow{}
	for _, n := range notes {
		if n.lent != nil {
			continue
		}
		for _, f := range n.flows {
			told[f.Ends] = f.Real
		}
		if n.own {
			own[n.key] = n.flows
		}
	}
	return told, own
}

// decode reads a note. One that cannot be read says nothing.
func (l *Loop) decode(n board.Note) decodedNote {
	d := decodedNote{key: n.Key, revision: n.Revision}
	lent, is, err := kept.DecodeLent(n.Value)
	if is && err == nil {
		d.lent = &lent
	} else if !is {
		d.flows, err = kept.Decode(n.Value)
	}
	if err != nil {
		l.log.Warn("a note of another director cannot be read", zap.String("key", n.Key), zap.Error(err))
	}
	return d
}

// tell puts up the strays, and takes own notes down of which nothing is left. When there are many notes, what is left of them
// is written anew before they go.
func (l *Loop) tell(ctx context.Context, strays, flows []kept.Flow, own map[string][]kept.Flow) error {
	open := make(map[kept.Flow]bool, len(flows))
	for _, f := range flows {
		open[f] = true
	}
	var living []kept.Flow
	var down []string
	for key, told := range own {
		left := len(living)
		for _, f := range told {
			if open[f] {
				living = append(living, f)
			}
		}
		if len(living) == left {
			down = append(down, key)
		}
	}
	room := max(0, kept.Most-len(living))
	l.kept.leftOut = max(0, len(strays)-room)
	up := strays[:min(len(strays), room)]
	if len(own)-len(down)+(len(up)+kept.PerNote-1)/kept.PerNote > keptNotes {
		up, down = append(living, up...), nil
		for key := range own {
			down = append(down, key)
		}
	}
	notes, err := kept.Encode(up)
	if err != nil {
		return err
	}
	for _, note := range notes {
		if err := l.cfg.Board.Pin(ctx, note); err != nil {
			return fmt.Errorf("tell other directors of %d connections: %w", len(up), err)
		}
	}
	for _, key := range down {
		if err := l.cfg.Board.Unpin(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// usable are the connections that this kernel can send on: their service and their real server are there.
func usable(told map[kept.Ends]netip.AddrPort, have plan.Have) map[kept.Ends]netip.AddrPort {
	type member struct {
		vip  spec.VIP
		real netip.AddrPort
	}
	there := map[member]bool{}
	for _, s := range have.Services {
		for _, r := range s.Reals {
			there[member{s.VIP, r.Address}] = s.VIP.Is6() == r.Address.Addr().Is6()
		}
	}
	known := maps.Clone(told)
	maps.DeleteFunc(known, func(e kept.Ends, real netip.AddrPort) bool {
		return e.Client.Addr().Is6() != e.VIP.Is6() || !there[member{e.VIP, real}]
	})
	return known
}

// holds are the VIPs of the kernel's services that this node has an address of.
func holds(have plan.Have) map[spec.VIP]bool {
	held := map[spec.VIP]bool{}
	for _, s := range have.Services {
		if hasAddress(have.Host, s.VIP.Addr()) {
			held[s.VIP] = true
		}
	}
	return held
}

func hasAddress(host plan.Host, a netip.Addr) bool {
	for _, h := range host.Addresses {
		if h.Prefix.Addr() == a {
			return true
		}
	}
	return false
}

// tables are how services deal, by what every director knows of them.
func tables(services []spec.Service) map[spec.VIP]slots.Table {
	all := make(map[spec.VIP]slots.Table, len(services))
	for _, s := range services {
		all[s.VIP] = slots.Of(s)
	}
	return all
}
