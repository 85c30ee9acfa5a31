package loop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/desired"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/memory"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// fakeStore hands out one snapshot and remembers which one was accepted.
type fakeStore struct {
	mu       sync.Mutex
	snapshot desired.Snapshot
	loaded   bool
	accepted int64
	full     error // of Accept
}

func (f *fakeStore) Snapshot() (desired.Snapshot, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.snapshot, f.loaded
}

func (f *fakeStore) Accept(s desired.Snapshot) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full == nil {
		f.accepted = s.Revision
	}
	return f.full
}

func (f *fakeStore) Describe(inForce int64, v []*commonv1.Violation) *commonv1.DesiredState {
	return &commonv1.DesiredState{Revision: inForce, Violations: v}
}

func (f *fakeStore) set(messages ...proto.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.snapshot = desired.Snapshot{Revision: f.snapshot.Revision + 1}
	f.loaded = true
	for _, m := range messages {
		f.snapshot.Objects = append(f.snapshot.Objects, desired.Object{Message: m})
	}
}

// fakeStatus keeps the latest report.
type fakeStatus struct {
	mu     sync.Mutex
	latest *commonv1.Status
}

func (f *fakeStatus) Report(s *commonv1.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.latest = s
}

// fakeHost has one card in 10.10.60.0/24 and holds addresses.
type fakeHost struct {
	mu    sync.Mutex
	state plan.Host
	fail  error
}

func (f *fakeHost) Observe(context.Context) (plan.Host, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.state
	s.Addresses = slices.Clone(s.Addresses)
	return s, f.fail
}

func (f *fakeHost) Apply(_ context.Context, c plan.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.Card == 0 {
		return fmt.Errorf("%s: %w", c, plan.ErrNoCard)
	}
	if c.Kind == plan.AddAddress {
		f.state.Addresses = append(f.state.Addresses, plan.HostAddress{Prefix: c.Address, Card: c.Card, CardName: c.CardName, Ours: true})
	} else {
		f.state.Addresses = slices.DeleteFunc(f.state.Addresses, func(a plan.HostAddress) bool { return a.Ours && a.Prefix == c.Address })
	}
	return nil
}

func (f *fakeHost) edit(edit func(*plan.Host)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	edit(&f.state)
}

// fakeHealth is what a test says; where it says nothing everybody lives.
type fakeHealth struct {
	mu      sync.Mutex
	states  map[netip.AddrPort]steer.Health
	checked map[steer.Key]spec.Check
}

func (f *fakeHealth) Set(checks map[steer.Key]spec.Check) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checked = checks
}

func (f *fakeHealth) State(k steer.Key) (steer.Health, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if health, said := f.states[k.Real]; said {
		return health, ""
	}
	return steer.Up, ""
}

func (f *fakeHealth) say(real string, health steer.Health) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.states == nil {
		f.states = map[netip.AddrPort]steer.Health{}
	}
	f.states[netip.MustParseAddrPort(real)] = health
}

// fakeRecall keeps in memory what outlasts a restart.
type fakeRecall struct {
	mu     sync.Mutex
	memory steer.Memory
	full   error // what a save ends with
}

func (f *fakeRecall) fill(full error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = full
}

func (f *fakeRecall) Load() (steer.Memory, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.memory, nil
}

func (f *fakeRecall) Save(m steer.Memory) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.full != nil {
		return f.full
	}
	f.memory = m
	return nil
}

// rig is a loop on fakes.
type rig struct {
	t             *testing.T
	store         *fakeStore
	status        *fakeStatus
	host          *fakeHost
	health        *fakeHealth
	recall        *fakeRecall
	first, second *memory.Kernel
	noIPVS        atomic.Bool // the first plane cannot be used
	lacks         spec.Lacks  // of the first plane
	ready         atomic.Int32
	loaded        loadedFake // the rules are vouched for
	board         Board      // nil: there is no other director
	keeper        Keeper     // beside it
	loop          *Loop
	make          func() *Loop
}

