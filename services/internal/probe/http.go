package probe

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// HTTP is good when one plain HTTP/1.1 request is answered with a status of 200 to 399. Redirects are not followed.
type HTTP struct {
	// Address is HOST:PORT to connect to. Example: 172.16.0.99:80
	Address string
	// Method of the request. Default GET.
	Method string
	// Path of the request, with its query if it has one. Default /
	Path string
	// Host header. Default: Address.
	Host string
}

// maxStatus is the most bytes of a status line that are told.
const maxStatus = 128

// Probe asks once over a connection of its own, because a dead listener can hide behind a connection that is kept.
func (p HTTP) Probe(ctx context.Context) error {
	path := cmp.Or(p.Path, "/")
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("path: want one that starts with /, got %q", path)
	}
	request, err := http.NewRequestWithContext(ctx, cmp.Or(p.Method, http.MethodGet), "http://"+p.Address+path, nil)
	if err != nil {
		return err
	}
	request.Host = p.Host
	request.Header.Set("User-Agent", "twotier-probe")
	transport := &http.Transport{
		DialContext:            new(net.Dialer).DialContext,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close() // only the status counts
	if response.StatusCode < 200 || response.StatusCode > 399 {
		// The phrase may hold any bytes (RFC 9112 section 4), and what is no UTF-8 cannot be told over gRPC.
		status := strings.ToValidUTF8(response.Status[:min(len(response.Status), maxStatus)], "\uFFFD")
		return fmt.Errorf("%s %s: status %s", request.Method, path, status)
	}
	return nil
}
