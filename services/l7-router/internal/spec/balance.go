package spec

import (
	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

// Algorithm is how a backend chooses among its usable servers.
type Algorithm uint8

// The algorithms; the names in brackets are HAProxy's (configuration manual, "balance").
const (
	RoundRobin Algorithm = iota // by turns, smoothly (roundrobin)
	StaticRR                    // by turns out of a table (static-rr)
	LeastConn                   // fewest requests under way for its weight (leastconn)
	First                       // the first that has a free slot (first)
	Source                      // by the client's address (source)
	URI                         // by the request's target (uri)
	ByHeader                    // by the value of a header field (hdr)
	Random                      // the less loaded of two drawn at random (random)
	PeakEWMA                    // the one that is expected to answer first, of two drawn at random
)

// String is HAProxy's name, where it has one.
func (a Algorithm) String() string {
	return [...]string{"roundrobin", "static-rr", "leastconn", "first", "source", "uri", "hdr", "random", "peak-ewma"}[a]
}

// HashType is how a hash becomes a server.
type HashType uint8

// The types of hash; the names in brackets are HAProxy's (configuration manual, "hash-type").
const (
	HashMap        HashType = iota // modulo the sum of the weights (map-based)
	HashConsistent                 // the nearest point on a ring (consistent)
	HashMaglev                     // a table that every server fills by its own permutation
)

// HashFunction makes a hash of text.
type HashFunction uint8

// The functions, by HAProxy's names.
const (
	SDBM HashFunction = iota
	DJB2
	WT6
	CRC32
)

// Limits of what a hash is made of.
const (
	// MaxHashDepth is the most folders of a path.
	MaxHashDepth = 100
	// MaxHashLength is the most bytes of a target.
	MaxHashLength = 64 << 10
)

// Balance is how a backend chooses, and what by.
type Balance struct {
	Algorithm Algorithm
	// What follows counts for Source, URI and ByHeader only.
	Hash     HashType
	Function HashFunction
	// Avalanche mixes the bits of the hash once more.
	Avalanche bool
	// Header is the name of the field, for ByHeader.
	Header string
	// Whole: with the query; PathOnly: without scheme and authority. Depth is how many folders count, Length how many
	// bytes, 0: all. For URI.
	Whole, PathOnly bool
	Depth, Length   int
}

// Keyed reports whether the choice goes by something in the request.
func (b *Balance) Keyed() bool {
	return b.Algorithm == Source || b.Algorithm == URI || b.Algorithm == ByHeader
}

var algorithms = map[routerv1.Balance]Algorithm{
	routerv1.Balance_BALANCE_UNSPECIFIED: RoundRobin,
	routerv1.Balance_BALANCE_ROUNDROBIN:  RoundRobin,
	routerv1.Balance_BALANCE_STATIC_RR:   StaticRR,
	routerv1.Balance_BALANCE_LEASTCONN:   LeastConn,
	routerv1.Balance_BALANCE_FIRST:       First,
	routerv1.Balance_BALANCE_SOURCE:      Source,
	routerv1.Balance_BALANCE_URI:         URI,
	routerv1.Balance_BALANCE_HEADER:      ByHeader,
	routerv1.Balance_BALANCE_RANDOM:      Random,
	routerv1.Balance_BALANCE_PEAK_EWMA:   PeakEWMA,
}

var hashTypes = map[routerv1.HashType]HashType{
	routerv1.HashType_HASH_TYPE_UNSPECIFIED: HashMap,
	routerv1.HashType_HASH_TYPE_MAP_BASED:   HashMap,
	routerv1.HashType_HASH_TYPE_CONSISTENT:  HashConsistent,
	routerv1.HashType_HASH_TYPE_MAGLEV:      HashMaglev,
}

var hashFunctions = map[routerv1.HashFunction]HashFunction{
	routerv1.HashFunction_HASH_FUNCTION_UNSPECIFIED: SDBM,
	routerv1.HashFunction_HASH_FUNCTION_SDBM:        SDBM,
	routerv1.HashFunction_HASH_FUNCTION_DJB2:        DJB2,
	routerv1.HashFunction_HASH_FUNCTION_WT6:         WT6,
	routerv1.HashFunction_HASH_FUNCTION_CRC32:       CRC32,
}

// balance reads how a backend chooses.
func (p *parser) balance(path string, m *routerv1.Backend) Balance {
	b := Balance{}
	known := false
	if b.Algorithm, known = algorithms[m.GetBalance()]; !known {
		p.refuse(path+".balance", "not a known way to balance: %v", m.GetBalance())
	}
	h, at := m.GetHash(), path+".hash"
	if h != nil && !b.Keyed() {
		p.refuse(at, "balance %v makes no hash", m.GetBalance())
	}
	if b.Hash, known = hashTypes[h.GetType()]; !known {
		p.refuse(at+".type", "not a known type of hash: %v", h.GetType())
	}
	if b.Function, known = hashFunctions[h.GetFunction()]; !known {
		p.refuse(at+".function", "not a known function: %v", h.GetFunction())
	}
	// HAProxy: a consistent hash without a function named is mixed.
	b.Avalanche = h.GetAvalanche() || b.Hash == HashConsistent && h.GetFunction() == routerv1.HashFunction_HASH_FUNCTION_UNSPECIFIED
	b.Header, b.Whole, b.PathOnly = h.GetHeader(), h.GetUriWhole(), h.GetUriPathOnly()
	switch {
	case b.Algorithm == ByHeader && (!token(b.Header) || len(b.Header) > MaxName):
		p.refuse(at+".header", "want the name of a header of 1 to %d characters, such as User-Agent, got %q", MaxName, b.Header)
	case b.Algorithm != ByHeader && b.Header != "":
		p.refuse(at+".header", "balance %v does not go by a header", m.GetBalance())
	}
	if b.Algorithm != URI && (b.Whole || b.PathOnly || h.GetUriDepth() != 0 || h.GetUriLen() != 0) {
		p.refuse(at, "uri_whole, uri_path_only, uri_depth and uri_len are for balance uri only")
	}
	b.Depth = p.number(at+".uri_depth", h.GetUriDepth(), 0, MaxHashDepth)
	b.Length = p.number(at+".uri_len", h.GetUriLen(), 0, MaxHashLength)
	return b
}
