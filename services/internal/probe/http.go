package probe

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
)

// HTTP is good when one HTTP/1.1 request is answered as wanted. Redirects are not followed.
type HTTP struct {
	// Address is HOST:PORT to connect to. Example: 172.16.0.99:80
	Address string
	// Method of the request. Default GET.
	Method string
	// Path of the request, with its query if it has one. Default /
	Path string
	// Host header. Default: Address.
	Host string
	// TLS: how to ask over it; nil: in the clear.
	TLS *TLS
	// Statuses that are good. Default: 200 to 399.
	Statuses []int
	// Body is what the first MaxBody bytes of the body must contain. Empty: anything, and the body is not read.
	Body string
	// Header is the name of a field that the answer must have, and Value what it must contain. Empty: none, anything.
	Header, Value string
}

// TLS is how a probe asks over TLS 1.2 or newer.
type TLS struct {
	// ServerName is asked for (SNI) and has to be in the certificate. An address is not asked for.
	ServerName string
	// CAFile holds the authorities in PEM; it is read at each probe. Default: those of the system.
	CAFile string
	// AnyCertificate is taken.
	AnyCertificate bool
}

func (t TLS) config() (*tls.Config, error) {
	c := &tls.Config{ServerName: t.ServerName, InsecureSkipVerify: t.AnyCertificate, MinVersion: tls.VersionTLS12}
	if t.CAFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, err
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", t.CAFile)
	}
	return c, nil
}

// MaxBody is how much of a body is looked at, in bytes.
const MaxBody = 64 << 10

// maxStatus is the most bytes of a status line that are told.
const maxStatus = 128

// Probe asks once over a connection of its own, because a dead listener can hide behind a connection that is kept.
func (p HTTP) Probe(ctx context.Context) error {
	path := cmp.Or(p.Path, "/")
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("path: want one that starts with /, got %q", path)
	}
	scheme, encryption := "http://", (*tls.Config)(nil)
	if p.TLS != nil {
		var err error
		if encryption, err = p.TLS.config(); err != nil {
			return err
		}
		scheme = "https://"
	}
	request, err := http.NewRequestWithContext(ctx, cmp.Or(p.Method, http.MethodGet), scheme+p.Address+path, nil)
	if err != nil {
		return err
	}
	request.Host = p.Host
	request.Header.Set("User-Agent", "twotier-probe")
	transport := &http.Transport{
		DialContext:            new(net.Dialer).DialContext,
		TLSClientConfig:        encryption,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // nothing more is asked of it
	return p.judge(request, response)
}

// judge tells what is wrong with an answer.
func (p HTTP) judge(request *http.Request, response *http.Response) error {
	good := response.StatusCode >= 200 && response.StatusCode <= 399
	if len(p.Statuses) > 0 {
		good = slices.Contains(p.Statuses, response.StatusCode)
	}
	what := request.Method + " " + request.URL.RequestURI()
	if !good {
		// The phrase may hold any bytes (RFC 9112 section 4), and what is no UTF-8 cannot be told over gRPC.
		status := strings.ToValidUTF8(response.Status[:min(len(response.Status), maxStatus)], "\uFFFD")
		return fmt.Errorf("%s: status %s", what, status)
	}
	if values := response.Header.Values(p.Header); p.Header != "" &&
		!slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, p.Value) }) {
		if len(values) == 0 {
			return fmt.Errorf("%s: the answer has no field %s", what, p.Header)
		}
		return fmt.Errorf("%s: the field %s does not contain %q", what, p.Header, p.Value)
	}
	if p.Body == "" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, MaxBody))
	if err != nil {
		return fmt.Errorf("%s: read the body: %w", what, err)
	}
	if !strings.Contains(string(body), p.Body) {
		return fmt.Errorf("%s: the first %d bytes of the body do not contain %q", what, len(body), p.Body)
	}
	return nil
}
