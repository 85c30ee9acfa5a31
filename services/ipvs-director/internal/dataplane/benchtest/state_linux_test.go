package benchtest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/netnstest"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/ipvs"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/nftables"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// The environment variables that say what is measured, and how often.
const (
	planesVariable = "TWOTIER_BENCH_PLANES" // names, with commas between
	roundsVariable = "TWOTIER_BENCH_ROUNDS"
)

// mark begins a line that is a measurement; the driver reads it.
const mark = "measured "

// measured is one measurement.
type measured struct {
	Case   string  `json:"case"`
	Plane  string  `json:"plane"`
	Metric string  `json:"metric"`
	Value  float64 `json:"value"`
}

func say(b *testing.B, m measured) {
	b.Helper()
	line, err := json.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	fmt.Println(mark + string(line))
}

var open = map[string]func() planetest.Plane{
	dataplane.IPVS:     func() planetest.Plane { return ipvs.Open() },
	dataplane.NFTables: func() planetest.Plane { return nftables.Open() },
}

var probes = map[string]func() dataplane.Report{dataplane.IPVS: ipvs.Probe, dataplane.NFTables: nftables.Probe}

// planes are those to measure; each must be usable.
func planes(b *testing.B) []string {
	b.Helper()
	names := strings.Split(os.Getenv(planesVariable), ",")
	for _, name := range names {
		if probes[name] == nil {
			b.Fatalf("%s=%s: there is no such plane", planesVariable, os.Getenv(planesVariable))
		}
		ns := netnstest.New(b)
		var r dataplane.Report
		for range 10 { // the first may wait for the kernel's modules
			if ns.Do(b, func() { r = probes[name]() }); r.Usable {
				break
			}
		}
		if !r.Usable {
			b.Fatalf("%s: %s", name, r.Reason)
		}
	}
	return names
}

func rounds(b *testing.B) int {
	b.Helper()
	n, err := strconv.Atoi(os.Getenv(roundsVariable))
	if err != nil || n < 1 {
		b.Fatalf("%s=%q: want a number of rounds", roundsVariable, os.Getenv(roundsVariable))
	}
	return n
}

// The sizes of state: the large one, and the small one that a change is compared with.
const (
	many, few = 1000, 10
	reals     = 20
)

// state makes services with real servers of their own.
func state(services int) (want spec.Want) {
	for i := range services {
		s := spec.Service{
			VIP:       spec.VIP{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 10, byte(60 + i/250), byte(1 + i%250)}), 80)},
			Scheduler: spec.WRR,
		}
		for r := range reals {
			s.Reals = append(s.Reals, spec.Real{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, byte(i / 10), byte(1 + i%10*reals + r)}), 80), Weight: 1})
		}
		want.Services = append(want.Services, s)
	}
	return want
}

// pass does what a pass of the director does with the kernel, and tells how long it took.
func pass(b *testing.B, p planetest.Plane, want spec.Want, changes int) time.Duration {
	b.Helper()
	begin := time.Now()
	have, err := p.Observe(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	steps := plan.Diff(want, have)
	if changes >= 0 && len(steps) != changes {
		b.Fatalf("%d changes are planned, want %d", len(steps), changes)
	}
	if len(steps) > 0 {
		if _, err := p.Apply(b.Context(), steps); err != nil {
			b.Fatal(err)
		}
		if have, err = p.Observe(b.Context()); err != nil {
			b.Fatal(err)
		}
		if left := plan.Diff(want, have); len(left) > 0 {
			b.Fatalf("%d changes are left", len(left))
		}
	}
	return time.Since(begin)
}

// peak is the most memory that this process has had, in MB (VmHWM of proc(5)).
func peak(b *testing.B) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	kilobytes, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kilobytes / 1000
}

// BenchmarkState makes a state from nothing, looks at it, and changes one weight; in ms.
func BenchmarkState(b *testing.B) {
	for _, name := range planes(b) {
		for range rounds(b) {
			for _, size := range []struct {
				services int
				suffix   string
			}{{few, "-few"}, {many, ""}} {
				ns := netnstest.New(b)
				ns.Do(b, func() {
					p := open[name]()
					want := state(size.services)
					tell := func(what string, took time.Duration) {
						say(b, measured{what + size.suffix, name, "time", float64(took.Microseconds()) / 1000})
					}
					tell("full-apply", pass(b, p, want, -1))
					tell("noop-pass", pass(b, p, want, 0))
					for i := range 5 {
						s := want.Services[size.services/2]
						s.Reals[7].Weight = 2 + i
						change := plan.Change{Kind: plan.SetReal, VIP: s.VIP, Real: s.Reals[7], OldReal: spec.Real{Address: s.Reals[7].Address, Weight: 1 + i}}
						begin := time.Now()
						if _, err := p.Apply(b.Context(), []plan.Change{change}); err != nil {
							b.Fatal(err)
						}
						tell("one-weight", time.Since(begin))
						begin = time.Now()
						pass(b, p, want, 0) // it is as wanted
						tell("look-after", time.Since(begin))
					}
					if err := p.Close(); err != nil {
						b.Fatal(err)
					}
				})
			}
		}
		say(b, measured{"full-apply", name, "memory", peak(b)})
	}
}
