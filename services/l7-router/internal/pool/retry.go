package pool

import (
	"math"
	"sync"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// budgetWindow is how long what requests have earned lasts: it fades by 1/e in this time, so that a quiet night does not pay for
// a storm in the morning.
const budgetWindow = 10 * time.Second

// budget is how many requests may be sent again after a server may have got them. It is only looked at when one is, so that
// the others cost nothing.
type budget struct {
	mu       sync.Mutex // guards what follows
	begun    bool
	left     float64 // that may be sent again now
	at       time.Time
	requests uint64 // of the backend at that time
}

// spend takes one, if there is one. requests is how many the backend has had so far.
func (b *budget) spend(r *spec.Retries, requests uint64, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	window := budgetWindow.Seconds()
	if !b.begun {
		b.begun, b.left, b.at, b.requests = true, float64(r.BudgetFloor)*window, now, requests
	}
	passed := now.Sub(b.at).Seconds()
	came := float64(max(requests, b.requests) - b.requests)
	b.left *= math.Exp(-passed / window)
	if passed > window {
		came, passed = came*window/passed, window
	}
	b.left += came*float64(r.BudgetPercent)/100 + passed*float64(r.BudgetFloor)
	b.at, b.requests = now, requests
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// Spend takes the right to send one request again that a server may have got, if the budget has any left.
func (b *Backend) Spend() bool {
	var requests uint64
	for _, s := range b.servers {
		requests += s.total.Load()
	}
	return b.group.budget.spend(&b.Retries, requests, time.Now())
}
