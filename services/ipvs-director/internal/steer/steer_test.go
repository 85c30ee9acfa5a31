package steer

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

var (
	vip   = spec.MustParseVIP("10.10.60.22:80")
	sorry = real(9)
	start = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
)

func real(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 60, byte(70 + i)}), 80)
}

// service has real servers 0, 1, 2 ... of these weights, and a check.
func service(weights ...int) spec.Service {
	s := spec.Service{Name: "web", VIP: vip, Scheduler: spec.WLC, Check: spec.Check{Kind: spec.CheckTCP}, Quorum: 1, DrainTimeout: time.Minute}
	for i, w := range weights {
		s.Reals = append(s.Reals, spec.Real{Address: real(i), Weight: w})
	}
	return s
}

// kernel makes what the kernel has of words such as "0:1 2:0*3" (real server : weight * open connections).
func kernel(words string) plan.Have {
	h := plan.Service{VIP: vip, Scheduler: spec.WLC}
	for _, word := range strings.Fields(words) {
		var i, weight int
		var open uint64
		r := plan.Real{}
		if n, _ := fmt.Sscanf(word, "%d:%d*%d", &i, &weight, &open); n == 3 {
			r.Active = &open
		}
		r.Real = spec.Real{Address: real(i), Weight: weight}
		h.Reals = append(h.Reals, r)
	}
	return plan.Have{Services: []plan.Service{h}}
}

// health says U, D or ? for each real server.
func health(states string) func(Key) Health {
	return func(k Key) Health {
		switch i := int(k.Real.Addr().As4()[3]) - 70; {
		case i >= len(states) || states[i] == '?':
			return Unknown
		case states[i] == 'D':
			return Down
		}
		return Up
	}
}

func print(c Course) string {
	var words []string
	for _, s := range c.Services {
		for _, r := range s.Reals {
			words = append(words, fmt.Sprintf("%d:%d", int(r.Address.Addr().As4()[3])-70, r.Weight))
		}
	}
	return strings.Join(words, " ")
}

