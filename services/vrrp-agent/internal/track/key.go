package track

import (
	"context"
	"errors"
	"fmt"

	"github.com/twotier/twotier/services/internal/relay"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// keyProber looks at a key in etcd. An etcd that does not answer changes nothing: it may tell the agents something, but they
// do not depend on it.
type keyProber struct {
	keys Keys
	key  string
	what spec.What
	last error // what was found last
}

func (p *keyProber) Probe(ctx context.Context) error {
	value, there, err := p.keys.Get(ctx, p.key)
	switch {
	case errors.Is(err, relay.ErrNone):
		return fmt.Errorf("look for key %s: %w", p.key, err)
	case err != nil:
		return p.last
	}
	is := there && (!p.what.Exact || value == p.what.Target)
	switch {
	case is && p.what.Reverse && p.what.Exact:
		p.last = fmt.Errorf("key %s is %q", p.key, value)
	case is && p.what.Reverse:
		p.last = fmt.Errorf("key %s is there", p.key)
	case !is && !p.what.Reverse && there:
		p.last = fmt.Errorf("key %s is %q, want %q", p.key, value, p.what.Target)
	case !is && !p.what.Reverse:
		p.last = fmt.Errorf("key %s is not there", p.key)
	default:
		p.last = nil
	}
	return p.last
}
