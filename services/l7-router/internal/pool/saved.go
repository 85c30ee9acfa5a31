package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/internal/wholefile"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

const (
	// savedFormat is the format of the file.
	savedFormat = 1
	// maxSavedBytes is the most that is read of it.
	maxSavedBytes = 16 << 20
	// rememberFor is how long a server is remembered that is not wanted.
	rememberFor = 7 * 24 * time.Hour
	// savePause is the shortest pause between two writes.
	savePause = 250 * time.Millisecond
)

// saved is the file.
type saved struct {
	Format  int      `json:"format"`
	Servers []record `json:"servers"`
}

// record is one server of which there is something to remember.
type record struct {
	Backend string    `json:"backend"`
	Server  string    `json:"server"`
	Address string    `json:"address"`
	Changed time.Time `json:"changed"`
	// What was asked of it, and what desired state said then.
	Admin      *spec.Admin `json:"admin,omitempty"`
	AdminOver  spec.Admin  `json:"admin_over,omitempty"`
	Weight     *int        `json:"weight,omitempty"`
	WeightOver int         `json:"weight_over,omitempty"`
	ChecksOff  bool        `json:"checks_off,omitempty"`
	// Down: its checks failed, or it was made to be down.
	Down bool `json:"down,omitempty"`
}

func (r *record) override() override {
	var o override
	if r.Admin != nil && *r.Admin <= spec.AdminMaint {
		o.wanted, o.wantedOver, o.wantedSet = *r.Admin, r.AdminOver, true
	}
	if r.Weight != nil && *r.Weight >= 0 && *r.Weight <= spec.MaxWeight {
		o.weight, o.weightOver, o.weightSet = *r.Weight, r.WeightOver, true
	}
	return o
}

// recorded is what is to be remembered of a server; false: nothing.
func (l *live) recorded() (record, bool) {
	r := record{Backend: l.backend.Spec.Name, Server: l.server.Spec.Name, Address: l.Address(), Changed: time.Now().Truncate(time.Second)}
	if l.override.wantedSet {
		r.Admin, r.AdminOver = new(l.override.wanted), l.override.wantedOver // a copy: it is written without the lock
	}
	if l.override.weightSet {
		r.Weight, r.WeightOver = new(l.override.weight), l.override.weightOver
	}
	r.ChecksOff, r.Down = l.vitals.checksOff, l.vitals.health() == Down
	return r, r.Admin != nil || r.Weight != nil || r.ChecksOff || r.Down
}

// Open makes an empty pool whose servers' states outlast the process in a file: what was asked of them at run time, and
// which were down. A file that cannot be read is told in the log, and replaced at the next change.
func Open(log *zap.Logger, path string) *Pool {
	p := New(log)
	p.path = path
	remembered, err := load(path)
	if err != nil {
		p.log.Warn("the states of servers of the process before are not known", logging.Path(path), zap.Error(err))
	}
	p.remembered = slices.DeleteFunc(remembered, func(r record) bool { return time.Since(r.Changed) > rememberFor })
	return p
}

func load(path string) ([]record, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSavedBytes {
		return nil, fmt.Errorf("%d bytes, want %d at most", info.Size(), maxSavedBytes)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var s saved
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	if s.Format != savedFormat {
		return nil, fmt.Errorf("format %d, want %d", s.Format, savedFormat)
	}
	return s.Servers, nil
}

// recall takes out what is remembered of a server. The caller holds p.mu.
func (p *Pool) recall(backend string, s *spec.Server) record {
	at := slices.IndexFunc(p.remembered, func(r record) bool { return r.Backend == backend && r.Server == s.Name })
	if at < 0 {
		return record{}
	}
	r := p.remembered[at]
	p.remembered = slices.Delete(p.remembered, at, at+1)
	r.Down = r.Down && r.Address == s.Address.String() // another machine does not feel like it
	return r
}

// save has the states written down soon.
func (p *Pool) save() {
	select {
	case p.dirty <- struct{}{}:
	default: // they will be
	}
}

// saving writes the states down whenever they have changed, until ctx ends, and then once more.
func (p *Pool) saving(ctx context.Context) {
	if p.path == "" {
		return
	}
	failing := false
	write := func() {
		err := p.write()
		if err != nil && !failing {
			p.log.Warn("the states of servers are not kept for a restart", logging.Path(p.path), zap.Error(err))
		}
		failing = err != nil
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.dirty:
			write()
		case <-ctx.Done():
			select {
			case <-p.dirty:
				write()
			default:
			}
			return
		}
		timer.Reset(savePause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// write replaces the file as a whole: after a crash there is the old one or the new one.
func (p *Pool) write() error {
	if p.left.Load() {
		return nil
	}
	s := saved{Format: savedFormat, Servers: []record{}}
	p.mu.Lock()
	for _, b := range p.backends {
		for _, server := range b.servers {
			if r, ok := server.recorded(); ok {
				s.Servers = append(s.Servers, r)
			}
		}
	}
	s.Servers = append(s.Servers, p.remembered...)
	p.mu.Unlock()
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	return wholefile.Replace(p.path, append(text, '\n'))
}