func TestSteer(t *testing.T) {
	t.Parallel()
	with := func(s spec.Service, change func(*spec.Service)) spec.Service { change(&s); return s }
	withSorry := func(s *spec.Service) { s.Sorry = sorry }
	quorum := func(s *spec.Service) { s.Sorry, s.Quorum, s.Hysteresis = sorry, 3, 1 }
	for _, c := range []struct {
		name         string
		want         spec.Service
		have, health string
		was          Memory
		got          string
		reason       string // a part of the reasons of the service and real server 0
	}{
		{"all live", service(1, 2), "", "UU", Memory{}, "0:1 1:2", "takes connections"},
		{"one is dead", service(1, 2), "0:1 1:2", "DU", Memory{}, "0:0 1:2", "its checks fail"},
		{"weight 0", service(0, 2), "", "UU", Memory{}, "0:0 1:2", "its weight is 0"},
		{"not checked, and new", service(1, 1), "", "??", Memory{}, "0:0 1:0", "has not been checked"},
		{"not checked, and taking", service(1, 1), "0:1 1:0", "??", Memory{}, "0:1 1:0", "takes connections"},
		{"the whole pool is swapped", service(1, 1), "2:3 3:1 4:0", "??", Memory{}, "0:0 1:0 2:3 3:1 4:0", "has not been checked"},
		{"and the first is checked", service(1, 1), "0:0 1:0 2:3 3:1", "U?", Memory{}, "0:1 1:0 2:0 3:0", "takes connections"},
		{"and all are dead", service(1, 1), "0:0 1:0 2:3 3:1", "DD", Memory{}, "0:0 1:0 2:0 3:0", "checks fail"},
		{"the memory of a lost quorum is lost", with(service(1, 1), withSorry), "0:0 1:0 9:1", "??", Memory{}, "0:0 1:0 9:1", "has not been checked"},
		{"no check", with(service(1, 1), func(s *spec.Service) { s.Check = spec.Check{} }), "", "DD", Memory{}, "0:1 1:1", "takes connections"},
		{"below the panic threshold", with(service(1, 1, 1), func(s *spec.Service) { s.Panic = 50 }), "", "DUD", Memory{}, "0:1 1:1 2:1", "panic: 1 of 3 live"},
		{"above it", with(service(1, 1, 1), func(s *spec.Service) { s.Panic = 50 }), "", "UUD", Memory{}, "0:1 1:1 2:0", "takes connections"},
		{"nobody lives", service(1, 1), "0:1 1:1", "DD", Memory{}, "0:0 1:0", "its checks fail"},
		{"nobody lives, sorry", with(service(1, 1), withSorry), "0:1 1:1", "DD", Memory{}, "0:0 1:0 9:1", "the quorum is not met"},
		{"sorry wins over panic", with(service(1, 1), func(s *spec.Service) { s.Sorry, s.Panic = sorry, 90 }), "", "DD", Memory{}, "0:0 1:0 9:1", "the quorum is not met"},
		{"not known: no sorry yet", with(service(1, 1), withSorry), "", "?D", Memory{}, "0:0 1:0", "checks"},
		{"quorum lost only below the hysteresis", with(service(1, 1, 1), quorum), "", "UUD", Memory{}, "0:1 1:1 2:0", "takes connections"},
		{"quorum lost", with(service(1, 1, 1), quorum), "", "UDD", Memory{}, "0:0 1:0 2:0 9:1", "the quorum is not met"},
		{"quorum back only above it", with(service(1, 1, 1), quorum), "9:1", "UUU", Memory{Lost: map[spec.VIP]bool{vip: true}}, "0:0 1:0 2:0 9:1", "the quorum is not met"},
		{"quorum back", with(service(1, 1, 2), quorum), "9:1", "UUU", Memory{Lost: map[spec.VIP]bool{vip: true}}, "0:1 1:1 2:2 9:0", "takes connections"},
		{"a real server leaves", service(1), "0:1 1:1*2", "U", Memory{}, "0:1 1:0", ""},
		{"it has no connection, but may still get one", service(1), "0:1 1:1*0", "U", Memory{}, "0:1 1:0", ""},
		{"it has none any more", service(1), "0:1 1:0*0", "U", Memory{Leaving: map[Key]Leave{{vip, real(1)}: {Until: start.Add(1)}}}, "0:1", ""},
		{"it has one, and time", service(1), "0:1 1:0*1", "U", Memory{Leaving: map[Key]Leave{{vip, real(1)}: {Until: start.Add(1)}}}, "0:1 1:0", ""},
		{"its time is up", service(1), "0:1 1:0*1", "U", Memory{Leaving: map[Key]Leave{{vip, real(1)}: {Until: start}}}, "0:1", ""},
		{"not counted: its time decides", service(1), "0:1 1:0", "U", Memory{Leaving: map[Key]Leave{{vip, real(1)}: {Until: start.Add(1)}}}, "0:1 1:0", ""},
		{"it is wanted again", service(1, 1), "0:1 1:0*1", "UU", Memory{Leaving: map[Key]Leave{{vip, real(1)}: {Until: start}}}, "0:1 1:1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := World{Want: spec.Want{Services: []spec.Service{c.want}}, Health: health(c.health), Now: start}
			if c.have != "" {
				w.Have = kernel(c.have)
			}
			course := Steer(w, c.was)
			reasons := course.Reasons[Key{VIP: vip}] + "; " + course.Reasons[Key{vip, real(0)}]
			if got := print(course); got != c.got || !strings.Contains(reasons, c.reason) {
				t.Errorf("got  %s, %s\nwant %s, %s", got, reasons, c.got, c.reason)
			}
		})
	}
}

func TestDrains(t *testing.T) {
	t.Parallel()
	want := spec.Want{Services: []spec.Service{service(1, 1)}, Drains: map[spec.Drain]string{{Service: "web", Real: real(0)}: "kernel update", {Service: "other", Real: real(1)}: ""}}
	course := Steer(World{Want: want, Health: health("UU"), Now: start}, Memory{})
	if got := print(course); got != "0:0 1:1" || course.Reasons[Key{vip, real(0)}] != "no new connections: drained (kernel update)" {
		t.Errorf("got %s %v", got, course.Reasons)
	}
	// What is drained does not count: one of one lives.
	want.Services[0].Panic = 100
	if got := print(Steer(World{Want: want, Health: health("DU"), Now: start}, Memory{})); got != "0:0 1:1" {
		t.Errorf("with a panic threshold: got %s", got)
	}
}

// A service that nobody wants any more leaves as its real servers do, in its own manner.
func TestServiceLeaves(t *testing.T) {
	t.Parallel()
	before := Steer(World{Want: spec.Want{Services: []spec.Service{service(1, 1)}}, Health: health("UU"), Now: start}, Memory{})
	w := World{Have: kernel("0:1*1 1:1*0"), Now: start}
	course := Steer(w, before.Memory)
	if print(course) != "0:0 1:0" || !course.ServiceLeaves || !course.Memory.Leaving[Key{vip, real(0)}].Until.Equal(start.Add(time.Minute)) {
		t.Fatalf("got %s, %t, %v", print(course), course.ServiceLeaves, course.Memory)
	}
	w.Have = kernel("0:0*1 1:0*0")
	if course = Steer(w, course.Memory); print(course) != "0:0" {
		t.Errorf("one has no connection: got %s", print(course))
	}
	w.Have, w.Now = kernel("0:0*1"), start.Add(time.Minute)
	if course = Steer(w, course.Memory); print(course) != "" || course.ServiceLeaves || len(course.Reset) > 0 {
		t.Errorf("its time is up: got %s, %t, %v", print(course), course.ServiceLeaves, course.Reset)
	}
}