func newRig(t *testing.T, wanted string) *rig {
	r := &rig{t: t, store: new(fakeStore), status: new(fakeStatus), host: new(fakeHost), health: new(fakeHealth), recall: new(fakeRecall), first: new(memory.Kernel), second: new(memory.Kernel)}
	r.host.state = plan.Host{Forwarding: true, Addresses: []plan.HostAddress{{Prefix: netip.MustParsePrefix("10.10.60.21/24"), Card: 2, CardName: "eth0"}}}
	candidate := func(name string, k *memory.Kernel) Candidate {
		return Candidate{
			Name: name,
			Probe: func() dataplane.Report {
				report := dataplane.Report{Name: name, Usable: name != dataplane.IPVS || !r.noIPVS.Load(), Reason: "as told"}
				if name == dataplane.IPVS {
					report.Lacks = r.lacks
				}
				return report
			},
			Open: func() Plane { return memory.Open(k) },
			Kept: func() Keeper { return r.keeper },
		}
	}
	r.make = func() *Loop {
		return New(Config{
			Node: "lvs", Store: r.store, Status: r.status, Host: r.host, Health: r.health, Recall: r.recall, Board: r.board, Wanted: wanted,
			Candidates: []Candidate{candidate(dataplane.IPVS, r.first), candidate(dataplane.NFTables, r.second)},
			Log:        zaptest.NewLogger(t), Ready: func() { r.ready.Add(1) }, Loaded: &r.loaded,
		})
	}
	r.loop = r.make()
	return r
}

// run runs the loop inside a bubble until the test ends.
func (r *rig) run() {
	ctx, cancel := context.WithCancel(r.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.loop.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("run: %v", err)
		}
	})
	synctest.Wait()
}

// resync lets the time of one resync pass.
func resync() {
	time.Sleep(Resync + time.Millisecond) // in the time of synctest
	synctest.Wait()
}

// expect compares outcome and error, and what the kernel of the first plane holds.
func (r *rig) expect(outcome commonv1.Outcome, failure string, services ...string) {
	r.t.Helper()
	r.status.mu.Lock()
	s := r.status.latest
	r.status.mu.Unlock()
	if s.GetOutcome() != outcome || (failure == "") != (s.GetError() == "") || !strings.Contains(s.GetError(), failure) {
		r.t.Errorf("got %v, %q; want %v, %q", s.GetOutcome(), s.GetError(), outcome, failure)
	}
	if got := held(r.first); !slices.Equal(got, services) {
		r.t.Errorf("the kernel holds %q, want %q", got, services)
	}
}

func held(k *memory.Kernel) (lines []string) {
	k.Edit(func(services map[spec.VIP]spec.Service) {
		for vip, s := range services {
			line := fmt.Sprintf("%s %s", vip, s.Scheduler)
			for _, r := range s.Reals {
				line += fmt.Sprintf(" %s=%d", r.Address, r.Weight)
			}
			lines = append(lines, line)
		}
	})
	slices.Sort(lines)
	return lines
}

func web(weight uint32) *directorv1.VirtualService {
	return &directorv1.VirtualService{Name: "web", Address: "10.10.60.22", Port: 80, RealServers: []*directorv1.RealServer{{Address: "192.168.60.78", Weight: &weight}}}
}

const (
	asWanted = "10.10.60.22:80 wlc 192.168.60.78:80=1"
	retry    = commonv1.Outcome_OUTCOME_RETRY
	good     = commonv1.Outcome_OUTCOME_DONE
	unknown  = commonv1.Outcome_OUTCOME_UNKNOWN
	invalid  = commonv1.Outcome_OUTCOME_INVALID
)

func TestNothingIsTouchedBeforeThereIsADesiredState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		r.first.Edit(func(s map[spec.VIP]spec.Service) {
			s[spec.MustParseVIP("10.10.60.22:80")] = spec.Service{Scheduler: spec.WRR}
		})
		r.run()
		r.expect(unknown, "no desired state has been read yet", "10.10.60.22:80 wrr")
		r.store.set(&directorv1.VirtualService{})
		resync()
		r.expect(invalid, "no valid desired state yet", "10.10.60.22:80 wrr")
		if r.ready.Load() != 0 {
			t.Error("ready without a good pass")
		}
		r.store.set(web(1))
		resync()
		r.expect(good, "", asWanted)
		if r.ready.Load() != 1 || r.store.accepted != 2 {
			t.Errorf("ready %d times, accepted revision %d", r.ready.Load(), r.store.accepted)
		}
	})
}

// loadedFake is what others are told of the rules.
type loadedFake struct {
	atomic.Bool
	failed error
}

func (l *loadedFake) Set(loaded bool) error {
	l.Store(loaded)
	return l.failed
}

// The rules are vouched for from the first pass that had them all and knew who lives, over the end of the director, until there are
// none.
func TestTheRulesAreVouchedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		vouched := func(when string, want bool) {
			t.Helper()
			if got := r.loaded.Load(); got != want {
				t.Errorf("%s: vouched for: %v", when, got)
			}
		}
		r.loaded.Store(true) // by an earlier life, with rules that are gone
		r.run()
		vouched("nothing is known", false)
		r.store.set(web(1))
		resync()
		r.expect(good, "", asWanted)
		vouched("as wanted", true)
		r.store.set(&directorv1.VirtualService{Name: "web", Address: "no address", Port: 80})
		resync()
		r.expect(invalid, "the last good one stays in force", asWanted)
		vouched("a wrong state", true)
		r.loaded.failed = errors.New("no space left on device")
		r.store.set(web(1))
		resync()
		r.expect(retry, "no space left on device", asWanted)
		r.loaded.failed = nil
		r.store.set()
		resync()
		vouched("the service leaves", true)
		for range 3 {
			resync()
		}
		r.expect(good, "")
		vouched("nothing is wanted", false)
	})
}

