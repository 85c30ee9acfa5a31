package spec

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

const (
	// MaxNetworks is the most networks of an AcceptProxy.
	MaxNetworks = 256
	// DefaultAcceptTimeout is how long a PROXY header may take to come.
	DefaultAcceptTimeout = 3 * time.Second
)

// AcceptProxy says whose PROXY headers are believed; the zero value is a frontend whose connections begin with none.
type AcceptProxy struct {
	// From holds the networks of those who send one; others are refused.
	From []netip.Prefix
	// Timeout is how long it may take to come.
	Timeout time.Duration
}

// Wanted reports whether connections begin with a header at all.
func (a *AcceptProxy) Wanted() bool { return len(a.From) > 0 }

// Trusts reports whether the header of a sender is believed.
func (a *AcceptProxy) Trusts(sender netip.Addr) bool {
	sender = sender.Unmap().WithZone("")
	return slices.ContainsFunc(a.From, func(p netip.Prefix) bool { return p.Contains(sender) })
}

// SendProxy is the version of the PROXY header that a connection to a server begins with.
type SendProxy uint8

// The versions.
const (
	SendProxyNone SendProxy = iota
	SendProxyV1
	SendProxyV2
)

func (p *parser) acceptProxy(path string, m *routerv1.AcceptProxy) AcceptProxy {
	if m == nil {
		return AcceptProxy{}
	}
	a := AcceptProxy{Timeout: p.duration(path+".timeout", m.GetTimeout(), DefaultAcceptTimeout, time.Millisecond, time.Minute)}
	if n := len(m.GetFrom()); n == 0 || n > MaxNetworks {
		p.refuse(path+".from", "want 1 to %d networks, got %d", MaxNetworks, n)
	}
	for i, text := range m.GetFrom() {
		prefix, err := netip.ParsePrefix(text)
		if err != nil || prefix != prefix.Masked() {
			p.refuse(fmt.Sprintf("%s.from[%d]", path, i), "want a network such as 10.10.60.0/24 or fd00::/64, got %q", text)
			continue
		}
		a.From = append(a.From, prefix)
	}
	return a
}

func (p *parser) sendProxy(path string, m routerv1.SendProxy) SendProxy {
	switch m {
	case routerv1.SendProxy_SEND_PROXY_UNSPECIFIED:
	case routerv1.SendProxy_SEND_PROXY_V1:
		return SendProxyV1
	case routerv1.SendProxy_SEND_PROXY_V2:
		return SendProxyV2
	default:
		p.refuse(path, "not a known version: %v", m)
	}
	return SendProxyNone
}
