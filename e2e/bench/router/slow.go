package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/twotier/twotier/e2e/bench/figure"
)

// slowConnections is how many connections slowhttptest holds, and opens in a second.
const slowConnections = 500

// slowModes are the ways of slowhttptest. They are measured only when they are named.
var slowModes = map[string][]string{
	"slow-headers": {"-H", "-i", "2", "-x", "24"},
	"slow-body":    {"-B", "-i", "2", "-s", "8192", "-x", "10"},
	"slow-range":   {"-R", "-t", "HEAD", "-a", "10", "-b", "3000"},
	"slow-read":    {"-X", "-w", "512", "-y", "1024", "-n", "2", "-z", "32", "-k", "3"},
}

// slowClients measures what is left to good clients while slowhttptest has its connections open: their rate then, divided
// by their rate a moment before. That a good client of ours fails is an error.
func (b *bench) slowClients(name string) error {
	program, err := exec.LookPath("slowhttptest")
	if err != nil {
		return fmt.Errorf("%w (scripts/preflight bench)", err)
	}
	server, err := b.startOrigin("origin")
	if err != nil {
		return err
	}
	defer server.stop()
	rivals, stop, err := b.startRivals(server.address)
	if err != nil {
		return err
	}
	defer stop()
	m := measures{}
	failed := 0
	err = b.inTurns(rivals, func(who int, r *rival) error {
		before, err := b.load(r.address, 32, b.burst, "")
		if err != nil {
			return err
		}
		path := "/"
		if name == "slow-read" {
			path = "/large"
		}
		n := fmt.Sprint(slowConnections)
		words := append([]string{"-c", loadCore, program}, slowModes[name]...)
		attack := exec.Command("taskset", append(words, "-c", n, "-r", n, "-l", "60", "-p", "5", "-u", "http://"+r.address+path)...)
		if err := attack.Start(); err != nil {
			return err
		}
		time.Sleep(2 * time.Second) // until its connections are open
		during, err := b.load(r.address, 32, b.burst, "")
		_ = attack.Process.Kill() // it may have ended by itself
		_ = attack.Wait()         // it was killed
		if err != nil {
			return err
		}
		if who == 0 {
			failed += during.failed
		}
		m.add("good_share", who, during.rate/before.rate)
		m.add("good_failed", who, float64(during.failed))
		time.Sleep(500 * time.Millisecond) // its connections end
		return nil
	})
	if err != nil {
		return err
	}
	share := figure.Figure{Bench: "router", Case: name, Metric: "good_share", Unit: "1", ReferenceName: b.referenceIs, Better: figure.Higher, Goal: 0.95}
	lost := figure.Figure{Bench: "router", Case: name, Metric: "good_failed", Unit: "requests", ReferenceName: b.referenceIs, Better: figure.Lower, Goal: 0}
	fmt.Fprintf(os.Stderr, "bench-router: %s good_share: ours %.3g, %s %.3g\n", name, m["good_share"][0], b.referenceIs, m["good_share"][1])
	err = errors.Join(
		figure.Absolute(share, m["good_share"][0], m["good_share"][1]).Print(os.Stdout),
		figure.Absolute(lost, m["good_failed"][0], m["good_failed"][1]).Print(os.Stdout))
	if failed > 0 {
		err = errors.Join(err, fmt.Errorf("%d requests of good clients failed beside %s", failed, strings.Join(slowModes[name], " ")))
	}
	return err
}
