package stricttest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
)

// View is what two programs have to agree on about one request.
type View struct {
	// Mark is what the field of this name says.
	Mark string
	// Shown are method and body.
	Shown string
}

// Viewer is a server of net/http that remembers the requests that it gets, or that an incumbent before it passes on.
type Viewer struct {
	// Name of the program that reads the bytes.
	Name string

	address string
	server  *httptest.Server
	mu      sync.Mutex // guards seen
	seen    []View
}

// NewViewer starts a server that reads by itself when kind is empty, else one behind an incumbent.
func NewViewer(t testing.TB, kind Kind) *Viewer {
	t.Helper()
	v := &Viewer{Name: "net/http"}
	s := httptest.NewUnstartedServer(v)
	s.Config.DisableGeneralOptionsHandler = true // it would answer OPTIONS *
	s.Start()
	t.Cleanup(s.Close)
	v.server, v.address = s, s.Listener.Addr().String()
	if kind != "" {
		v.Name = string(kind)
		v.address = Start(t, kind, v.address)
	}
	return v
}

func (v *Viewer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if r.URL.Path != Fence && r.RequestURI != Fence {
		shown := view(strings.Join(r.Header[Mark], ","), r.Method, body)
		if err != nil {
			shown = View{"", ""} // it has not come whole
		}
		v.mu.Lock()
		v.seen = append(v.seen, shown)
		v.mu.Unlock()
	}
	_, _ = io.WriteString(w, "ok")
}

// Seen are all the requests that it has got whole. It ends the server.
func (v *Viewer) Seen() []View {
	v.server.Close()
	return slices.DeleteFunc(v.seen, func(w View) bool { return w.Shown == "" })
}

func view(mark, method string, body []byte) View {
	return View{strings.ReplaceAll(mark, " ", ""), fmt.Sprintf("%s %q", method, body)}
}

// Look sends a stream of requests to the program, and a fence behind them. It returns an error when the program waits for
// more than there is, or gives more answers than there are requests.
func (v *Viewer) Look(stream string, expected []View) error {
	c, err := net.Dial("tcp", v.address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	go func() {
		_, _ = io.WriteString(c, stream+"GET "+Fence+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") // it may refuse it and close
	}()
	in := bufio.NewReader(c)
	for i := 0; ; {
		if i > len(expected)+1 {
			return errors.New("more answers than requests")
		}
		method := "GET"
		if i < len(expected) && strings.HasPrefix(expected[i].Shown, "HEAD ") {
			method = "HEAD"
		}
		r, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				return errors.New("waits for more")
			}
			return nil
		}
		if r.StatusCode < 200 {
			continue
		}
		i++
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil
		}
	}
}

// Views are what this program reads in requests. An error means that it cannot read what it has passed on.
func Views(reached []Reached) ([]View, error) {
	var all []View
	for _, r := range reached {
		b := []byte(r.Bytes)
		var h http1.Head
		h.Reset(http1.Request)
		if complete, err := h.Parse(b); !complete || err != nil {
			return nil, fmt.Errorf("head: complete %t %v", complete, err)
		}
		var marks []string
		for i := range h.Fields() {
			if http1.EqualFold(h.Name(i), Mark) {
				marks = append(marks, string(h.Value(i)))
			}
		}
		body := b[h.Len():]
		if h.RequestBody().Framing == http1.Chunked {
			var c http1.ChunkReader
			var data []byte
			for !c.Done() {
				n, part, err := c.Next(body)
				if err != nil || n == 0 {
					return nil, fmt.Errorf("chunks: %v", err)
				}
				data, body = append(data, part...), body[n:]
			}
			body = data
		}
		all = append(all, view(strings.Join(marks, ","), string(h.Method()), body))
	}
	return all, nil
}

// Strangers are the requests that a program has seen and nobody has sent, or more often or in another order than they were
// sent. It may refuse some.
func Strangers(sent, seen []View) []View {
	left := map[string][]string{}
	for _, v := range sent {
		left[v.Mark] = append(left[v.Mark], v.Shown)
	}
	var strangers []View
	for _, v := range seen {
		at := slices.Index(left[v.Mark], v.Shown)
		if at < 0 {
			strangers = append(strangers, v)
			continue
		}
		left[v.Mark] = left[v.Mark][at+1:]
	}
	return strangers
}
