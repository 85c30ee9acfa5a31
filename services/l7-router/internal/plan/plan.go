// Package plan compares what is wanted with what is and lists the changes that lead there: pure.
package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// Listener is an address that is listened on, and the frontend that it belongs to.
type Listener struct {
	Address  netip.AddrPort
	Frontend string
	// TLS is spoken on it.
	TLS bool
	// Streams: its connections may carry HTTP/2, from clients or to servers.
	Streams bool
}

// Have is what is in force.
type Have struct {
	Frontends []spec.Frontend
	Backends  []spec.Backend
	Listeners []Listener
	// Renewed are the names of the frontends whose certificate files have changed since they were read.
	Renewed []string
}

// Action is what a change does.
type Action uint8

// The actions, in the order of doing: a backend is there before a frontend sends to it and goes after the last has
// stopped; an address is given up before another that overlaps it is bound.
const (
	SetBackend Action = iota
	SetFrontend
	ReadCertificates
	Close
	Listen
	RemoveFrontend
	RemoveBackend
)

// Change is one step.
type Change struct {
	Action Action
	// Name of the frontend or backend.
	Name string
	// Backend is set for SetBackend.
	Backend spec.Backend
	// Frontend is set for SetFrontend.
	Frontend spec.Frontend
	// Address is set for Close and Listen. Listen on an address that another frontend has moves it, with its socket.
	Address netip.AddrPort
	// TLS and Streams, for Listen: whether TLS is spoken there from now on, and what Listener.Streams says.
	TLS, Streams bool

	text string
}

func (c Change) String() string { return c.text }

// Diff lists the changes from have to want, empty when they are equal.
func Diff(want spec.State, have Have) []Change {
	var changes []Change
	add := func(c Change, format string, args ...any) {
		c.text = fmt.Sprintf(format, args...)
		changes = append(changes, c)
	}

	backends := index(have.Backends, func(b spec.Backend) string { return b.Name })
	for _, b := range want.Backends {
		old, known := backends[b.Name]
		delete(backends, b.Name)
		switch {
		case !known:
			add(Change{Action: SetBackend, Name: b.Name, Backend: b}, "add backend %s with %s", b.Name, serverList(b.Servers))
		case !reflect.DeepEqual(old, b):
			add(Change{Action: SetBackend, Name: b.Name, Backend: b}, "change backend %s: %s", b.Name, strings.Join(differences(old, b), ", "))
		}
	}

	frontends := index(have.Frontends, func(f spec.Frontend) string { return f.Name })
	listen := map[netip.AddrPort]string{}
	for _, f := range want.Frontends {
		for _, address := range f.Addresses() {
			listen[address] = f.Name
		}
		old, known := frontends[f.Name]
		delete(frontends, f.Name)
		switch {
		case !known:
			add(Change{Action: SetFrontend, Name: f.Name, Frontend: f}, "add frontend %s", f.Name)
		case !reflect.DeepEqual(old, f):
			add(Change{Action: SetFrontend, Name: f.Name, Frontend: f}, "change frontend %s: %s", f.Name, strings.Join(differences(old, f), ", "))
		case slices.Contains(have.Renewed, f.Name):
			add(Change{Action: ReadCertificates, Name: f.Name}, "read the certificates of frontend %s again", f.Name)
		}
	}

	bound := map[netip.AddrPort]Listener{}
	for _, l := range have.Listeners {
		bound[l.Address] = l
		if listen[l.Address] == "" {
			add(Change{Action: Close, Name: l.Frontend, Address: l.Address}, "stop listening on %s for %s", spec.BindString(l.Address), l.Frontend)
		}
	}
	for _, f := range want.Frontends {
		streams := f.NeedsStreams(want.Backends)
		for i, address := range f.Addresses() {
			c := Change{Action: Listen, Name: f.Name, Address: address, TLS: i >= len(f.Bind), Streams: streams}
			with := ""
			if c.TLS {
				with = " with TLS"
			}
			switch l, known := bound[address]; {
			case !known:
				add(c, "listen on %s for %s%s", spec.BindString(address), f.Name, with)
			case l.Frontend != f.Name:
				add(c, "move %s from %s to %s%s", spec.BindString(address), l.Frontend, f.Name, with)
			case !l.TLS && c.TLS:
				add(c, "begin TLS on %s for %s", spec.BindString(address), f.Name)
			case l.TLS && !c.TLS:
				add(c, "end TLS on %s for %s", spec.BindString(address), f.Name)
			case !l.Streams && c.Streams:
				add(c, "serve HTTP/2 on %s for %s", spec.BindString(address), f.Name)
			case l.Streams && !c.Streams:
				add(c, "serve HTTP/2 no more on %s for %s", spec.BindString(address), f.Name)
			}
		}
	}
	for name := range frontends {
		add(Change{Action: RemoveFrontend, Name: name}, "remove frontend %s", name)
	}
	for name := range backends {
		add(Change{Action: RemoveBackend, Name: name}, "remove backend %s", name)
	}
	slices.SortStableFunc(changes, func(a, b Change) int {
		if a.Action != b.Action || a.Action == Close {
			return cmp.Compare(a.Action, b.Action)
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return changes
}

func index[T any](list []T, name func(T) string) map[string]T {
	m := make(map[string]T, len(list))
	for _, x := range list {
		m[name(x)] = x
	}
	return m
}

func serverList(servers []spec.Server) string {
	if len(servers) == 0 {
		return "no server"
	}
	var names []string
	for _, s := range servers {
		names = append(names, s.Name+" "+s.Address.String())
	}
	return strings.Join(names, ", ")
}

// differences names the fields in which two values differ; for servers, each server.
func differences[T any](old, now T) []string {
	var all []string
	a, b := reflect.ValueOf(old), reflect.ValueOf(now)
	for i := range a.NumField() {
		if reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			continue
		}
		before, ok := a.Field(i).Interface().([]spec.Server)
		if ok {
			all = append(all, serverDifferences(before, b.Field(i).Interface().([]spec.Server))...)
			continue
		}
		all = append(all, a.Type().Field(i).Name)
	}
	return all
}

func serverDifferences(old, now []spec.Server) []string {
	var all []string
	left := index(old, func(s spec.Server) string { return s.Name })
	for _, s := range now {
		before, known := left[s.Name]
		delete(left, s.Name)
		switch {
		case !known:
			all = append(all, fmt.Sprintf("add server %s %s", s.Name, s.Address))
		case before != s:
			all = append(all, fmt.Sprintf("change server %s", s.Name))
		}
	}
	for _, s := range old {
		if _, gone := left[s.Name]; gone {
			all = append(all, fmt.Sprintf("remove server %s", s.Name))
		}
	}
	if len(all) == 0 {
		all = append(all, "order of servers")
	}
	return all
}
