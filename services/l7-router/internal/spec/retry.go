package spec

import (
	"cmp"
	"slices"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

// Limits and defaults of retries and of the passive judgement of servers.
const (
	MaxAttempts              = 255
	MaxBudgetFloor           = 10000
	DefaultBudgetPercent     = 20
	DefaultBudgetFloor       = 10
	MaxErrorLimit            = 1000
	DefaultErrorLimit        = 10
	DefaultEjection          = 10 * time.Second
	DefaultMaxEjection       = 5 * time.Minute
	DefaultMaxEjectedPercent = 50
)

// Failure is how a server has failed a request that it may have got.
type Failure uint8

// The failures, in bits.
const (
	FailureEmpty   Failure = 1 << iota // it ended the connection before a response
	FailureJunk                        // what it sent is no response
	FailureTimeout                     // it was silent
)

// Retries say which requests go to another server.
type Retries struct {
	// Attempts is the most further servers for one request.
	Attempts int
	// BudgetPercent of the requests, and BudgetFloor a second in any case, may be sent again after a server may have got them.
	BudgetPercent, BudgetFloor int
	// On holds the failures after which a request is sent again, Statuses the statuses, in order.
	On       Failure
	Statuses []int
}

// DefaultRetries are those of a backend that says nothing of them.
func DefaultRetries() Retries {
	return Retries{Attempts: MaxAttempts, BudgetPercent: DefaultBudgetPercent, BudgetFloor: DefaultBudgetFloor, On: FailureEmpty | FailureJunk}
}

// OnError is what is done about a server with too many errors.
type OnError uint8

// What is done.
const (
	OnErrorEject OnError = iota
	OnErrorFastCheck
	OnErrorFailCheck
	OnErrorSuddenDeath
	OnErrorMarkDown
)

// Passive judges servers by what becomes of requests. The zero value does not.
type Passive struct {
	// Limit is how many errors in a row are too many; 0: they are not counted.
	Limit int
	// Layer7 counts what is wrong with responses too, not only connections that fail.
	Layer7  bool
	OnError OnError
	// Ejection is how long a server is out at first, MaxEjection at most, and MaxEjected the most servers that are, in percent.
	Ejection, MaxEjection time.Duration
	MaxEjected            int
}

func (p *parser) retries(path string, m *routerv1.Retries) *Retries {
	if m == nil {
		return nil
	}
	r := DefaultRetries()
	r.Attempts = p.optional(path+".attempts", m.Attempts, r.Attempts, MaxAttempts)
	r.BudgetPercent = p.optional(path+".budget_percent", m.BudgetPercent, r.BudgetPercent, 100)
	r.BudgetFloor = p.optional(path+".budget_floor", m.BudgetFloor, r.BudgetFloor, MaxBudgetFloor)
	if len(m.GetOn()) > 0 {
		r.On = 0
	}
	for i, on := range m.GetOn() {
		failure, known := map[routerv1.RetryOn]Failure{
			routerv1.RetryOn_RETRY_ON_CONNECT_FAILURE:  0,
			routerv1.RetryOn_RETRY_ON_EMPTY_RESPONSE:   FailureEmpty,
			routerv1.RetryOn_RETRY_ON_JUNK_RESPONSE:    FailureJunk,
			routerv1.RetryOn_RETRY_ON_RESPONSE_TIMEOUT: FailureTimeout,
		}[on]
		switch {
		case !known:
			p.refuse(indexed(path+".on", i), "not a known failure: %v", on)
		case failure == 0 && len(m.GetOn()) > 1:
			p.refuse(indexed(path+".on", i), "%v stands alone", on)
		case failure != 0 && r.On&failure != 0:
			p.refuse(indexed(path+".on", i), "%v stands above", on)
		}
		r.On |= failure
	}
	for i, status := range m.GetStatuses() {
		if (status < 500 || status > 599) && !slices.Contains([]uint32{401, 403, 404, 408, 425, 429}, status) {
			p.refuse(indexed(path+".statuses", i), "want 401, 403, 404, 408, 425, 429 or 500 to 599, got %d", status)
		} else if slices.Contains(r.Statuses, int(status)) {
			p.refuse(indexed(path+".statuses", i), "%d stands above", status)
		} else {
			r.Statuses = append(r.Statuses, int(status))
		}
	}
	slices.Sort(r.Statuses)
	return &r
}

func (p *parser) passive(path string, m *routerv1.Passive, checked bool) Passive {
	if m == nil {
		return Passive{}
	}
	s := Passive{
		Limit:       p.number(path+".error_limit", m.GetErrorLimit(), DefaultErrorLimit, MaxErrorLimit),
		Ejection:    p.duration(path+".ejection", m.GetEjection(), DefaultEjection, 100*time.Millisecond, time.Hour),
		MaxEjection: p.duration(path+".max_ejection", m.GetMaxEjection(), DefaultMaxEjection, 100*time.Millisecond, 24*time.Hour),
		MaxEjected:  p.optional(path+".max_ejected_percent", m.MaxEjectedPercent, DefaultMaxEjectedPercent, 100),
	}
	switch m.GetObserve() {
	case routerv1.Observe_OBSERVE_UNSPECIFIED, routerv1.Observe_OBSERVE_LAYER4:
	case routerv1.Observe_OBSERVE_LAYER7:
		s.Layer7 = true
	default:
		p.refuse(path+".observe", "not known: %v", m.GetObserve())
	}
	action, known := map[routerv1.OnError]OnError{
		routerv1.OnError_ON_ERROR_UNSPECIFIED:  OnErrorEject,
		routerv1.OnError_ON_ERROR_EJECT:        OnErrorEject,
		routerv1.OnError_ON_ERROR_FAST_CHECK:   OnErrorFastCheck,
		routerv1.OnError_ON_ERROR_FAIL_CHECK:   OnErrorFailCheck,
		routerv1.OnError_ON_ERROR_SUDDEN_DEATH: OnErrorSuddenDeath,
		routerv1.OnError_ON_ERROR_MARK_DOWN:    OnErrorMarkDown,
	}[m.GetOnError()]
	if s.OnError = action; !known {
		p.refuse(path+".on_error", "not known: %v", m.GetOnError())
	} else if action != OnErrorEject && !checked {
		p.refuse(path+".on_error", "without a check nothing would bring the server back; want ON_ERROR_EJECT")
	}
	if s.OnError != OnErrorEject && cmp.Or(m.GetEjection(), m.GetMaxEjection()) != nil {
		p.refuse(path+".ejection", "no server is ejected")
	}
	if s.Ejection > s.MaxEjection {
		p.refuse(path+".ejection", "want at most max_ejection, %v, got %v", s.MaxEjection, s.Ejection)
	}
	return s
}

// optional takes nothing as left out, and 0 as 0.
func (p *parser) optional(path string, n *uint32, otherwise, most int) int {
	if n == nil {
		return otherwise
	}
	if uint64(*n) > uint64(most) {
		p.refuse(path, "want 0 to %d, got %d", most, *n)
		return otherwise
	}
	return int(*n)
}
