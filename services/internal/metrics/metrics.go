// Package metrics serves the counters of a service to Prometheus.
package metrics

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/twotier/twotier/services/internal/door"
)

// Metrics is the registry of one service. It starts with the Go runtime, the process and twotier_build_info.
type Metrics struct {
	registry *prometheus.Registry
}

// New makes the registry.
func New(service, version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "twotier_build_info",
		Help:        "Always 1; the labels tell what is running.",
		ConstLabels: prometheus.Labels{"service": service, "version": version},
	})
	build.Set(1)
	m.registry.MustRegister(
		build,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Registry is where a room registers its own.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// Endpoint serves GET /metrics.
type Endpoint struct {
	listener net.Listener // nil: off
	plain    net.Listener // the same without TLS
	server   *http.Server
}

// Server opens the listener; Run serves it and closes it. Empty listen is off. As everywhere, an address that others can
// reach needs TLS with client certificates; any certificate of the platform's CA may read. inherited, if there is one that is
// not nil, is the socket of a process whose place this one takes.
func Server(listen string, tlsConfig *tls.Config, m *Metrics, inherited ...*os.File) (*Endpoint, error) {
	if listen == "" {
		return &Endpoint{}, nil
	}
	if tlsConfig != nil && tlsConfig.ClientAuth != tls.RequireAndVerifyClientCert {
		return nil, errors.New("metrics: TLS without required client certificates")
	}
	open := func() (net.Listener, error) { return door.Listen(listen, tlsConfig != nil) }
	if len(inherited) > 0 && inherited[0] != nil {
		open = func() (net.Listener, error) { return door.Inherit(inherited[0]) }
	}
	listener, err := open()
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	plain := listener
	if tlsConfig != nil {
		listener = tls.NewListener(listener, tlsConfig)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	return &Endpoint{listener: listener, plain: plain, server: &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}}, nil
}

// Addr is the address that it listens on; nil when it is off.
func (e *Endpoint) Addr() net.Addr {
	if e.listener == nil {
		return nil
	}
	return e.listener.Addr()
}

// File is another descriptor of the listening socket, for a process that takes the place of this one; nil: it is off.
func (e *Endpoint) File() (*os.File, error) {
	if e.plain == nil {
		return nil, nil
	}
	return door.File(e.plain)
}

// Run serves until ctx ends, which is no error.
func (e *Endpoint) Run(ctx context.Context) error {
	if e.listener == nil {
		<-ctx.Done()
		return nil
	}
	served := make(chan error, 1)
	go func() { served <- e.server.Serve(e.listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	// A scrape that is cut off is tried again; nothing is worth waiting for.
	err := e.server.Close()
	if served := <-served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
