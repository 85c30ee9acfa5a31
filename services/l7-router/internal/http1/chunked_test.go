package http1

import (
	"errors"
	"strings"
	"testing"
)

// decode feeds body to a ChunkReader, at most step bytes more at a time, and returns the data and what was left over.
func decode(body string, step int) (data, rest string, done bool, err error) {
	var c ChunkReader
	var pending []byte
	for {
		for {
			n, part, err := c.Next(pending)
			if err != nil {
				return data, "", false, err
			}
			data += string(part)
			pending = pending[n:]
			if n == 0 {
				break
			}
		}
		if c.Done() || len(body) == 0 {
			return data, string(pending) + body, c.Done(), nil
		}
		take := min(step, len(body))
		pending = append(pending, body[:take]...)
		body = body[take:]
	}
}

func TestChunks(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, body, data, rest string
		done                   bool
		err                    *Error
	}{
		{name: "empty", body: "0\r\n\r\nnext", rest: "next", done: true},
		{name: "two chunks", body: "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", data: "hello world", done: true},
		{name: "upper and lower hex", body: "A\r\n0123456789\r\na\r\n0123456789\r\n00\r\n\r\n", data: "01234567890123456789", done: true},
		{name: "extension", body: "5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n", data: "hello", done: true},
		{name: "trailers", body: "1\r\na\r\n0\r\nSum: 1\r\nOther: 2\r\n\r\nrest", data: "a", rest: "rest", done: true},
		{name: "unfinished", body: "5\r\nhel", data: "hel"},
		{name: "no size", body: "\r\nhello", err: ErrChunk},
		{name: "negative", body: "-1\r\n", err: ErrChunk},
		{name: "0x", body: "0x5\r\nhello\r\n", err: ErrChunk},
		{name: "space after the size", body: "5 \r\nhello\r\n", err: ErrChunk},
		{name: "space before the size", body: " 5\r\nhello\r\n", err: ErrChunk},
		{name: "too large", body: "FFFFFFFFFFFFFFFF\r\n", err: ErrChunk},
		{name: "bare LF after the size", body: "5\nhello\r\n", err: ErrChunk},
		{name: "bare LF after the data", body: "5\r\nhello\n0\r\n\r\n", data: "hello", err: ErrChunk},
		{name: "longer than said", body: "5\r\nhello!\r\n", data: "hello", err: ErrChunk},
		{name: "bare LF in an extension", body: "5;a\nb\r\nhello\r\n", err: ErrChunk},
		{name: "CR in an extension", body: "5;a\rb\r\nhello\r\n", err: ErrChunk},
		{name: "quote in an extension is not closed", body: "5;a=\"b\r\nhello\r\n", err: ErrChunk},
		{name: "escaped quote", body: "5;a=\"b\\\"\";c\r\nhello\r\n0\r\n\r\n", data: "hello", done: true},
		{name: "extension without a name", body: "5;\r\nhello\r\n", err: ErrChunk},
		{name: "extension without a value", body: "5;a=\r\nhello\r\n", err: ErrChunk},
		{name: "space in an extension", body: "5; a\r\nhello\r\n", err: ErrChunk},
		{name: "Content_Length in a trailer", body: "0\r\nContent_Length: 5\r\n\r\n", err: ErrTrailer},
		{name: "long extension", body: "5;" + strings.Repeat("a", MaxChunkLine) + "\r\nhello\r\n", err: ErrChunk},
		{name: "long trailer", body: "0\r\nA: " + strings.Repeat("a", MaxTrailerBytes) + "\r\n\r\n", err: ErrTrailer},
		{name: "many trailers", body: "0\r\n" + strings.Repeat("A: b\r\n", MaxTrailerBytes/6+1) + "\r\n", err: ErrTrailer},
		{name: "framing in a trailer", body: "0\r\nContent-Length: 5\r\n\r\n", err: ErrTrailer},
		{name: "folded trailer", body: "0\r\nA: b\r\n c\r\n\r\n", err: ErrTrailer},
		{name: "bare LF after a trailer", body: "0\r\nA: b\n\r\n", err: ErrTrailer},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, step := range []int{1, 2, 3, 7, len(test.body)} {
				data, rest, done, err := decode(test.body, step)
				var refused *Error
				errors.As(err, &refused)
				if data != test.data || rest != test.rest || done != test.done || refused != test.err {
					t.Errorf("in steps of %d: data %q rest %q done %t err %v, want %q %q %t %v\nin %q", step,
						data, rest, done, err, test.data, test.rest, test.done, test.err, test.body[:min(len(test.body), 80)])
				}
			}
		})
	}
}

