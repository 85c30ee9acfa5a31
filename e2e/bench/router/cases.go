package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twotier/twotier/e2e/bench/figure"
)

// small asks for 100 bytes over connections that are kept.
func (b *bench) small(name string, connections int) error {
	return b.requests(name, connections, "", [3]float64{1.10, 0.85, 1.0})
}

// newConn asks for 100 bytes over a new connection each time.
func (b *bench) newConn(name string) error {
	return b.requests(name, 32, "Connection: close", [3]float64{1.0, 1.0, 1.0})
}

// requests loads both with wrk; goals are those of rps, cpu_per_request and p99.
func (b *bench) requests(name string, connections int, header string, goals [3]float64) error {
	server, err := b.startSmallOrigin()
	if err != nil {
		return err
	}
	defer server.stop()
	rivals, stop, err := b.startRivals(server.address)
	if err != nil {
		return err
	}
	defer stop()
	for _, r := range rivals { // until all connections are made and everything is warm
		if _, err := b.load(r.address, connections, time.Second, header); err != nil {
			return err
		}
	}
	m := measures{}
	err = b.inTurns(rivals, func(who int, r *rival) error {
		before, err := r.cpu()
		if err != nil {
			return err
		}
		got, err := b.load(r.address, connections, b.burst, header)
		if err != nil {
			return err
		}
		after, err := r.cpu()
		if err != nil {
			return err
		}
		m.add("rps", who, got.rate)
		m.add("cpu_per_request", who, float64((after-before).Nanoseconds())/1000/got.requests)
		m.add("p99", who, got.p99)
		return nil
	})
	return errors.Join(err,
		b.compare(m, name, "rps", "1/s", figure.Higher, goals[0]),
		b.compare(m, name, "cpu_per_request", "us", figure.Lower, goals[1]),
		b.compare(m, name, "p99", "us", figure.Lower, goals[2]))
}

// body fetches large bodies: beside HAProxy as it is, and beside HAProxy told to splice.
func (b *bench) body(name string) error {
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
	splicing, err := b.startHAProxySplicing(server.address)
	if err != nil {
		return err
	}
	defer splicing.stop()
	// With each of the two ours is measured anew, so that each ratio is one of neighbours in time.
	plain, spliced := measures{}, measures{}
	err = b.inTurns(rivals, func(who int, r *rival) error { return b.fetchBodies(plain, who, r) })
	if err == nil {
		pair := [2]*rival{rivals[0], {process: splicing, address: splicing.address}}
		err = b.inTurns(pair, func(who int, r *rival) error { return b.fetchBodies(spliced, who, r) })
	}
	if err != nil {
		return err
	}
	err = errors.Join(
		b.compare(plain, name, "throughput", "Gbit/s", figure.Higher, 1.1),
		b.compare(plain, name, "cpu_per_gib", "ms", figure.Lower, 0.5))
	b.referenceIs += " splice"
	defer func() { b.referenceIs = strings.TrimSuffix(b.referenceIs, " splice") }()
	return errors.Join(err, b.compare(spliced, name, "cpu_per_gib", "ms", figure.Lower, 0.9))
}

// fetchBodies is one turn of the case body-256MiB.
func (b *bench) fetchBodies(m measures, who int, r *rival) error {
	before, err := r.cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	for range b.bodies {
		if err := fetch(r.address, "/large"); err != nil {
			return err
		}
	}
	took := time.Since(begin)
	after, err := r.cpu()
	if err != nil {
		return err
	}
	gib := float64(b.bodies*largeBody) / (1 << 30)
	m.add("throughput", who, gib*8*1.073741824/took.Seconds())
	m.add("cpu_per_gib", who, float64((after-before).Milliseconds())/gib)
	return nil
}

// idleConnections holds connections that have had one request each.
func (b *bench) idleConnections(name string) error {
	server, err := b.startSmallOrigin()
	if err != nil {
		return err
	}
	defer server.stop()
	m := measures{}
	// What a process has once taken it may not give back, so each round begins with new ones.
	for range b.rounds {
		rivals, stop, err := b.startRivals(server.address)
		if err != nil {
			return err
		}
		for who, r := range rivals {
			if err = b.hold(m, who, r); err != nil {
				break
			}
		}
		stop()
		if err != nil {
			return err
		}
	}
	return errors.Join(
		b.compare(m, name, "rss", "MiB", figure.Lower, 1.0),
		b.compare(m, name, "rss_per_connection", "B", figure.Lower, 1.0))
}

func (b *bench) hold(m measures, who int, r *rival) error {
	before, err := r.rss()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var held []*net.TCPConn
	defer func() {
		for _, c := range held {
			_ = c.SetLinger(0) // or ten thousand ports would wait a minute
			_ = c.Close()
		}
	}()
	const workers = 20
	errs := make([]error, workers)
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			for range b.idle / workers {
				c, err := askOnce(r.address)
				if err != nil {
					errs[worker] = err
					return
				}
				mu.Lock()
				held = append(held, c)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	after, err := r.rss()
	if err != nil {
		return err
	}
	m.add("rss", who, float64(after)/(1<<20))
	m.add("rss_per_connection", who, float64(after-before)/float64(len(held)))
	return nil
}

// askOnce makes a connection and one request over it.
func askOnce(address string) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // the read says it
	buf := make([]byte, 4096)
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
	n := 0
	if err == nil {
		n, err = c.Read(buf)
	}
	if err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200") {
		_ = c.Close() // it is of no use
		return nil, fmt.Errorf("an idle connection: %q %w", buf[:n], err)
	}
	return c.(*net.TCPConn), nil
}

// deadServer kills the server that a client's cookie names between two of its requests.
func (b *bench) deadServer(name string) error {
	m := measures{}
	for range b.rounds {
		for who := range 2 {
			gap, err := b.gap(who)
			if err != nil {
				return err
			}
			m.add("gap", who, float64(gap.Microseconds())/1000)
		}
	}
	fmt.Fprintf(os.Stderr, "bench-router: %s gap: ours %.4g, %s %.4g\n", name, m["gap"][0], b.referenceIs, m["gap"][1])
	f := figure.Figure{Bench: "router", Case: name, Metric: "gap", Unit: "ms", ReferenceName: b.referenceIs, Better: figure.Lower, Goal: 50}
	return figure.Absolute(f, m["gap"][0], m["gap"][1]).Print(os.Stdout)
}

// gap is how long the first request after the death of its server takes.
func (b *bench) gap(who int) (time.Duration, error) {
	first, err := b.startOrigin("first")
	if err != nil {
		return 0, err
	}
	defer first.stop()
	second, err := b.startOrigin("second")
	if err != nil {
		return 0, err
	}
	defer second.stop()
	rivals, stop, err := b.startRivals(first.address, second.address)
	if err != nil {
		return 0, err
	}
	defer stop()
	c, err := net.Dial("tcp", rivals[who].address)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	in := bufio.NewReader(c)
	if body, err := ask(c, in, "s0"); err != nil || body != "first" {
		return 0, fmt.Errorf("before: %q %w", body, err)
	}
	first.stop()
	begin := time.Now()
	body, err := ask(c, in, "s0")
	if err != nil || body != "second" {
		return 0, fmt.Errorf("after the death of its server: %q %w", body, err)
	}
	return time.Since(begin), nil
}
