package metrics_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/internal/certs"
	"github.com/twotier/twotier/services/internal/certtest"
	"github.com/twotier/twotier/services/internal/door"
	"github.com/twotier/twotier/services/internal/metrics"
)

func scrape(t *testing.T, client *http.Client, url string) (string, error) {
	t.Helper()
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(answer.Body)
	return string(text), errors.Join(err, answer.Body.Close())
}

func TestScrape(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	cert, key := ca.Issue(t, "localhost", "service")
	files, err := certs.Open(cert, key, ca.File)
	if err != nil {
		t.Fatal(err)
	}
	m := metrics.New("l7-router", "0.1.0")
	endpoint, err := metrics.Server("127.0.0.1:0", files.Server(), m)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- endpoint.Run(ctx) }()
	url := "https://" + endpoint.Addr().String() + "/metrics"

	known := &http.Transport{TLSClientConfig: ca.Client(t, "prometheus", "viewer")}
	defer known.CloseIdleConnections()
	text, err := scrape(t, &http.Client{Transport: known}, url)
	if err != nil || !strings.Contains(text, `twotier_build_info{service="l7-router",version="0.1.0"} 1`) || !strings.Contains(text, "go_goroutines") {
		t.Errorf("%v\n%s", err, text)
	}
	stranger := &http.Transport{TLSClientConfig: ca.Client(t, "", "")}
	defer stranger.CloseIdleConnections()
	if text, err := scrape(t, &http.Client{Transport: stranger}, url); err == nil {
		t.Errorf("without a certificate: %s", text)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestDoors(t *testing.T) {
	t.Parallel()
	m := metrics.New("s", "v")
	if _, err := metrics.Server("0.0.0.0:0", nil, m); !errors.Is(err, door.ErrOpenDoor) {
		t.Errorf("open door: %v", err)
	}
	off, err := metrics.Server("", nil, m)
	if err != nil || off.Addr() != nil {
		t.Errorf("off: %v %v", off, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := off.Run(ctx); err != nil {
		t.Error(err)
	}
}