func TestResetAfterDrain(t *testing.T) {
	t.Parallel()
	s := service(1)
	s.ResetAfterDrain = true
	w := World{Want: spec.Want{Services: []spec.Service{s}}, Have: kernel("0:1 1:0*1"), Health: health("U"), Now: start}
	course := Steer(w, Memory{})
	w.Now = start.Add(s.DrainTimeout)
	if course = Steer(w, course.Memory); !slices.Equal(course.Reset, []Key{{vip, real(1)}}) {
		t.Errorf("got %v", course.Reset)
	}
}

// A client of UDP learns of no end: what a dead or removed real server had goes elsewhere.
func TestDatagramsLeaveTheDead(t *testing.T) {
	t.Parallel()
	s := service(1, 1)
	s.VIP.Protocol = spec.UDP
	kernel := func(words string) plan.Have { have := kernel(words); have.Services[0].VIP = s.VIP; return have }
	w := World{Want: spec.Want{Services: []spec.Service{s}}, Have: kernel("0:1 1:1 2:1*1"), Health: health("DU"), Now: start}
	course := Steer(w, Memory{})
	if !slices.Equal(course.Reset, []Key{{s.VIP, real(0)}}) {
		t.Errorf("one has died: got %v", course.Reset)
	}
	w.Have = kernel("0:0 1:1 2:0*1")
	if course = Steer(w, course.Memory); len(course.Reset) > 0 {
		t.Errorf("it is dead: got %v", course.Reset)
	}
	w.Now = start.Add(s.DrainTimeout)
	if course = Steer(w, course.Memory); !slices.Equal(course.Reset, []Key{{s.VIP, real(2)}}) {
		t.Errorf("one has left: got %v", course.Reset)
	}
}

// A damaged table is made anew with those that were leaving.
func TestDamageForgetsNoLeaving(t *testing.T) {
	t.Parallel()
	want := spec.Want{Services: []spec.Service{service(1)}}
	course := Steer(World{Want: want, Have: kernel("0:1 1:1"), Health: health("U"), Now: start}, Memory{})
	course = Steer(World{Want: want, Have: plan.Have{Damage: "somebody"}, Health: health("U"), Now: start}, course.Memory)
	if got := print(course); got != "0:1 1:0" {
		t.Errorf("got %s", got)
	}
}

// Whoever has not been checked when the table is found damaged, as after an upgrade, was perhaps taking connections.
func TestDamageCutsNobodyOff(t *testing.T) {
	t.Parallel()
	w := World{Want: spec.Want{Services: []spec.Service{service(1, 1, 1)}}, Have: plan.Have{Damage: "another version"}, Health: health("??D"), Now: start}
	if got := print(Steer(w, Memory{})); got != "0:1 1:1 2:0" {
		t.Errorf("got %s", got)
	}
}

// A drained real server that is taken out takes nothing either while its successor is checked.
func TestDrainedIsNotHeld(t *testing.T) {
	t.Parallel()
	want := spec.Want{Services: []spec.Service{service(1)}, Drains: map[spec.Drain]string{{Service: "web", Real: real(1)}: ""}}
	if got := print(Steer(World{Want: want, Have: kernel("1:1"), Health: health("?"), Now: start}, Memory{})); got != "0:0 1:0" {
		t.Errorf("got %s", got)
	}
}

// A removal that the kernel refuses is tried again at once, and not after another drain.
func TestRemovalIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := service(1)
	s.ResetAfterDrain = true
	w := World{Want: spec.Want{Services: []spec.Service{s}}, Have: kernel("0:1 1:0*1"), Health: health("U"), Now: start}
	course := Steer(w, Memory{})
	w.Now = start.Add(s.DrainTimeout)
	for range 3 {
		if course = Steer(w, course.Memory); print(course) != "0:1" || len(course.Reset) != 1 {
			t.Fatalf("got %s, %v", print(course), course.Reset)
		}
		w.Now = w.Now.Add(time.Second)
	}
	w.Have = kernel("0:1")
	if course = Steer(w, course.Memory); len(course.Memory.Leaving) > 0 {
		t.Errorf("it is gone, and remembered: %v", course.Memory.Leaving)
	}
}