func TestLimit(t *testing.T) {
	t.Parallel()
	const body = "5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"
	for most, want := range map[int64]error{0: nil, 4: ErrBodyTooLarge, 9: ErrBodyTooLarge, 10: nil} {
		var c ChunkReader
		c.Limit(most)
		var err error
		for b := []byte(body); err == nil && !c.Done(); {
			var n int
			n, _, err = c.Next(b)
			b = b[n:]
		}
		if err != want && !(want == nil && err == nil) {
			t.Errorf("at most %d: %v, want %v", most, err, want)
		}
	}
}

func TestSkip(t *testing.T) {
	t.Parallel()
	var c ChunkReader
	n, data, err := c.Next([]byte("10\r\nabc"))
	if n != 7 || string(data) != "abc" || err != nil || c.Left() != 13 {
		t.Fatalf("n %d data %q err %v left %d, want 7 abc nil 13", n, data, err, c.Left())
	}
	c.Skip(13)
	n, data, err = c.Next([]byte("\r\n0\r\n\r\n"))
	if n != 7 || len(data) != 0 || err != nil || !c.Done() {
		t.Fatalf("n %d data %q err %v done %t, want 7, none, nil, true", n, data, err, c.Done())
	}
}

// passOn returns what of a body is passed on, fed at most step bytes at a time.
func passOn(body string, step int) (out string, done bool) {
	var c ChunkReader
	var pending []byte
	for {
		for {
			n, _, err := c.Next(pending)
			if err != nil {
				return out, false
			}
			from, to := c.Drop()
			out += string(pending[:from]) + string(pending[to:n])
			pending = pending[n:]
			if n == 0 {
				break
			}
		}
		if c.Done() || len(body) == 0 {
			return out, c.Done()
		}
		take := min(step, len(body))
		pending = append(pending, body[:take]...)
		body = body[take:]
	}
}

func TestDrop(t *testing.T) {
	t.Parallel()
	for _, test := range [][2]string{
		{"5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"},
		{"005\r\nhello\r\n000\r\nA: b\r\n\r\n", "5\r\nhello\r\n0\r\nA: b\r\n\r\n"},
		{"5;a=\"b\"\r\nhello\r\n0;c\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"},
		{"010;a\r\n0123456789abcdef\r\n0\r\n\r\n", "10\r\n0123456789abcdef\r\n0\r\n\r\n"},
	} {
		for _, step := range []int{1, 2, 3, 7, 100} {
			if got, done := passOn(test[0], step); got != test[1] || !done {
				t.Errorf("%q in steps of %d: %q %t, want %q", test[0], step, got, done, test[1])
			}
		}
	}
}

// FuzzChunks checks that a body means the same however it arrives, and that what is passed on of it means the same again.
func FuzzChunks(f *testing.F) {
	for _, seed := range []string{
		"5\r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\nGET /", "0\r\n\r\n", "5 \r\nhello", "5\r\nhello!", "1\n",
	} {
		f.Add(seed, uint8(1))
	}
	f.Fuzz(func(t *testing.T, body string, step uint8) {
		data, rest, done, err := decode(body, max(len(body), 1))
		data2, rest2, done2, err2 := decode(body, int(step)+1)
		if data != data2 || rest != rest2 || done != done2 || (err == nil) != (err2 == nil) {
			t.Fatalf("at once: %q %q %t %v\nin steps: %q %q %t %v", data, rest, done, err, data2, rest2, done2, err2)
		}
		if !done {
			return
		}
		out, _ := passOn(body, int(step)+1)
		if data3, rest3, done3, err3 := decode(out, len(out)); data3 != data || rest3 != "" || !done3 || err3 != nil {
			t.Fatalf("passed on: %q %q %t %v\nmeant: %q", data3, rest3, done3, err3, data)
		}
		if again, _ := passOn(out, len(out)); again != out {
			t.Fatalf("passed on: %q\nonce more: %q", out, again)
		}
	})
}
