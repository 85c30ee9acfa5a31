package proxytest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/stricttest"
)

// testOddRequests sends what HTTP forbids or leaves open. Nothing of a request that is refused reaches a server.
func testOddRequests(t *testing.T, open Open) {
	t.Parallel()
	s := stricttest.NewOrigin(t)
	w := newWorld(t, open, backend("web", server("a", s.Address())))
	var forwarded strings.Builder
	for _, row := range stricttest.Requests() {
		got, err := converse(t, w.address(), row)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(row.Want) {
			t.Errorf("%s: answers %v %v, want %v\n%.300q", row.Name, got, err, row.Want, row.Bytes)
		}
		fmt.Fprintf(&forwarded, "# %s (%s)\n", row.Name, row.Clause)
		whole := 0
		for _, r := range s.Take() {
			if !r.Whole {
				t.Errorf("%s: a part reached the server: %.300q", row.Name, r.Bytes)
			}
			if strings.HasPrefix(r.Bytes, "GET "+stricttest.Fence) {
				continue
			}
			whole++
			shown := strings.NewReplacer(s.Address(), "SERVER", w.address(), "ROUTER").Replace(r.Bytes)
			fmt.Fprintf(&forwarded, "%q\n", shown)
		}
		want := 0
		for _, status := range row.Want {
			if status == 200 {
				want++
			}
		}
		if whole != want {
			t.Errorf("%s: %d requests reached the server, want %d\n%.300q", row.Name, whole, want, row.Bytes)
		}
	}
	w.stop()
	for _, late := range s.Take() {
		t.Errorf("reached the server later: %.300q", late.Bytes)
	}
	stricttest.Golden(t, "forwarded.golden", forwarded.String())
}

