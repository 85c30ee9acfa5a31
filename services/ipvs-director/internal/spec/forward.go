package spec

import (
	"fmt"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
)

// Method is how packets reach a real server.
type Method uint8

// The methods.
const (
	// Masquerade rewrites the destination; replies come back through the director.
	Masquerade Method = iota
	// Direct sends the packet unchanged to the network card of the real server.
	Direct
	// ByTunnel sends it unchanged within another packet.
	ByTunnel
)

// TunnelType is what a packet is wrapped in.
type TunnelType uint8

// The types of tunnel, with the numbers that the kernel has for them (IP_VS_CONN_F_TUNNEL_TYPE_... of
// include/uapi/linux/ip_vs.h).
const (
	IPIP TunnelType = iota
	GUE
	GRE
)

// TunnelChecksum is how the outer packet is checked.
type TunnelChecksum uint8

// The checksums of the outer packet.
const (
	NoChecksum TunnelChecksum = iota
	WholeChecksum
	RemoteChecksum
)

// Forward is how packets reach a real server. It can be compared; the zero value is masquerading.
type Forward struct {
	Method Method
	// Tunnel, Port (of GUE) and Checksum are zero for other methods than ByTunnel.
	Tunnel   TunnelType
	Port     uint16
	Checksum TunnelChecksum
}

// String is how people read it. Examples: masquerade, direct, tunnel ipip, tunnel gue:6080 csum
func (f Forward) String() string {
	switch f.Method {
	case Direct:
		return "direct"
	case ByTunnel:
		s := "tunnel " + [...]string{IPIP: "ipip", GUE: "gue", GRE: "gre"}[f.Tunnel]
		if f.Port != 0 {
			s += fmt.Sprintf(":%d", f.Port)
		}
		return s + [...]string{NoChecksum: "", WholeChecksum: " csum", RemoteChecksum: " remcsum"}[f.Checksum]
	}
	return "masquerade"
}

// feature is what a plane needs to have for it; empty: nothing.
func (f Forward) feature() Feature {
	switch f.Method {
	case Direct:
		return FeatureDirect
	case ByTunnel:
		return [...]Feature{IPIP: FeatureIPIP, GUE: FeatureGUE, GRE: FeatureGRE}[f.Tunnel]
	}
	return ""
}

// forward reads a method and its tunnel.
func (p *parser) forward(path string, method directorv1.Forwarding, tunnel *directorv1.Tunnel) (f Forward) {
	switch method {
	case directorv1.Forwarding_FORWARDING_UNSPECIFIED, directorv1.Forwarding_FORWARDING_MASQUERADE:
	case directorv1.Forwarding_FORWARDING_DIRECT:
		f.Method = Direct
	case directorv1.Forwarding_FORWARDING_TUNNEL:
		f.Method = ByTunnel
	default:
		p.bad(path+".forwarding", "want masquerade, direct or tunnel, got %s", method)
	}
	if f.Method != ByTunnel {
		if tunnel != nil {
			p.bad(path+".tunnel", "there is a tunnel with FORWARDING_TUNNEL only")
		}
		return f
	}
	at := path + ".tunnel"
	switch tunnel.GetType() {
	case directorv1.TunnelType_TUNNEL_TYPE_UNSPECIFIED, directorv1.TunnelType_TUNNEL_TYPE_IPIP:
	case directorv1.TunnelType_TUNNEL_TYPE_GUE:
		f.Tunnel = GUE
	case directorv1.TunnelType_TUNNEL_TYPE_GRE:
		f.Tunnel = GRE
	default:
		p.bad(at+".type", "want IPIP, GUE or GRE, got %s", tunnel.GetType())
	}
	switch {
	case f.Tunnel == GUE:
		f.Port = p.port(at+".port", tunnel.GetPort())
	case tunnel.GetPort() != 0:
		p.bad(at+".port", "GUE alone has a port")
	}
	switch tunnel.GetChecksum() {
	case directorv1.TunnelChecksum_TUNNEL_CHECKSUM_UNSPECIFIED, directorv1.TunnelChecksum_TUNNEL_CHECKSUM_NONE:
	case directorv1.TunnelChecksum_TUNNEL_CHECKSUM_WHOLE:
		f.Checksum = WholeChecksum
	case directorv1.TunnelChecksum_TUNNEL_CHECKSUM_REMOTE:
		f.Checksum = RemoteChecksum
		if f.Tunnel != GUE {
			p.bad(at+".checksum", "remote checksum offload is with GUE only")
		}
	default:
		p.bad(at+".checksum", "want none, whole or remote, got %s", tunnel.GetChecksum())
	}
	if f.Tunnel == IPIP && f.Checksum != NoChecksum {
		p.bad(at+".checksum", "IPIP has none")
	}
	return f
}
