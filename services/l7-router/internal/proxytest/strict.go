package proxytest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

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
