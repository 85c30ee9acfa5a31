// Command vrrp measures how the vrrp-agent and keepalived move a virtual address, side by side.
//
// Two machines and a witness are network namespaces around a switch in a namespace of its own. Both rivals run on the
// same two machines, in turns. The witness pings the address every millisecond, and asks every millisecond by ARP who has
// it. Lines of JSON (package figure) go to standard output, words to standard error. scripts/bench-vrrp builds and starts
// it, as root.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/twotier/twotier/e2e/bench/figure"
)

// bench is one run.
type bench struct {
	agent       string // our program
	folder      string
	rounds      int
	probes      int // of the cases in which none may be lost, in each round
	referenceIs string
	net         *network
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-vrrp:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	agent := flag.String("agent", "dist/bin/vrrp-agent", "our program")
	rounds := flag.Int("rounds", 0, "rounds of each case (default 5; 1 with BENCH=quick)")
	only := flag.String("cases", "", "names of the cases to run, separated by commas (default all)")
	health := flag.String("health", "", "be the service that is looked after, on this unix socket; the bench starts itself so")
	flag.Parse()
	if *health != "" {
		return serveHealth(*health)
	}
	b := &bench{agent: *agent, rounds: 5, probes: 2000}
	if os.Getenv("BENCH") == "quick" {
		b.rounds, b.probes = 1, 2000
	}
	if *rounds > 0 {
		b.rounds = *rounds
	}
	if b.folder, err = os.MkdirTemp("", "bench-vrrp"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.folder)) }()
	version, err := exec.Command("keepalived", "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w (scripts/preflight bench)", err)
	}
	b.referenceIs = "keepalived"
	if words := strings.Fields(string(version)); len(words) > 1 {
		b.referenceIs += " " + strings.TrimPrefix(words[1], "v")
	}
	if b.net, err = openNetwork(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.net.close()) }()
	for _, c := range cases {
		if *only != "" && !strings.Contains(","+*only+",", ","+c.name+",") {
			continue
		}
		begin := time.Now()
		if err := b.measure(c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Fprintf(os.Stderr, "bench-vrrp: %s took %v\n", c.name, time.Since(begin).Round(100*time.Millisecond))
	}
	return nil
}

// measure runs a case for both in turns and prints its figures: medians of the rounds, but the worst time with two owners, and
// all probes that were lost where none may be.
func (b *bench) measure(c kase) error {
	values := map[string]*[2][]float64{"gap": {}, "lost": {}, "two_owners": {}}
	for round := range b.rounds {
		for turn := range 2 {
			who := (round + turn) % 2
			got, err := b.round(c, who)
			if err != nil {
				return fmt.Errorf("round %d of %s: %w", round+1, [2]string{"ours", b.referenceIs}[who], err)
			}
			fmt.Fprintf(os.Stderr, "bench-vrrp: %s %s: %v\n", c.name, [2]string{"ours", b.referenceIs}[who], got)
			values["gap"][who] = append(values["gap"][who], got.gap)
			values["lost"][who] = append(values["lost"][who], float64(got.lost))
			values["two_owners"][who] = append(values["two_owners"][who], got.two)
		}
	}
	for _, metric := range []struct {
		name, unit string
		goal       float64
	}{{"gap", "ms", c.gap}, {"lost", "probes", c.lost}, {"two_owners", "ms", c.two}} {
		v := values[metric.name]
		for who := range v {
			switch {
			case metric.name == "two_owners": // what must never be longer
				v[who] = []float64{slices.Max(v[who])}
			case metric.name == "lost" && c.every: // none of all of them
				v[who] = []float64{sum(v[who])}
			}
		}
		f := figure.Absolute(figure.Figure{
			Bench: "vrrp", Case: c.name, Metric: metric.name, Unit: metric.unit, ReferenceName: b.referenceIs,
			Better: figure.Lower, Goal: metric.goal,
		}, v[0], v[1])
		if err := f.Print(os.Stdout); err != nil {
			return err
		}
	}
	return nil
}

func sum(values []float64) (all float64) {
	for _, v := range values {
		all += v
	}
	return all
}

// round starts both machines, waits until the first holds the address, does what the case is about, and stops them.
func (b *bench) round(c kase, who int) (got result, err error) {
	p := &pair{bench: b, kase: c}
	start := []func() error{p.startAgents, p.startKeepalived}[who]
	strike := []func(*pair) error{c.ours, c.reference}[who]
	if err := start(); err != nil {
		return result{}, errors.Join(err, p.stop())
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	w, err := b.net.watch()
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.await(b.net.machines[0].mac, startMost); err != nil {
		return result{}, errors.Join(err, errors.New(p.words()))
	}
	if err := p.settle(); err != nil {
		return result{}, err
	}
	since := w.mark()
	if err := strike(p); err != nil {
		return result{}, errors.Join(err, errors.New(p.words()))
	}
	least := c.least
	if c.every {
		least = b.probes
	}
	owner := b.net.machines[1].mac
	if c.stays {
		owner = b.net.machines[0].mac
	}
	return w.result(since, least, owner, c.tracked, waitMost)
}