// Whatever is wanted and whoever lives: one pass leads there, and at no moment between two changes is a service without a
// taker that has one before and after.
func TestEachPassConvergesAndLeavesNoGap(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	have, memory, now := plan.Have{}, Memory{}, start
	lends := 0
	defer func() {
		if lends == 0 {
			t.Error("nobody has ever lent a slot")
		}
	}()
	for round := range 20_000 {
		states := ""
		for range 10 {
			states += string("UUUD?"[random.IntN(5)])
		}
		var want spec.Want
		if random.IntN(10) > 0 {
			s := service()
			for i := range 6 {
				if random.IntN(3) > 0 {
					s.Reals = append(s.Reals, spec.Real{Address: real(i), Weight: random.IntN(4)})
				}
			}
			s.Panic = []int{0, 0, 30, 60}[random.IntN(4)]
			if random.IntN(2) > 0 {
				s.Sorry, s.Quorum, s.Hysteresis = sorry, 1+random.IntN(4), 0
			}
			s.SlowStart = []time.Duration{0, time.Minute}[random.IntN(2)]
			s.Scheduler = append([]spec.Scheduler{spec.WLC, spec.LC}, spec.Schedulers...)[random.IntN(2+len(spec.Schedulers))]
			want.Services = append(want.Services, s)
			if random.IntN(4) == 0 {
				want.Drains = map[spec.Drain]string{{Service: "web", Real: real(random.IntN(6))}: ""}
			}
		}
		now = now.Add(time.Duration(random.IntN(30)) * time.Second)
		w := World{Want: want, Have: have, Health: health(states), Now: now}
		if random.IntN(2) > 0 {
			w.Open = func(k Key) (uint64, bool) {
				return uint64(random.IntN(2) * (1 + 100*int(k.Real.Addr().As4()[3]%2))), true
			}
		}
		if random.IntN(2) > 0 {
			follows := random.IntN(4) == 0
			w.Lending = &Lending{Level: func(spec.VIP) bool { return true }, Follow: func(spec.VIP) ([]spec.Loan, bool) {
				return []spec.Loan{{Slot: random.IntN(2000), To: real(random.IntN(9))}, {Slot: 2000 + random.IntN(99), To: real(0)}}, follows
			}}
		}
		course := Steer(w, memory)
		changes := plan.Diff(spec.Want{Services: course.Services}, have)
		takers := func(h plan.Have) (n int) {
			for _, s := range h.Services {
				for _, r := range s.Reals {
					if r.Weight > 0 {
						n++
					}
				}
			}
			return n
		}
		after := apply(t, have, changes...)
		for _, s := range course.Services {
			if len(s.Lent) > 0 {
				lends++
			}
			for _, l := range s.Lent {
				if i := slices.IndexFunc(s.Reals, func(r spec.Real) bool { return r.Address == l.To }); i < 0 || s.Reals[i].Weight == 0 {
					t.Fatalf("round %d: slot %d is lent to %s, who takes no connections", round, l.Slot, l.To)
				}
			}
		}
		for i := range changes {
			if takers(have) > 0 && takers(after) > 0 && takers(apply(t, have, changes[:i]...)) == 0 {
				t.Fatalf("round %d: nobody takes connections after %v", round, changes[:i])
			}
		}
		if left := plan.Diff(spec.Want{Services: course.Services}, after); len(left) > 0 {
			t.Fatalf("round %d: still to do: %v", round, left)
		}
		have, memory = after, course.Memory
	}
}

// apply makes changes in a kernel of one service.
func apply(t *testing.T, have plan.Have, changes ...plan.Change) plan.Have {
	t.Helper()
	var s spec.Service
	there := len(have.Services) > 0
	if there {
		s.VIP, s.Scheduler, s.Lent = have.Services[0].VIP, have.Services[0].Scheduler, have.Services[0].Lent
		for _, r := range have.Services[0].Reals {
			s.Reals = append(s.Reals, r.Real)
		}
	}
	for _, c := range changes {
		var err error
		if s, there, err = plan.Fold(s, there, c); err != nil {
			t.Fatal(err)
		}
	}
	if !there {
		return plan.Have{}
	}
	now := plan.Service{VIP: s.VIP, Scheduler: s.Scheduler, Lent: s.Lent}
	for _, r := range s.Reals {
		now.Reals = append(now.Reals, plan.Real{Real: r})
	}
	return plan.Have{Services: []plan.Service{now}}
}
