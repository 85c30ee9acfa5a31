package keepalived

import (
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/importing"
	"github.com/twotier/twotier/services/internal/importing/blocks"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// harmless are statements of a vrrp_instance that are left out without effect for users, and why.
var harmless = map[string]string{
	"state":                      "the priorities say who is master, from the start",
	"preempt":                    "that is the default",
	"debug":                      "the log has levels",
	"garp_master_delay":          "an address that moves is announced five times at once and five times after 5s",
	"garp_master_repeat":         "an address that moves is announced five times at once and five times after 5s",
	"garp_master_refresh":        "an address that moves is announced five times at once and five times after 5s",
	"garp_master_refresh_repeat": "an address that moves is announced five times at once and five times after 5s",
	"garp_lower_prio_delay":      "a master that hears a lower priority announces its addresses again",
	"garp_lower_prio_repeat":     "a master that hears a lower priority announces its addresses again",
	"lower_prio_no_advert":       "a master that hears a lower priority answers at once",
	"higher_prio_send_advert":    "a master that hears a higher priority gives way",
	"skip_check_adv_addr":        "adverts with other addresses are taken in and counted",
	"strict_mode":                "the checks of RFC 3768 are always made",
	"kernel_rx_buf_size":         "the buffer is as large as it has to be",
	"linkbeat_use_polling":       "the kernel tells when a card goes down",
	"promote_secondaries":        "addresses are added one by one, as /32",
	"accept":                     "the node answers for its addresses",
	"lvs_sync_daemon_interface":  "connections are not copied between directors",
	"lvs_sync_daemon":            "connections are not copied between directors",
	"vmac_xmit_base":             "it belongs to use_vmac",
}

// instead are statements of a vrrp_instance that matter and cannot be said, and what to do about it.
var instead = map[string]string{
	"use_vmac":                   "addresses keep the card's own MAC; they are announced when they move",
	"native_ipv6":                "the family follows from the addresses",
	"no_accept":                  "the node answers for its addresses",
	"unicast_ttl":                "adverts have the time to live 255, and are taken in only with it",
	"mcast_src_ip":               "adverts have the card's address as their source",
	"virtual_ipaddress_excluded": "every address is in the adverts, 20 at most; add it to virtual_addresses",
	"virtual_rules":              "rules do not move; configure them on each node",
	"track_file":                 insteadOfFile,
	"track_bfd":                  "there is no BFD: with the profile fast a lost master is noticed within 0.1s",
	"track_src_ip":               "the card of the address is watched, nothing else",
	"dont_track_primary":         "the card of the address is always watched: without it the address is of no use",
}

// instance reads a vrrp_instance block.
func (r *reader) instance(n node, s *blocks.Statement) {
	m := &member{node: n, block: s, name: s.Word(1), priority: 100, idLine: s.Line, version: n.globals.version} // 100: keepalived's default
	said := false
	iface := ""
	for _, child := range s.Children {
		if child.Word(0) == "interface" {
			iface = child.Word(1)
		}
	}
	for _, child := range s.Children {
		line, value := child.Line, child.Word(1)
		switch word := child.Word(0); word {
		case "virtual_router_id":
			id, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				line.Unsupported("want a number, got %s", importing.Quote(value))
				continue
			}
			m.id, m.idLine = uint32(id), line
			line.Taken("virtual_router_id %d", id)
		case "priority":
			p, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				line.Unsupported("want a number, got %s", importing.Quote(value))
				continue
			}
			m.priority, said = uint32(p), true
			line.Taken("priority %d of member %s", p, n.name)
		case "interface":
			line.Assumed("%s has an address in the subnet of the VIP: the agent finds the card by that, not by its name", importing.Quote(value))
		case "advert_int":
			d, good := seconds(value)
			if !good {
				line.Unsupported("want seconds, got %s; 1s is taken", importing.Quote(value))
				continue
			}
			m.interval = setting{d, line}
			line.Taken("advert_interval %v", d)
		case "nopreempt":
			m.nopreempt = line
			line.Taken("nopreempt")
		case "authentication":
			m.authentication(child)
		case "virtual_ipaddress":
			line.Taken("virtual_addresses")
			m.take(child.Words[1:], line)
			for _, each := range child.Children {
				m.take(each.Words, each.Line)
			}
		case "track_script":
			line.Ignored("it begins a block")
			m.track(child.Words[1:], line)
			for _, each := range child.Children {
				m.track(each.Words, each.Line)
			}
		case "track_interface":
			m.trackInterface(child, iface)
		case "track_process":
			line.Ignored("it begins a block")
			for _, each := range append([]*blocks.Statement{{Line: line, Words: child.Words[1:]}}, child.Children...) {
				m.trackProcess(each)
			}
		case "preempt_delay":
			d, good := seconds(value)
			if !good {
				line.Unsupported("want seconds, got %s", importing.Quote(value))
				continue
			}
			m.delay = setting{d, line}
			line.Taken("preempt_delay %v", d)
		case "smtp_alert":
			m.alert = line
			line.Ignored("every instance sends mail when global_defs says where to")
		case "unicast_src_ip":
			m.source = address{value, line}
			line.Taken("first address of member %s", n.name)
		case "unicast_peer":
			line.Taken("unicast")
			for _, each := range append([]*blocks.Statement{{Line: line, Words: child.Words[1:]}}, child.Children...) {
				if each.Word(0) != "" {
					m.peers = append(m.peers, address{each.Word(0), each.Line})
					each.Line.Taken("adverts go to %s", importing.Short(each.Word(0), 64))
				}
			}
		case "virtual_routes":
			line.Taken("virtual_routes")
			for _, each := range append([]*blocks.Statement{{Line: line, Words: child.Words[1:]}}, child.Children...) {
				m.route(each.Words, each.Line)
			}
		case "version":
			m.version = value
			line.Taken("version %s", importing.Short(value, 8))
		case "v3_checksum_as_v2":
			m.message = true
			line.Taken("checksum of the message alone, with version 3")
		default:
			switch {
			case strings.HasPrefix(word, "notify"):
				m.notify(child)
			case harmless[word] != "":
				child.Ignore("%s", harmless[word])
			case instead[word] != "":
				child.Leave("%s", instead[word])
			default:
				child.Leave("%s is not known to the importer; what can be wanted of the agent stands in proto/vrrp/v1/desired.proto", importing.Quote(word))
			}
		}
	}
	if m.version == "" {
		m.version = "2"
	}
	if !said {
		s.Line.Assumed("priority 100, the default of keepalived")
	}
	r.members = append(r.members, m)
}