// An empty desired state, as of an etcd that was made anew, is obeyed, and no reason to give this director addresses: it has no rules for
// them. Whoever has been ready stays so.
func TestWhoServesNothingIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		r.store.set()
		r.run()
		r.expect(good, "")
		if notes := strings.Join(r.status.latest.GetNotes(), "\n"); r.ready.Load() != 0 || !strings.Contains(notes, "no virtual service is wanted") {
			t.Errorf("nothing is wanted: ready %d times, notes %q", r.ready.Load(), notes)
		}
		r.store.set(web(1))
		resync()
		r.expect(good, "", asWanted)
		r.store.set()
		resync()
		if r.ready.Load() != 1 {
			t.Errorf("ready %d times", r.ready.Load())
		}
	})
}

func TestAWrongStateLeavesTheLastGoodOneInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		r.store.set(web(1))
		r.run()
		r.expect(good, "", asWanted)
		r.store.set(&directorv1.VirtualService{Name: "web", Address: "no address", Port: 80})
		r.first.Edit(func(s map[spec.VIP]spec.Service) { clear(s) })
		resync()
		r.expect(invalid, "the last good one stays in force", asWanted)
		if r.store.accepted != 1 {
			t.Errorf("accepted revision %d", r.store.accepted)
		}
	})
}

// What the plane in use cannot do is refused at its field, before anything of it is done.
func TestAStateThatThePlaneCannotDoIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		r.lacks = spec.Lacks{spec.FeatureUDP: "not here"}
		r.store.set(web(1))
		r.run()
		r.expect(good, "", asWanted)
		udp := web(1)
		udp.Protocol = directorv1.Protocol_PROTOCOL_UDP
		r.store.set(udp)
		resync()
		r.expect(invalid, "the last good one stays in force", asWanted)
		_, violations, err := r.loop.Preview(desired.Snapshot{Objects: []desired.Object{{Message: udp}}})
		if err != nil || len(violations) != 1 || violations[0].GetField() != "virtual-service/web.protocol" ||
			violations[0].GetDescription() != "the data plane ipvs has no udp: not here" {
			t.Errorf("preview: %v, %v", violations, err)
		}
	})
}

// What somebody else has made is adopted, ignored or refused as is said.
func TestForeignServices(t *testing.T) {
	const theirs = "10.10.60.22:80 rr 192.168.60.99:80=1"
	for _, c := range []struct {
		foreign directorv1.Foreign
		outcome commonv1.Outcome
		failure string
		holds   string
		note    bool
	}{
		{directorv1.Foreign_FOREIGN_UNSPECIFIED, good, "", asWanted, false},
		{directorv1.Foreign_FOREIGN_IGNORE, good, "", theirs, true},
		{directorv1.Foreign_FOREIGN_REFUSE, commonv1.Outcome_OUTCOME_RETRY, "somebody else has made [10.10.60.22:80]", theirs, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, dataplane.Auto)
			vip := spec.MustParseVIP("10.10.60.22:80")
			r.first.Edit(func(s map[spec.VIP]spec.Service) {
				s[vip] = spec.Service{VIP: vip, Scheduler: spec.RR, Reals: []spec.Real{{Address: netip.MustParseAddrPort("192.168.60.99:80"), Weight: 1}}}
			})
			r.first.Disown(vip)
			wanted := web(1)
			wanted.Foreign = c.foreign
			wanted.DrainTimeout = durationpb.New(time.Second)
			r.store.set(wanted)
			r.run()
			for range 3 { // until what is not wanted has left
				resync()
			}
			r.expect(c.outcome, c.failure, c.holds)
			r.status.mu.Lock()
			defer r.status.mu.Unlock()
			if noted := slices.Contains(r.status.latest.GetNotes(), "service 10.10.60.22:80 was made by somebody else and is left alone"); noted != c.note {
				t.Errorf("%v: notes %q", c.foreign, r.status.latest.GetNotes())
			}
		})
	}
}

func TestForeignEditsAreMendedAtTheNextResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		r.store.set(web(1), &directorv1.Address{Name: "vip", Prefix: "10.10.60.22/24"})
		r.run()
		r.expect(good, "", asWanted)
		for name, edit := range map[string]func(){
			"emptied": func() { r.first.Edit(func(s map[spec.VIP]spec.Service) { clear(s) }) },
			"damaged": func() { r.first.Damage("somebody was here") },
			"added": func() {
				r.first.Edit(func(s map[spec.VIP]spec.Service) { s[spec.MustParseVIP("1.2.3.4:5")] = spec.Service{} })
			},
			"address": func() { r.host.edit(func(h *plan.Host) { h.Addresses = h.Addresses[:1] }) },
		} {
			edit()
			resync()
			r.expect(good, "", asWanted)
			if h, _ := r.host.Observe(t.Context()); len(h.Addresses) != 2 {
				t.Errorf("%s: addresses %v", name, h.Addresses)
			}
		}
	})
}

func TestAMissingCardHoldsUpNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		r.store.set(web(1), &directorv1.Address{Name: "inner", Prefix: "192.168.60.99/24"}, &directorv1.Address{Name: "vip", Prefix: "10.10.60.22/24"})
		r.run()
		r.expect(retry, "no network card has an address in 192.168.60.0/24", asWanted)
		h, _ := r.host.Observe(t.Context())
		if len(h.Addresses) != 2 || h.Addresses[1].Prefix.String() != "10.10.60.22/24" {
			t.Errorf("addresses %v", h.Addresses)
		}
		r.host.edit(func(h *plan.Host) {
			h.Addresses = append(h.Addresses, plan.HostAddress{Prefix: netip.MustParsePrefix("192.168.60.21/24"), Card: 3, CardName: "eth1"})
		})
		resync()
		r.expect(good, "", asWanted)
	})
}

func TestAddressesWaitForTheirRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		r.store.set(web(1), &directorv1.Address{Name: "vip", Prefix: "10.10.60.22/24"})
		r.first.Fail(errors.New("the kernel says no"))
		r.run()
		r.expect(unknown, "the kernel says no")
		if h, _ := r.host.Observe(t.Context()); len(h.Addresses) != 1 {
			t.Errorf("addresses %v", h.Addresses)
		}
		r.first.Fail(nil)
		resync()
		r.expect(good, "", asWanted)
	})
}

func TestWithoutForwardingNothingIsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		r.host.state.Forwarding = false
		r.store.set(web(1))
		r.run()
		r.expect(retry, "net.ipv4.ip_forward is 0", asWanted)
		r.host.edit(func(h *plan.Host) { h.Forwarding = true })
		resync()
		r.expect(good, "", asWanted)
	})
}

func TestAnUnusablePlaneIsNeverASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.IPVS)
		r.noIPVS.Store(true)
		r.store.set(web(1))
		r.run()
		r.expect(retry, "data plane cannot be used: ipvs: as told")
		if r.loop.View().Unusable == nil || r.ready.Load() != 0 {
			t.Error("taken for usable")
		}
		if _, _, err := r.loop.Preview(desired.Snapshot{}); !errors.Is(err, dataplane.ErrUnusable) {
			t.Errorf("preview: %v", err)
		}
		r.noIPVS.Store(false) // somebody has loaded the module
		resync()
		r.expect(good, "", asWanted)
	})
}

func TestWhatAnotherPlaneHoldsGoesWhenTheChosenOneIsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.IPVS)
		r.second.Edit(func(s map[spec.VIP]spec.Service) { s[spec.MustParseVIP("10.10.60.22:80")] = spec.Service{} })
		r.first.Fail(errors.New("not now"))
		r.store.set(web(1))
		r.run()
		if len(held(r.second)) != 1 {
			t.Error("removed too early")
		}
		r.first.Fail(nil)
		resync()
		r.expect(good, "", asWanted)
		if left := held(r.second); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}

func TestPreviewTellsWhatWouldBeDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, dataplane.Auto)
		r.store.set(web(1))
		r.run()
		lines, violations, err := r.loop.Preview(desired.Snapshot{Objects: []desired.Object{{Message: web(0)}}})
		if want := []string{"set real server 192.168.60.78:80 weight 0 of 10.10.60.22:80 (was 1)"}; !slices.Equal(lines, want) || violations != nil || err != nil {
			t.Errorf("got %q, %v, %v", lines, violations, err)
		}
		if _, violations, _ = r.loop.Preview(desired.Snapshot{Objects: []desired.Object{{Message: &directorv1.Address{Name: "a"}}}}); len(violations) != 1 {
			t.Errorf("violations %v", violations)
		}
		result, err := r.loop.Reconcile(t.Context())
		if err != nil || result.Outcome != good || len(result.Changes) > 0 {
			t.Errorf("reconcile: %v, %v", result, err)
		}
	})
}
