// Package spec answers: which pairs of folders are wanted? It turns the desired state into types of our own, fills in the
// defaults and refuses what cannot be right. It is pure.
package spec

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	filesyncv1 "github.com/twotier/twotier/proto/filesync/v1"
	"github.com/twotier/twotier/services/file-sync/internal/access"
)

// Bounds and default of the pause between two full comparisons.
const (
	MinVerify     = 10 * time.Second
	MaxVerify     = 24 * time.Hour
	DefaultVerify = 10 * time.Minute
)

// Pair is a target folder that is kept equal to a source folder.
type Pair struct {
	Name   string
	Source End
	Target End
	// Address is where the target takes the source's connection.
	Address netip.AddrPort
	// Allow is the networks that the source may come from.
	Allow []netip.Prefix
	// Verify is the pause between two full comparisons.
	Verify time.Duration
}

// End is one folder on one node.
type End struct {
	Node string
	Path string
}

// Equal reports whether two pairs are the same in every field.
func (p Pair) Equal(o Pair) bool {
	return p.Name == o.Name && p.Source == o.Source && p.Target == o.Target && p.Address == o.Address &&
		p.Verify == o.Verify && slices.Equal(p.Allow, o.Allow)
}

// name is what pairs and nodes may be called.
var name = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Parse reads the wanted pairs, sorted by name. With violations, the pairs are not to be used.
func Parse(messages []*filesyncv1.Pair) ([]Pair, []*commonv1.Violation) {
	var c checker
	pairs := make([]Pair, 0, len(messages))
	for _, m := range messages {
		pairs = append(pairs, c.pair(m))
	}
	slices.SortFunc(pairs, func(a, b Pair) int { return cmp.Compare(a.Name, b.Name) })
	if len(c.violations) == 0 {
		c.together(pairs)
	}
	return pairs, c.violations
}

type checker struct{ violations []*commonv1.Violation }

func (c *checker) refuse(pair, field, format string, args ...any) {
	at := "pair/" + pair
	if field != "" {
		at += "." + field
	}
	c.violations = append(c.violations, &commonv1.Violation{Field: at, Description: fmt.Sprintf(format, args...)})
}

func (c *checker) pair(m *filesyncv1.Pair) Pair {
	p := Pair{Name: m.GetName(), Verify: DefaultVerify}
	if !name.MatchString(p.Name) {
		c.refuse(p.Name, "name", `want lower-case letters, digits, "-", "_", ".", at most 63, got %q`, p.Name)
	}
	p.Source = c.end(p.Name, "source", m.GetSource().GetNode(), m.GetSource().GetPath())
	p.Target = c.end(p.Name, "target", m.GetTarget().GetNode(), m.GetTarget().GetPath())
	address, err := netip.ParseAddrPort(m.GetTarget().GetAddress())
	switch {
	case err != nil:
		c.refuse(p.Name, "target.address", "want HOST:PORT with an IP address, got %q", m.GetTarget().GetAddress())
	case address.Addr().IsUnspecified() || address.Addr().IsMulticast() || address.Port() == 0:
		c.refuse(p.Name, "target.address", "want an address and a port that the source can connect to, got %s", address)
	}
	p.Address = address
	for i, s := range m.GetTarget().GetAllow() {
		prefix, err := access.ParsePrefix(s)
		if err != nil {
			c.refuse(p.Name, fmt.Sprintf("target.allow[%d]", i), "%v", err)
			continue
		}
		p.Allow = append(p.Allow, prefix)
	}
	if len(m.GetTarget().GetAllow()) == 0 && err == nil && !address.Addr().IsLoopback() {
		c.refuse(p.Name, "target.allow", "name the networks that the source may come from, such as 172.16.0.99/32")
	}
	if v := m.GetVerifyInterval(); v != nil {
		p.Verify = v.AsDuration()
		if v.CheckValid() != nil || p.Verify < MinVerify || p.Verify > MaxVerify {
			c.refuse(p.Name, "verify_interval", "want %v to %v, got %v", MinVerify, MaxVerify, p.Verify)
		}
	}
	return p
}

func (c *checker) end(pair, field, node, folder string) End {
	if !name.MatchString(node) {
		c.refuse(pair, field+".node", "want a node name as given with --node, got %q", node)
	}
	switch {
	case !path.IsAbs(folder) || path.Clean(folder) != folder || strings.ContainsRune(folder, 0):
		c.refuse(pair, field+".path", `want an absolute path without ".", "..", "//" and ending "/", got %q`, folder)
	case folder == "/":
		c.refuse(pair, field+".path", "the root of a machine is no folder to copy")
	}
	return End{node, folder}
}

// together checks what no pair can see alone.
func (c *checker) together(pairs []Pair) {
	for i, p := range pairs {
		if overlap(p.Source, p.Target) {
			c.refuse(p.Name, "target.path", "%s and the source %s hold one another", p.Target.Path, p.Source.Path)
		}
		for _, o := range pairs[:i] {
			switch {
			case o.Name == p.Name:
				c.refuse(p.Name, "name", "there are two pairs of this name")
			case o.Target.Node == p.Target.Node && o.Address.Port() == p.Address.Port() && o.Address.Addr() == p.Address.Addr():
				c.refuse(p.Name, "target.address", "%s is the address of pair/%s", p.Address, o.Name)
			}
			if overlap(o.Target, p.Target) {
				c.refuse(p.Name, "target.path", "%s overlaps %s, the target of pair/%s", p.Target.Path, o.Target.Path, o.Name)
			}
			// A target that is part of a source would be a chain, and could be a ring.
			if overlap(o.Source, p.Target) {
				c.refuse(p.Name, "target.path", "%s overlaps %s, the source of pair/%s", p.Target.Path, o.Source.Path, o.Name)
			}
			if overlap(o.Target, p.Source) {
				c.refuse(p.Name, "source.path", "%s overlaps %s, the target of pair/%s", p.Source.Path, o.Target.Path, o.Name)
			}
		}
	}
}

// overlap reports whether one folder is the other, or in the other.
func overlap(a, b End) bool {
	return a.Node == b.Node && (a.Path == b.Path || strings.HasPrefix(a.Path, b.Path+"/") || strings.HasPrefix(b.Path, a.Path+"/"))
}
