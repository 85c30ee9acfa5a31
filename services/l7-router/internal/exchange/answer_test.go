package exchange

import "testing"

func TestAnswer(t *testing.T) {
	t.Parallel()
	redirect := &Answer{Status: 302, Location: []byte("https://example.org/a?b"), Fields: []Field{{"Cache-Control", "no-cache"}}}
	tests := []struct {
		name         string
		answer       *Answer
		toHead, keep bool
		want         string
	}{
		{"redirect", redirect, false, true, "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: https://example.org/a?b\r\nCache-Control: no-cache\r\n\r\n"},
		{"page", &Answer{Status: 200, Body: []byte("hi")}, false, false, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"},
		{"page to HEAD", &Answer{Status: 200, Body: []byte("hi")}, true, true, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"},
		{"no content", &Answer{Status: 204}, false, true, "HTTP/1.1 204 No Content\r\n\r\n"},
		{"refusal", Refusal(403), false, true, "HTTP/1.1 403 Forbidden\r\nContent-Length: 93\r\nCache-Control: no-cache\r\nContent-Type: text/html\r\n\r\n" +
			"<html><body><h1>403 Forbidden</h1>\nRequest forbidden by administrative rules.\n</body></html>\n"},
	}
	for _, test := range tests {
		if got := string(test.answer.Append(nil, test.toHead, test.keep)); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	if got := Refusal(299).Status; got != 500 {
		t.Errorf("a status without a page: %d", got)
	}
}
