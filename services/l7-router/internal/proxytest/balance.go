package proxytest

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/balance"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// balanceWords says in HAProxy's words how a backend balances.
func balanceWords(b spec.Balance) string {
	words := map[spec.Algorithm]string{
		spec.RoundRobin: "roundrobin", spec.StaticRR: "static-rr", spec.LeastConn: "leastconn", spec.First: "first",
		spec.Source: "source", spec.URI: "uri", spec.ByHeader: "hdr(" + b.Header + ")",
	}[b.Algorithm]
	if b.Whole {
		words += " whole"
	}
	if b.PathOnly {
		words += " path-only"
	}
	if b.Depth > 0 {
		words += fmt.Sprint(" depth ", b.Depth)
	}
	if b.Length > 0 {
		words += fmt.Sprint(" len ", b.Length)
	}
	words = " balance " + words + "\n"
	if b.Keyed() {
		words += " hash-type " + [...]string{"map-based", "consistent"}[b.Hash] + " " + [...]string{"sdbm", "djb2", "wt6", "crc32"}[b.Function]
		if b.Avalanche {
			words += " avalanche"
		}
		words += "\n"
	}
	return words
}

// speaker is a way to send one request that names its server in the answer.
type speaker struct {
	from    string // the client's address; empty: any
	target  string
	headers []string
}

// speak sends the request on a connection of its own and returns the body of the answer. preamble goes before it.
func (s speaker) speak(t *testing.T, address, preamble string) string {
	t.Helper()
	d := net.Dialer{Timeout: patience}
	if s.from != "" && preamble == "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(s.from)}
	}
	c, err := d.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(c, "%sGET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n", preamble, s.target, lines(s.headers)); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body := make([]byte, 1)
	_, _ = r.Body.Read(body)
	return string(body)
}

// holder is a set of servers that answer /hold only when they are told to.
type holder struct {
	begun   chan string // names of those that have got a request to hold
	release chan struct{}
	letGo   func() // answers what is held, and from now on at once
}

func (h *holder) servers(t *testing.T, n int) (servers []spec.Server) {
	for i := range n {
		name := string(rune('A' + i))
		servers = append(servers, server(strings.ToLower(name), addressOf(origin(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/hold" {
				h.begun <- name
				<-h.release
			}
			fmt.Fprint(w, name)
		}))))
	}
	t.Cleanup(h.letGo) // before the origins close, which wait for their requests
	return servers
}

func newHolder() *holder {
	h := &holder{begun: make(chan string), release: make(chan struct{})}
	h.letGo = sync.OnceFunc(func() { close(h.release) })
	return h
}

// hold sends requests that are held, one after the other, the first over a given connection, and returns who got them.
func (h *holder) hold(t *testing.T, c *client, address string, n int) string {
	t.Helper()
	var names strings.Builder
	for i := range n {
		if i > 0 {
			c = dial(t, address)
		}
		c.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
		select {
		case name := <-h.begun:
			names.WriteString(name)
		case <-time.After(patience):
			t.Fatalf("after %s: nobody gets the request", names.String())
		}
	}
	return names.String()
}

