package track

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/twotier/twotier/services/internal/relay"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// key is an etcd with one key.
type key struct {
	value string
	there bool
	err   error
}

func (k *key) Get(context.Context, string) (string, bool, error) { return k.value, k.there, k.err }

func TestKey(t *testing.T) {
	t.Parallel()
	away := errors.New("away")
	for name, c := range map[string]struct {
		what  spec.What
		found []key
		want  string
	}{
		"there":                {spec.What{}, []key{{there: true}}, "<nil>"},
		"not there":            {spec.What{}, []key{{}}, "key /k is not there"},
		"value":                {spec.What{Exact: true, Target: "yes"}, []key{{"yes", true, nil}}, "<nil>"},
		"another value":        {spec.What{Exact: true, Target: "yes"}, []key{{"no", true, nil}}, `key /k is "no", want "yes"`},
		"no value":             {spec.What{Exact: true}, []key{{}}, "key /k is not there"},
		"reversed":             {spec.What{Reverse: true}, []key{{there: true}}, "key /k is there"},
		"reversed, not there":  {spec.What{Reverse: true}, []key{{}}, "<nil>"},
		"reversed value":       {spec.What{Reverse: true, Exact: true, Target: "no"}, []key{{"no", true, nil}}, `key /k is "no"`},
		"reversed, another":    {spec.What{Reverse: true, Exact: true, Target: "no"}, []key{{"yes", true, nil}}, "<nil>"},
		"etcd never there":     {spec.What{}, []key{{err: away}}, "<nil>"},
		"etcd away, was bad":   {spec.What{}, []key{{}, {err: away}}, "key /k is not there"},
		"etcd away, was well":  {spec.What{}, []key{{}, {there: true}, {err: away}}, "<nil>"},
		"an agent without one": {spec.What{}, []key{{err: relay.ErrNone}}, "look for key /k: the service was started without --etcd"},
	} {
		var k key
		p := &keyProber{keys: &k, key: "/k", what: c.what}
		var got error
		for _, k = range c.found {
			got = p.Probe(t.Context())
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%s: got %v, want %s", name, got, c.want)
		}
	}
}
