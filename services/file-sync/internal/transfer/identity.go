package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// errNoTLS says that a connection between machines would not be protected.
var errNoTLS = errors.New("a target address that is not loopback needs certificates (--tls-cert, --tls-key, --tls-ca)")

// mayGoWithoutTLS refuses to go without certificates over a network.
func mayGoWithoutTLS(address netip.AddrPort, config *tls.Config) error {
	if config == nil && !address.Addr().IsLoopback() {
		return errNoTLS
	}
	return nil
}

// asServer shakes hands with a peer that must be the node want. Without a configuration there is nothing to check.
func asServer(ctx context.Context, raw net.Conn, config *tls.Config, want string) (net.Conn, error) {
	if config == nil {
		return raw, nil
	}
	config = config.Clone()
	config.MinVersion = tls.VersionTLS13
	c := tls.Server(raw, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return c, checkPeer(c.ConnectionState(), want)
}

// asClient shakes hands with a peer that must be the node want.
func asClient(ctx context.Context, raw net.Conn, config *tls.Config, want string) (net.Conn, error) {
	if config == nil {
		return raw, nil
	}
	config = config.Clone()
	config.MinVersion = tls.VersionTLS13
	config.ServerName = want
	c := tls.Client(raw, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return c, checkPeer(c.ConnectionState(), want)
}

// checkPeer looks at a certificate that crypto/tls has verified: it must carry the node's name itself, as a DNS name or
// as its common name. A wildcard is not a node.
func checkPeer(state tls.ConnectionState, want string) error {
	if state.Version < tls.VersionTLS13 {
		return errors.New("the peer does not speak TLS 1.3")
	}
	if len(state.PeerCertificates) == 0 {
		return errors.New("the peer showed no certificate")
	}
	leaf := state.PeerCertificates[0]
	if leaf.Subject.CommonName != want && !slices.Contains(leaf.DNSNames, want) {
		return fmt.Errorf("the peer's certificate is for %q %q, want node %s", leaf.Subject.CommonName, leaf.DNSNames, want)
	}
	return nil
}
