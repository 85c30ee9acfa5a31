package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/twotier/twotier/services/internal/probe"
)

// healthTimeout bounds the subcommand health.
const healthTimeout = 5 * time.Second

// checkHealth asks the service that runs with the same flags whether it works.
func (c Config) checkHealth(ctx context.Context) (err error) {
	var secured *tls.Config
	if c.files != nil {
		secured = c.files.Client()
		// The one that runs shows the same certificate as we have, whatever address it listens on.
		secured.ServerName = nameIn(c.files.Leaf())
	}
	health := probe.NewGRPCHealth(reachable(c.GRPCListen), "", secured)
	defer func() { err = errors.Join(err, health.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	return health.Probe(ctx)
}

// nameIn is a name that the certificate is valid for.
func nameIn(leaf *x509.Certificate) string {
	switch {
	case len(leaf.DNSNames) > 0:
		return leaf.DNSNames[0]
	case len(leaf.IPAddresses) > 0:
		return leaf.IPAddresses[0].String()
	}
	return ""
}

// reachable is where a listen address is reached from this machine: "every address" is the loopback.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && ip == netip.IPv4Unspecified():
		return net.JoinHostPort("127.0.0.1", port)
	case err == nil && ip == netip.IPv6Unspecified():
		return net.JoinHostPort("::1", port)
	}
	return listen
}