// testBalanceLikeHAProxy compares who gets each request of a row, of which some are still under way.
func testBalanceLikeHAProxy(t *testing.T, open Open) {
	t.Parallel()
	for _, test := range []struct {
		algorithm spec.Algorithm
		weights   []int
		maxConn   int
		backups   int // how many of them are backups; the first server is dead then
		all       bool
	}{
		{algorithm: spec.StaticRR, weights: []int{1, 1, 1}},
		{algorithm: spec.StaticRR, weights: []int{3, 2, 1}},
		{algorithm: spec.StaticRR, weights: []int{10, 5, 5}},
		{algorithm: spec.StaticRR, weights: []int{1, 0, 2}},
		{algorithm: spec.LeastConn, weights: []int{1, 1, 1}},
		{algorithm: spec.LeastConn, weights: []int{3, 2, 1}},
		{algorithm: spec.LeastConn, weights: []int{100, 50, 10, 1}},
		{algorithm: spec.First, weights: []int{1, 1, 1}, maxConn: 4},
		{algorithm: spec.RoundRobin, weights: []int{1, 1, 1}, maxConn: 4},
		{algorithm: spec.RoundRobin, weights: []int{2, 1, 1}, maxConn: 4},
		{algorithm: spec.LeastConn, weights: []int{1, 1, 1}, maxConn: 4},
		{algorithm: spec.RoundRobin, weights: []int{1, 1, 1, 1}, backups: 3},
		{algorithm: spec.RoundRobin, weights: []int{1, 1, 2, 1}, backups: 3, all: true},
		{algorithm: spec.StaticRR, weights: []int{1, 1, 2, 1}, backups: 3, all: true},
		{algorithm: spec.LeastConn, weights: []int{1, 1, 2, 1}, backups: 3, all: true},
	} {
		t.Run(fmt.Sprintf("%+v", test), func(t *testing.T) {
			t.Parallel()
			row := func(address func(spec.Backend) string) string {
				h := newHolder()
				b := backend("web", h.servers(t, len(test.weights))...)
				b.Balance.Algorithm, b.AllBackups = test.algorithm, test.all
				for i := range b.Servers {
					b.Servers[i].Weight, b.Servers[i].MaxConn = test.weights[i], test.maxConn
					b.Servers[i].Backup = i >= len(test.weights)-test.backups
				}
				if test.backups > 0 {
					b.Servers[0].Weight = 0
				}
				at := address(b)
				var all strings.Builder
				c := dial(t, at) // the next request over it comes when the one before is over for the router too
				for range 20 {
					_, body := c.get("/")
					all.WriteString(body)
				}
				return all.String() + " " + h.hold(t, c, at, 12)
			}
			want := row(func(b spec.Backend) string { return haproxy(t, b) })
			got := row(func(b spec.Backend) string { return newWorld(t, open, b).address() })
			if got != want {
				t.Errorf("\nours    %s\nhaproxy %s", got, want)
			}
		})
	}
}