// notify reads a notify line: the program, quoted or not, and perhaps who runs it.
func (m *member) notify(s *blocks.Statement) {
	state, known := map[string]string{
		"notify": "notify", "notify_master": "notify_master", "notify_backup": "notify_backup", "notify_fault": "notify_fault", "notify_stop": "notify_stop",
	}[s.Word(0)]
	if !known {
		s.Leave("%s has no counterpart; the stream WatchInstances tells of every change", importing.Quote(s.Word(0)))
		return
	}
	if m.node.routerHealth != "" && strings.Contains(strings.Join(s.Words, " "), "haproxy") {
		s.Leave("not taken over; l7-router runs on every node all the time, under a supervisor, so that nothing is to be started or stopped")
		return
	}
	argv := command(s.Words[1:min(2, len(s.Words))])
	if argv == nil {
		s.Leave("a line for the shell is no program: give the instance %s, with what to run as argv, a program by its whole path", state)
		return
	}
	script := &vrrpv1.Script{Argv: argv, User: m.node.globals.user}
	if s.Word(2) != "" {
		script.User = s.Word(2)
	}
	m.hooks = append(m.hooks, hook{state, script, s.Line})
	s.Line.Taken("%s of the instance", state)
	if script.User == "" {
		s.Line.Assumed("nobody runs it, where keepalived takes keepalived_script or root; set user if that is not enough")
	}
}

// routeOptions are the words of a virtual route that matter to nobody here, with the number of their arguments.
var routeOptions = map[string]int{"dev": 1, "oif": 1, "scope": 1, "protocol": 1, "no_track": 0, "unicast": 0, "onlink": 0}

// route reads a line of virtual_routes.
func (m *member) route(words []string, line *importing.Line) {
	if len(words) == 0 {
		return
	}
	r := &vrrpv1.VirtualRoute{}
	for i := 0; i < len(words); i++ {
		word, value := words[i], ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		args, known := routeOptions[word]
		switch {
		case known:
			line.Assumed("the route without %s: the card is found by the gateway, or by the addresses", word)
			i += args
			continue
		case word == "src":
			r.Source = value
		case word == "to":
			r.Destination = value
		case word == "via" || word == "gw":
			r.Via = value
		case word == "metric":
			metric, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				line.LeftOut("metric %s: want a number", importing.Quote(value))
				return
			}
			r.Metric = uint32(metric)
		case i == 0 || r.Destination == "" && (word == "default" || strings.ContainsAny(word, "./:")):
			r.Destination = word
			i--
		default:
			line.LeftOut("%s: a route has a destination, via, src and metric", importing.Quote(word))
			return
		}
		i++
	}
	switch _, err := netip.ParseAddr(r.Destination); {
	case r.Destination == "default":
		r.Destination = "0.0.0.0/0"
	case err == nil:
		r.Destination += "/32"
	}
	m.routes = append(m.routes, route{r, line})
	line.Taken("virtual route to %s", importing.Short(r.Destination, 64))
}

