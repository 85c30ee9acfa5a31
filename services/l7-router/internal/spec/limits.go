package spec

import (
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

// Bounds of what may be wanted as limits. The hard ones of a head are those of http1, which this room does not know.
const (
	// MinHeadBytes and MaxHeadBytes bound the limit of a head.
	MinHeadBytes, MaxHeadBytes = 1 << 10, 64 << 10
	// MinTargetBytes is the least limit of a target.
	MinTargetBytes = 64
	// MaxFields is the largest limit of fields.
	MaxFields = 100
	// MaxRate is the largest pace that can be asked of a client, in bytes per second.
	MaxRate = 1 << 30
	// MinGrace is the least time for which a client may be slow.
	MinGrace = 100 * time.Millisecond
	// DefaultRate is the pace that is asked of clients, in bytes per second, in both directions: what Apache asks.
	DefaultRate = 500
)

// Limits are what a client may send, and how slowly. The zero value limits nothing.
type Limits struct {
	// HeadBytes, TargetBytes and Fields bound a request's head; 0: the hard bounds of http1 only.
	HeadBytes, TargetBytes, Fields int
	// BodyBytes bounds a request's body; 0: any number.
	BodyBytes int64
	// BodyRate and DrainRate are the least pace of a request's body and of the client as it takes a response, in bytes per
	// second; 0: any pace.
	BodyRate, DrainRate int
	// Grace is how long a client may be slower.
	Grace time.Duration
	// TimeoutBody is how long the whole body of a request may take; 0: as long as it likes.
	TimeoutBody time.Duration
}

func (p *parser) limits(path string, m *routerv1.Limits, timeoutClient time.Duration) Limits {
	l := Limits{
		HeadBytes: p.within(path+".head_bytes", m.GetHeadBytes(), MinHeadBytes, MaxHeadBytes, MaxHeadBytes),
		Fields:    p.within(path+".fields", m.GetFields(), 1, MaxFields, MaxFields),
		BodyRate:  DefaultRate, DrainRate: DefaultRate,
		Grace: p.duration(path+".slow_grace", m.GetSlowGrace(), max(timeoutClient, MinGrace), MinGrace, MaxTimeout),
	}
	l.TargetBytes = p.within(path+".target_bytes", m.GetTargetBytes(), MinTargetBytes, MaxHeadBytes, l.HeadBytes)
	if m.GetBodyBytes() > 1<<62 {
		p.refuse(path+".body_bytes", "want at most %d, got %d", int64(1)<<62, m.GetBodyBytes())
	}
	l.BodyBytes = int64(min(m.GetBodyBytes(), 1<<62))
	if m != nil && m.MinBodyRate != nil {
		l.BodyRate = p.rate(path+".min_body_rate", m.GetMinBodyRate())
	}
	if m != nil && m.MinDrainRate != nil {
		l.DrainRate = p.rate(path+".min_drain_rate", m.GetMinDrainRate())
	}
	l.TimeoutBody = p.duration(path+".timeout_body", m.GetTimeoutBody(), 0, 0, MaxTimeout)
	return l
}

// within takes 0 as left out.
func (p *parser) within(path string, n uint32, least, most, otherwise int) int {
	switch {
	case n == 0:
		return otherwise
	case uint64(n) < uint64(least), uint64(n) > uint64(most):
		p.refuse(path, "want %d to %d, got %d", least, most, n)
		return otherwise
	}
	return int(n)
}

func (p *parser) rate(path string, n uint32) int {
	if n > MaxRate {
		p.refuse(path, "want at most %d bytes per second, got %d", MaxRate, n)
		return DefaultRate
	}
	return int(n)
}