// converse sends a row on a connection of its own, reads the answers, and then makes sure that both sides stand at the
// same place: the next request on the connection is answered, or it is closed.
func converse(t *testing.T, address string, row stricttest.Request) (statuses []int, err error) {
	c := dial(t, address)
	defer c.Close()
	go func() { _, _ = io.WriteString(c, row.Bytes) }() // a router that refuses need not read all; a reset shows below
	method := stricttest.Method(row.Bytes)
	closing := false
	for range row.Want {
		r, _, err := c.read(method)
		if err != nil {
			return statuses, err
		}
		statuses = append(statuses, r.StatusCode)
		if closing = r.Close; r.StatusCode != 200 || closing {
			break
		}
		method = "GET"
	}
	if len(statuses) > 0 && statuses[len(statuses)-1] != 200 && !closing {
		return statuses, errors.New("the connection is not closed")
	}
	if !closing {
		c.send("GET " + stricttest.Fence + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if r, _, err := c.read("GET"); err != nil || r.StatusCode != 200 || !r.Close {
			return statuses, fmt.Errorf("the request behind: %v %v", r, err)
		}
	}
	rest, err := io.ReadAll(c.in)
	var reset *net.OpError
	if len(rest) > 0 || err != nil && !errors.As(err, &reset) {
		return statuses, fmt.Errorf("behind the last answer: %.200q %v", rest, err)
	}
	return statuses, nil
}

// testOddResponses has a server answer what HTTP forbids or leaves open.
func testOddResponses(t *testing.T, open Open) {
	t.Parallel()
	rows := stricttest.Responses()
	byPath := map[string]stricttest.Response{}
	for i, row := range rows {
		byPath[fmt.Sprint("/", i)] = row
	}
	address := rawOrigin(t, func(c *net.TCPConn) {
		for in := bufio.NewReader(c); ; {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			row, ok := byPath[r.URL.Path]
			if !ok {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
				continue
			}
			_, _ = io.WriteString(c, row.Bytes)
			if row.Close {
				_ = c.CloseWrite()
			}
		}
	})
	w := newWorld(t, open, backend("web", server("a", address)))
	var forwarded strings.Builder
	for i, row := range rows {
		c := dial(t, w.address())
		method := row.Method
		if method == "" {
			method = "GET"
		}
		c.send(fmt.Sprintf("%s /%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method, i))
		raw, err := io.ReadAll(c.in)
		got := stricttest.Outcome(method, raw, err)
		if got != row.Want {
			t.Errorf("%s: %s, want %s\nserver %.300q\nclient %.300q %v", row.Name, got, row.Want, row.Bytes, raw, err)
		}
		fmt.Fprintf(&forwarded, "# %s (%s): %s\n%q\n", row.Name, row.Clause, got, raw)
		// Nothing of it is left over for the next client.
		if r, body := dial(t, w.address()).get("/good"); r.StatusCode != 200 || body != "good" {
			t.Errorf("%s: the next client got %d %q", row.Name, r.StatusCode, body)
		}
	}
	stricttest.Golden(t, "responses.golden", forwarded.String())
}

// testDifferential sends odd requests, made and spoiled at random, through the router, and what it passes on to five
// incumbents and net/http: all have to read the same requests with the same bodies in it, or refuse some.
func testDifferential(t *testing.T, open Open) {
	t.Parallel()
	origin := stricttest.NewOrigin(t)
	w := newWorld(t, open, backend("web", server("a", origin.Address())))
	viewers := []*stricttest.Viewer{stricttest.NewViewer(t, "")}
	for _, k := range stricttest.Kinds() {
		viewers = append(viewers, stricttest.NewViewer(t, k))
	}
	requests, seed := stricttest.Amount()
	type forwarded struct {
		n      uint64
		stream string
		views  []stricttest.View
	}
	lanes := make([]chan forwarded, len(viewers))
	var group sync.WaitGroup
	for i, v := range viewers {
		lanes[i] = make(chan forwarded, 64)
		group.Go(func() {
			for f := range lanes[i] {
				if err := v.Look(f.stream, f.views); err != nil {
					t.Errorf("request %d: %s: %v\nrouter %.3000q", f.n, v.Name, err, f.stream)
				}
			}
		})
	}
	var sent []stricttest.View
	passed := 0
	for i := range requests {
		n := seed + uint64(i)
		request := stricttest.NewGenerator(n).Next()
		if err := push(w.address(), request); err != nil {
			t.Errorf("request %d: %v\n%.3000q", n, err, request)
			continue
		}
		f := forwarded{n: n}
		var reached []stricttest.Reached
		for _, r := range origin.Take() {
			switch {
			case strings.HasPrefix(r.Bytes, "GET "+stricttest.Fence+" "):
				continue
			case !r.Whole:
				t.Errorf("request %d: a part reached the server: %.500q\n%.3000q", n, r.Bytes, request)
			}
			f.stream += r.Bytes
			reached = append(reached, r)
		}
		if f.stream == "" {
			continue
		}
		var err error
		if f.views, err = stricttest.Views(reached); err != nil {
			t.Errorf("request %d: what was passed on cannot be read: %v\nclient %.3000q\nrouter %.3000q", n, err, request, f.stream)
			continue
		}
		passed++
		sent = append(sent, f.views...)
		for _, lane := range lanes {
			lane <- f
		}
	}
	for _, lane := range lanes {
		close(lane)
	}
	group.Wait()
	t.Logf("%d of %d were passed on, %d requests", passed, requests, len(sent))
	if requests >= 100 && passed < requests/4 {
		t.Errorf("only %d of %d were passed on: nothing is compared", passed, requests)
	}
	for _, v := range viewers {
		seen := v.Seen()
		t.Logf("%s has seen %d", v.Name, len(seen))
		for _, stranger := range stricttest.Strangers(sent, seen) {
			t.Errorf("%s has seen what nobody sent: request %q: %.3000s", v.Name, stranger.Mark, stranger.Shown)
		}
		if requests >= 100 && len(seen) < len(sent)/4 {
			t.Errorf("%s has seen %d of %d: nothing is compared", v.Name, len(seen), len(sent))
		}
	}
}

// push sends bytes and a request behind them that ends the connection, and waits for that end.
func push(address, b string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	go func() {
		_, _ = io.WriteString(c, b+"GET "+stricttest.Fence+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") // the router may refuse it
	}()
	_, err = io.Copy(io.Discard, c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the router waits")
	}
	return nil // a reset is an end
}
