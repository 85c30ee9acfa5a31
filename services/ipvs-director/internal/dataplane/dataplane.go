// Package dataplane answers: what do all data planes have in common, and which one is used? It holds values only;
// the planes are in the folders below, the interface they satisfy is declared where it is used (loop, planetest):
//
//	Observe(ctx) (plan.Have, error)                  what the kernel holds, Services and Damage only
//	Apply(ctx, []plan.Change) ([]plan.Change, error) does them, stops at the first error, returns what was done
//	Remove(ctx) error                                takes away all that a director has made with this plane
//	Close() error                                    lets go of the kernel, which keeps everything that is in it
//
// A plane keeps no state of its own: after a restart, Observe reads from the kernel what an earlier process did. What it has
// read it may use again while the kernel says that nothing has changed.
// Apply is idempotent: a change that is done already is no error. One goroutine uses a plane at a time.
// A plane need not have every feature, and says which it has not (Report.Lacks). What it has not, it refuses: it never makes
// something else of it.
package dataplane

import (
	"errors"
	"fmt"
	"strings"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// The names of the planes, as in --dataplane.
const (
	Auto     = "auto"
	IPVS     = "ipvs"
	NFTables = "nftables"
)

// ErrUnusable means that this kernel cannot do what was asked for; the text says why.
var ErrUnusable = errors.New("data plane cannot be used")

// Report is what the probe of one plane found.
type Report struct {
	// Name of the plane.
	Name string
	// Usable tells whether this kernel can do it, here and with the rights of this process.
	Usable bool
	// Reason is what was found, for people.
	Reason string
	// Lacks are the features that the plane has not, here or anywhere. It does all others as package spec says, and Apply refuses
	// a change that needs one of these.
	Lacks spec.Lacks
}

// Finding is one thing around a director that is wrong, so that connections fail although its rules are as wanted.
type Finding struct {
	// Code tells findings apart. Example: ip_forward
	Code string
	// What is wrong, and what to do, for people.
	What, Remedy string
}

// Choose picks the plane to use: the wanted one, or for auto the first usable one in the order of reports. An error
// is ErrUnusable with the reasons.
func Choose(wanted string, reports []Report) (string, error) {
	var reasons []string
	for _, r := range reports {
		if wanted != Auto && wanted != r.Name {
			continue
		}
		if r.Usable {
			return r.Name, nil
		}
		reasons = append(reasons, r.Name+": "+r.Reason)
	}
	if len(reasons) == 0 {
		return "", fmt.Errorf("%w: there is no plane %q", ErrUnusable, wanted)
	}
	return "", fmt.Errorf("%w: %s", ErrUnusable, strings.Join(reasons, "; "))
}

// ErrLacks means that the plane has not the feature that a change needs; the text names it.
var ErrLacks = errors.New("the data plane cannot do that")

// Check refuses a change that needs what a plane lacks.
func Check(c plan.Change, lacks spec.Lacks) error {
	why := ""
	switch c.Kind {
	case plan.AddService, plan.SetService:
		why = lacks.Lacking(c.Service())
	case plan.AddReal, plan.SetReal:
		why = lacks.LackingReal(c.VIP, c.Real)
	case plan.SetTimeouts:
		why = lacks.LackingTuning(spec.FeatureTimeouts)
	case plan.StartSync, plan.StopSync:
		why = lacks.LackingTuning(spec.FeatureSync)
	case plan.Rebuild:
		for _, s := range c.Services {
			if why == "" {
				why = lacks.Lacking(s)
			}
			for _, r := range s.Reals {
				if why == "" {
					why = lacks.LackingReal(s.VIP, r)
				}
			}
		}
	}
	if why != "" {
		return fmt.Errorf("%s: %w: %s", c, ErrLacks, why)
	}
	return nil
}