// trackProcess reads a line of track_process.
func (m *member) trackProcess(s *blocks.Statement) {
	if s.Word(0) == "" {
		return
	}
	block := m.node.processes[s.Word(0)]
	if block == nil {
		s.Line.LeftOut("there is no vrrp_track_process %s in this file", importing.Quote(s.Word(0)))
		return
	}
	t := &vrrpv1.Tracker{Name: s.Word(0), Process: &vrrpv1.Process{}}
	weight := ""
	for _, child := range block.Children {
		switch child.Word(0) {
		case "process":
			t.Process.Name = path.Base(child.Word(1))
		case "weight":
			weight = child.Word(1)
		}
	}
	if s.Word(1) == "weight" {
		weight = s.Word(2)
	}
	m.watch(t, weight, s.Line)
}

// watch adds a tracker with the weight that the text says.
func (m *member) watch(t *vrrpv1.Tracker, weight string, line *importing.Line) {
	if w, err := strconv.Atoi(weight); err == nil && w >= -spec.MaxWeight && w <= spec.MaxWeight {
		t.Weight = int32(w)
	} else if weight != "" {
		line.Unsupported("weight %s: want %d to %d", importing.Quote(weight), -spec.MaxWeight, spec.MaxWeight)
	}
	t.Rise, t.Fall = 1, 1
	m.watched = append(m.watched, watched{t, line})
	line.Taken("tracker %s of the instance", importing.Short(t.GetName(), 64))
}

// authentication reads the kind and the password, which goes to a file.
func (m *member) authentication(s *blocks.Statement) {
	s.Line.Taken("authentication")
	statements := append([]*blocks.Statement{{Line: s.Line, Words: s.Words[1:]}}, s.Children...)
	for _, child := range statements {
		for i := 0; i+1 < len(child.Words); i += 2 {
			switch value := child.Words[i+1]; child.Words[i] {
			case "auth_type":
				if !strings.EqualFold(value, "PASS") && !strings.EqualFold(value, "SIMPLE") {
					child.Line.Unsupported("auth_type %s: there is PASS only; it is taken", importing.Quote(value))
					continue
				}
				child.Line.Taken("the simple password of RFC 2338")
			case "auth_pass":
				m.password, m.authLine = value[:min(len(value), 8)], child.Line
				if len(value) > 8 {
					child.Line.Assumed("its first 8 bytes only, as keepalived uses them")
				}
			default:
				child.Line.Unsupported("%s: not known to the importer", importing.Quote(child.Words[i]))
			}
		}
	}
}

// addressOptions are the words behind a virtual address, with the number of their arguments.
var addressOptions = map[string]int{
	"dev": 1, "label": 1, "brd": 1, "broadcast": 1, "scope": 1, "peer": 1, "home": 0, "-nodad": 0, "mngtmpaddr": 0, "noprefixroute": 0,
	"autojoin": 0, "preferred_lft": 1, "track_group": 1, "no_track": 0,
}

// take reads virtual addresses with their options.
func (m *member) take(words []string, line *importing.Line) {
	for i := 0; i < len(words); i++ {
		word := words[i]
		if args, known := addressOptions[word]; known {
			line.Assumed("the address without %s: it is added as /32 to the card with an address of its subnet", word)
			i += args
			continue
		}
		text, mask, masked := strings.Cut(word, "/")
		if _, err := netip.ParseAddr(text); err != nil {
			line.Unsupported("%s: want an IPv4 or IPv6 address", importing.Quote(word))
			continue
		}
		m.addresses = append(m.addresses, address{text, line})
		line.Taken("virtual address %s", text)
		if masked && mask != "32" {
			line.Assumed("/32 and not /%s: the subnet belongs to the card's own address", importing.Short(mask, 8))
		}
	}
}

// track reads a line of track_script.
func (m *member) track(words []string, line *importing.Line) {
	if len(words) == 0 {
		return
	}
	t := track{script: words[0], line: line}
	if len(words) > 2 && words[1] == "weight" {
		if w, err := strconv.Atoi(words[2]); err == nil && w >= -253 && w <= 253 {
			t.weight = &w
		} else {
			line.Unsupported("weight %s: want -253 to 253", importing.Quote(words[2]))
		}
	}
	if m.node.scripts[t.script] == nil {
		line.LeftOut("there is no vrrp_script %s in this file", importing.Quote(t.script))
		return
	}
	m.tracks = append(m.tracks, t)
}

// trackInterface reads track_interface.
func (m *member) trackInterface(s *blocks.Statement, iface string) {
	s.Line.Ignored("it begins a block")
	for _, child := range s.Children {
		if child.Word(0) == iface && len(child.Words) == 1 {
			child.Line.Ignored("the card of the address is always watched")
			continue
		}
		weight := ""
		if child.Word(1) == "weight" {
			weight = child.Word(2)
		}
		m.watch(&vrrpv1.Tracker{Name: child.Word(0), Interface: &vrrpv1.Interface{Name: child.Word(0)}}, weight, child.Line)
	}
}

func (m *member) advertInterval() time.Duration {
	if m.interval.line == nil {
		return time.Second
	}
	return m.interval.value
}
