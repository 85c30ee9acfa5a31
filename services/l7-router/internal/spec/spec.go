// Package spec says what is wanted of the router: it turns desired messages into checked values with every default filled in.
package spec

import (
	"net/netip"
	"time"
)

// State is everything that is wanted, in the order of names.
type State struct {
	Frontends []Frontend
	Backends  []Backend
}

// Frontend accepts connections and chooses a backend for each request.
type Frontend struct {
	Name string
	// Bind holds the addresses to listen on. The zero Addr stands for every address, IPv4 and IPv6.
	Bind []netip.AddrPort
	// BindTLS holds those on which TLS is spoken, as TLS says.
	BindTLS []netip.AddrPort
	TLS     TLS
	HTTP2   HTTP2
	// AcceptProxy says whether connections begin with a PROXY header.
	AcceptProxy AcceptProxy
	// Rules are asked in order; edits add up, and the first other one that holds decides.
	Rules []Rule
	// Forwarded is what servers are told of the client.
	Forwarded Forwarded
	// DefaultBackend takes what no rule claims; empty: such a request gets 503.
	DefaultBackend string
	// TimeoutClient is how long a client may stay silent while a message is under way.
	TimeoutClient time.Duration
	// TimeoutClientFin is the same for a connection that is closed in one direction; 0: nothing else than before.
	TimeoutClientFin time.Duration
	// TimeoutRequest is how long a client may take to send a whole head.
	TimeoutRequest time.Duration
	// TimeoutKeepAlive is how long an idle connection is kept.
	TimeoutKeepAlive time.Duration
	// MaxConn is the most connections at a time.
	MaxConn int
	// Stats is the statistics page, AccessLog where requests are logged; the zero values are neither.
	Stats     StatsPage
	AccessLog AccessLog
	// Limits are what a client may send, and how slowly.
	Limits Limits
}

// Backend is a group of servers that can each answer the same requests.
type Backend struct {
	Name    string
	Servers []Server
	// Balance is how the server of a request is chosen.
	Balance Balance
	// AllBackups: when no other server is usable every backup takes its share, not only the first.
	AllBackups bool
	// TimeoutQueue is how long a request may wait for a server that has a free slot.
	TimeoutQueue time.Duration
	// Persist: a cookie that names a server that is down counts all the same.
	Persist bool
	// Cookie keeps a client on one server; the zero value does not.
	Cookie Cookie
	// Check tells the living servers from the dead; the zero value does not check.
	Check Check
	// H2C: the servers speak HTTP/2 in cleartext.
	H2C bool
	// Retries say which requests go to a second server; nil: as DefaultRetries.
	Retries *Retries
	// Passive judges servers by what becomes of requests; the zero value does not.
	Passive Passive
	// Panic is the share of usable servers, in percent, below which all get requests; 0: never.
	Panic int
	// CutWhenDown: what is under way with a server is cut when it goes down.
	CutWhenDown bool
	// TimeoutConnect is how long connecting to a server may take.
	TimeoutConnect time.Duration
	// TimeoutServer is how long a server may stay silent while a message is under way.
	TimeoutServer time.Duration
	// TimeoutServerFin is the same for a tunnel that is closed in one direction; 0: nothing else than before.
	TimeoutServerFin time.Duration
	// TimeoutTunnel is how long both sides of a tunnel may stay silent; 0: the longer one of TimeoutClient and TimeoutServer.
	TimeoutTunnel time.Duration
}

// Server is one machine behind a backend.
type Server struct {
	Name    string
	Address netip.AddrPort
	// Weight is its share of the requests, 0 to 256; 0: only those whose cookie names it.
	Weight int
	// Backup servers are used only when no other is usable.
	Backup bool
	// MaxConn is the most requests under way, 0: any number; the rest waits.
	MaxConn int
	// MaxQueue is the most requests that wait for this server and no other, 0: as many as come.
	MaxQueue int
	// SlowStart is how long its share grows after it has come back, 0: it has all of it at once.
	SlowStart time.Duration
	// Cookie is the value that names this server; empty: none.
	Cookie string
	// Admin is what the operator wants of it, as long as nothing else is asked for at run time.
	Admin Admin
	// Check is how it is checked otherwise than the backend's check says; Backend.CheckOf joins the two.
	Check ServerCheck
	// SendProxy says whether connections to it begin with a PROXY header.
	SendProxy SendProxy
}

// Admin is what the operator wants of a server.
type Admin uint8

// The wishes.
const (
	AdminReady Admin = iota // it takes requests
	AdminDrain              // only those whose cookie names it
	AdminMaint              // none, and it is not checked
)

// String is the word in which it is asked for.
func (a Admin) String() string { return [...]string{"ready", "drain", "maint"}[a] }

// BindString prints an address to listen on as it is configured.
func BindString(a netip.AddrPort) string {
	if !a.Addr().IsValid() {
		return "*:" + netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port()).String()[len("0.0.0.0:"):]
	}
	return a.String()
}