// testHashesLikeHAProxy compares the server of each request.
func testHashesLikeHAProxy(t *testing.T, open Open) {
	t.Parallel()
	var addresses []string
	for i := range 5 {
		addresses = append(addresses, addressOf(origin(t, named(string(rune('A'+i))))))
	}
	random := rand.New(rand.NewPCG(5, 6))
	var clients, targets, users []speaker
	for i := range 24 {
		clients = append(clients, speaker{from: fmt.Sprintf("127.%d.%d.%d", random.IntN(256), random.IntN(256), 1+random.IntN(254)), target: "/"})
		targets = append(targets, speaker{target: fmt.Sprintf("/a%d/b%d/c.html?q=%d", i/6, i/3, i)},
			speaker{target: fmt.Sprintf("http://x/a%d/b%d?q=%d", i/3, i, i/2)})
		users = append(users, speaker{target: "/", headers: []string{fmt.Sprintf("X-User: user-%d, other", i)}},
			speaker{target: "/", headers: []string{"x-user:"}}, speaker{target: "/"})
	}
	targets = append(targets, speaker{target: "/"}, speaker{target: "/?"}, speaker{target: "//a//b"}, speaker{target: "http://x"})
	tests := []struct {
		balance spec.Balance
		with    []speaker
	}{
		{spec.Balance{Algorithm: spec.Source}, clients},
		{spec.Balance{Algorithm: spec.Source, Avalanche: true}, clients},
		{spec.Balance{Algorithm: spec.Source, Hash: spec.HashConsistent, Avalanche: true}, clients},
		{spec.Balance{Algorithm: spec.Source, Hash: spec.HashConsistent}, clients},
		{spec.Balance{Algorithm: spec.URI}, targets},
		{spec.Balance{Algorithm: spec.URI, Whole: true}, targets},
		{spec.Balance{Algorithm: spec.URI, PathOnly: true}, targets},
		{spec.Balance{Algorithm: spec.URI, PathOnly: true, Whole: true}, targets},
		{spec.Balance{Algorithm: spec.URI, Depth: 1}, targets},
		{spec.Balance{Algorithm: spec.URI, Depth: 2, Whole: true}, targets},
		{spec.Balance{Algorithm: spec.URI, Length: 4}, targets},
		{spec.Balance{Algorithm: spec.URI, Length: 12, Depth: 2, Whole: true}, targets},
		{spec.Balance{Algorithm: spec.URI, Function: spec.DJB2}, targets},
		{spec.Balance{Algorithm: spec.URI, Function: spec.WT6}, targets},
		{spec.Balance{Algorithm: spec.URI, Function: spec.CRC32, Avalanche: true}, targets},
		{spec.Balance{Algorithm: spec.URI, Hash: spec.HashConsistent, Avalanche: true}, targets},
		{spec.Balance{Algorithm: spec.URI, Hash: spec.HashConsistent, Function: spec.CRC32}, targets},
		{spec.Balance{Algorithm: spec.ByHeader, Header: "X-User"}, users},
		{spec.Balance{Algorithm: spec.ByHeader, Header: "x-user", Hash: spec.HashConsistent, Avalanche: true}, users},
	}
	for i, test := range tests {
		weights := [][]int{{1, 1, 1}, {3, 2, 1, 4, 2}, {10, 10, 30}, {1, 0, 1}, {7}}[i%5]
		t.Run(fmt.Sprintf("%+v %v", test.balance, weights), func(t *testing.T) {
			t.Parallel()
			b := backend("web")
			b.Balance = test.balance
			for i, weight := range weights {
				s := server(string(rune('a'+i)), addresses[i])
				s.Weight = weight
				b.Servers = append(b.Servers, s)
			}
			theirs, ours := haproxy(t, b), newWorld(t, open, b).address()
			for _, s := range test.with {
				if want, got := s.speak(t, theirs, ""), s.speak(t, ours, ""); got != want {
					t.Errorf("%+v: ours %s, haproxy %s", s, got, want)
				}
			}
		})
	}

	// Loopback has one IPv6 address only, so HAProxy is told the client's by the PROXY protocol, and ours by hand.
	for _, hash := range []spec.HashType{spec.HashMap, spec.HashConsistent} {
		t.Run(fmt.Sprint("IPv6 ", hash), func(t *testing.T) {
			t.Parallel()
			b := backend("web")
			b.Balance = spec.Balance{Algorithm: spec.Source, Hash: hash, Avalanche: hash == spec.HashConsistent}
			var servers []balance.Server
			for i, address := range addresses {
				s := server(string(rune('a'+i)), address)
				s.Weight = 1 + i
				b.Servers = append(b.Servers, s)
				servers = append(servers, balance.Server{Base: s.Weight, Weight: s.Weight * balance.Scale, Load: new(balance.Load)})
			}
			theirs := haproxy(t, b, true)
			algorithm := balance.New(b.Balance)
			algorithm.Set(servers)
			random := rand.New(rand.NewPCG(7, 8))
			for range 64 {
				var bytes [16]byte
				for i := range bytes {
					bytes[i] = byte(random.Uint32())
				}
				client := netip.AddrFrom16(bytes)
				want := speaker{target: "/"}.speak(t, theirs, fmt.Sprintf("PROXY TCP6 %s ::1 1234 80\r\n", client))
				i := algorithm.Next(&balance.Query{Hash: balance.OfAddress(&b.Balance, client), Hashed: true})
				if got := string(rune('A' + i)); got != want {
					t.Errorf("%s: ours %s, haproxy %s", client, got, want)
				}
			}
		})
	}
}
