package exchange

import (
	"bytes"
	"testing"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stricttest"
)

// FuzzForward checks that the head for a server is one that this program reads too, with the body framed as the client's
// was, and that it would go on unchanged from there: nothing in it is left to be understood in another way.
func FuzzForward(f *testing.F) {
	for _, row := range stricttest.Requests() {
		f.Add([]byte(row.Bytes))
	}
	front := frontend(f, spec.Cookie{Name: "webserver", Indirect: true})
	f.Fuzz(func(t *testing.T, message []byte) {
		var h, again http1.Head
		h.Reset(http1.Request)
		if complete, err := h.Parse(message); !complete || err != nil {
			return
		}
		var first, second Request
		first.Begin(front, &h, &client)
		if first.Answer != nil {
			return
		}
		if len(first.Head) >= http1.MaxHeadBytes {
			return // what the router adds made it too large for itself
		}
		again.Reset(http1.Request)
		complete, err := again.Parse(first.Head)
		if err == http1.ErrTooManyFields && h.Fields() > http1.MaxFields-4 {
			return // as above
		}
		if !complete || err != nil || again.Len() != len(first.Head) {
			t.Fatalf("complete %t %v\nclient %q\nserver %q", complete, err, message[:h.Len()], first.Head)
		}
		second.Begin(front, &again, &client)
		if second.Body != first.Body || !bytes.Equal(second.Head, first.Head) {
			t.Fatalf("client %q\nserver %q %v\nagain  %q %v", message[:h.Len()], first.Head, first.Body, second.Head, second.Body)
		}
	})
}

// FuzzReply checks the same of the head for a client.
func FuzzReply(f *testing.F) {
	for _, row := range stricttest.Responses() {
		f.Add([]byte(row.Bytes), row.Method == "HEAD", false)
		f.Add([]byte(row.Bytes), false, true)
	}
	front := frontend(f, spec.Cookie{})
	f.Fuzz(func(t *testing.T, message []byte, toHead, old bool) {
		request := "GET / HTTP/1.1"
		if toHead {
			request = "HEAD / HTTP/1.1"
		}
		if old {
			request = request[:len(request)-1] + "0"
		}
		var r Request
		r.Begin(front, parse(t, http1.Request, request+"\nHost: x\nConnection: Upgrade\nUpgrade: echo"), &client)
		if r.Next() == nil {
			t.Fatal("no server")
		}
		var h, again http1.Head
		h.Reset(http1.Response)
		if complete, err := h.Parse(message); !complete || err != nil {
			return
		}
		if h.Status() < 200 && h.Status() != 101 {
			return
		}
		out, reply, err := r.Reply(nil, &h, false)
		if err != nil || len(out) >= http1.MaxHeadBytes {
			return
		}
		again.Reset(http1.Response)
		complete, err := again.Parse(out)
		if err == http1.ErrTooManyFields && h.Fields() > http1.MaxFields-4 {
			return // what the router adds made it too large for itself
		}
		if !complete || err != nil || again.Len() != len(out) || again.Status() != h.Status() {
			t.Fatalf("complete %t %v\nserver %q\nclient %q", complete, err, message[:h.Len()], out)
		}
		want := reply.Body
		if reply.Unchunk {
			want = http1.Body{Framing: http1.UntilClose}
		}
		if got := again.ResponseBody(toHead); !reply.Tunnel && got != want {
			t.Fatalf("framed as %v, passed on as %v\nserver %q\nclient %q", want, got, message[:h.Len()], out)
		}
		if keeps := again.KeepAlive(); keeps != reply.KeepClient && !reply.Tunnel {
			t.Fatalf("says keep-alive %t, means %t\nclient %q", keeps, reply.KeepClient, out)
		}
	})
}
