// Command router measures the l7-router and HAProxy side by side.
//
// Both run all the time, pinned to the first core; what loads them and the servers behind them are pinned to the second.
// They are measured in turns, so that whatever else the machine does falls on both. Lines of JSON (package figure) go to
// standard output, words to standard error. scripts/bench-router builds and starts it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twotier/twotier/e2e/bench/figure"
)

// bench is one run.
type bench struct {
	router, wrk string
	options     []string // more flags for our router
	folder      string
	rounds      int
	burst       time.Duration
	idle        int // connections of the case idle-10k; fewer with BENCH=quick
	bodies      int // in one round of the case body-256MiB; one alone is too short for the clock of the processor time
	referenceIs string
	secure      *secure // nil: cleartext
}

// cases in the order in which they are run; the quick ones fit in 50 s.
var cases = []struct {
	name  string
	quick bool
	run   func(*bench, string) error
}{
	{"get-small-32", true, func(b *bench, name string) error { return b.small(name, 32) }},
	{"get-small-128", false, func(b *bench, name string) error { return b.small(name, 128) }},
	{"get-small-1000", false, func(b *bench, name string) error { return b.small(name, 1000) }},
	{"new-conn", true, (*bench).newConn},
	{"body-256MiB", true, (*bench).body},
	{"idle-10k", true, (*bench).idleConnections},
	{"tls13-new", false, (*bench).newTLS},
	{"tls13-keepalive", false, (*bench).keptTLS},
	{"h2", true, (*bench).http2},
	{"dead-server", true, (*bench).deadServer},
	{"slow-headers", false, (*bench).slowClients},
	{"slow-body", false, (*bench).slowClients},
	{"slow-range", false, (*bench).slowClients},
	{"slow-read", false, (*bench).slowClients},
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-router:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	origin := flag.String("origin", "", "be the server behind the proxies, on this address; the bench starts itself so")
	name := flag.String("name", "origin", "with -origin: what it answers")
	small := flag.String("small-origin", "", "be the server of small answers on this address; the bench starts itself so")
	router := flag.String("router", "dist/bin/l7-router", "our program")
	options := flag.String("options", "", "more flags for our program, separated by spaces")
	rounds := flag.Int("rounds", 0, "rounds of each case (default 5; 3 with BENCH=quick)")
	only := flag.String("cases", "", "names of the cases to run, separated by commas (default all; fewer with BENCH=quick)")
	flag.Parse()
	if *origin != "" {
		return serveOrigin(*origin, *name)
	}
	if *small != "" {
		return serveSmall(*small)
	}

	quick := os.Getenv("BENCH") == "quick"
	b := &bench{router: *router, options: strings.Fields(*options), rounds: 5, burst: 2 * time.Second, idle: 10000, bodies: 4}
	if quick {
		b.rounds, b.burst, b.idle, b.bodies = 3, time.Second, 3000, 2
	}
	if *rounds > 0 {
		b.rounds = *rounds
	}
	if b.folder, err = os.MkdirTemp("", "bench-router"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.folder)) }()
	if err := b.prepare(); err != nil {
		return err
	}
	for _, c := range cases {
		if *only != "" && !strings.Contains(","+*only+",", ","+c.name+",") || *only == "" && (quick && !c.quick || slowModes[c.name] != nil) {
			continue
		}
		begin := time.Now()
		if err := c.run(b, c.name); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Fprintf(os.Stderr, "bench-router: %s took %v\n", c.name, time.Since(begin).Round(100*time.Millisecond))
	}
	return nil
}

// rival is one of the two that are compared.
type rival struct {
	*process
	address string
}

// measures holds the values of each metric, ours first, in the order of rounds.
type measures map[string]*[2][]float64

func (m measures) add(metric string, who int, value float64) {
	if m[metric] == nil {
		m[metric] = &[2][]float64{}
	}
	m[metric][who] = append(m[metric][who], value)
}

// inTurns calls measure for both rivals in each round, in changing order.
func (b *bench) inTurns(rivals [2]*rival, measure func(who int, r *rival) error) error {
	for round := range b.rounds {
		for turn := range 2 {
			who := (round + turn) % 2
			if err := measure(who, rivals[who]); err != nil {
				return err
			}
		}
	}
	return nil
}

// compare prints one metric as a ratio.
func (b *bench) compare(m measures, name, metric, unit string, better figure.Better, goal float64) error {
	f := figure.Figure{Bench: "router", Case: name, Metric: metric, Unit: unit, ReferenceName: b.referenceIs, Better: better, Goal: goal}
	fmt.Fprintf(os.Stderr, "bench-router: %s %s: ours %.4g, %s %.4g\n", name, metric, m[metric][0], b.referenceIs, m[metric][1])
	return figure.Compare(f, m[metric][0], m[metric][1]).Print(os.Stdout)
}
