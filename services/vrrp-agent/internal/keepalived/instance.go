package keepalived

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

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
	"garp_master_delay":          announcedHow,
	"garp_master_repeat":         announcedHow,
	"garp_master_refresh_repeat": announcedHow,
	"garp_interval":              announcedHow,
	"gna_interval":               announcedHow,
	"garp_extra_if":              announcedHow,
	"vmac_garp_intvl":            announcedHow,
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
	"native_ipv6":                "the family follows from the addresses",
	"track_src_ip":               "the card's own address is always watched",
	"check_unicast_src":          "adverts by unicast are taken in only from the other members",
	"unicast_fault_no_peer":      "with unicast every member has an address",
	"old_unicast_checksum":       "the checksum of an advert by unicast is that of its destination",
	"timer_expired_backup":       "a master that was held up for as long as others wait gives way first",
	"owner_ignore_adverts":       "no node owns an address for good",
	"thread_timer_expired":       "keepalived's own process is tuned by this",
}

// instead are statements of a vrrp_instance that matter and cannot be said, and what to do about it.
var instead = map[string]string{
	"no_accept":               "the node answers for its addresses",
	"unicast_ttl":             "adverts have the time to live 255, and are taken in only with it",
	"use_ipvlan":              "addresses stand on the card, or with virtual_mac on a macvlan",
	"use_vmac_addr":           "all addresses of an instance stand on one card; give those of another network an instance of their own, with virtual_mac",
	"mcast_dst_ip":            "adverts go to the group of the standard, or by unicast",
	"down_timer_adverts":      "a backup waits three intervals and its skew, as the standard says; choose the interval for that",
	"vrf":                     "adverts leave by the card of the addresses; routes and rules are the main table's",
	"notify_priority_changes": "the priority is in ListInstances and in the metrics",
	"no_virtual_ipaddress":    "an instance without an address has nothing to hold; its programs can be run by notify of one that has",
	"mcast_src_ip":            "adverts have the card's address as their source",
	"virtual_rules":           "rules do not move; configure them on each node",
	"track_bfd":               "there is no BFD: with the profile fast a lost master is noticed within 0.1s",
	"dont_track_primary":      "the card of the address is always watched: without it the address is of no use",
}

// instance reads a vrrp_instance block.
func (r *reader) instance(n node, s *blocks.Statement) {
	m := &member{node: n, block: s, name: s.Word(1), priority: 100, idLine: s.Line, version: n.globals.version, message: n.globals.message} // 100: keepalived's default
	said := false
	for _, child := range s.Children {
		if child.Word(0) == "interface" {
			m.iface = child.Word(1)
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
		case "track_script", "track_interface", "track_file", "track_process":
			m.tracking(child)
		case "virtual_ipaddress_excluded":
			line.Assumed("virtual_addresses: every address is in the adverts; keepalived before 2.3.3 drops such an advert")
			m.take(child.Words[1:], line)
			for _, each := range child.Children {
				m.take(each.Words, each.Line)
			}
		case "auth_hmac":
			m.authHMAC(child)
		case "garp_master_refresh":
			m.refresh = refresh(child)
		case "use_vmac":
			m.vmac = line
			line.Taken("virtual_mac")
			if len(child.Words) > 1 {
				line.Assumed("the card vrrp.ID, or vrrp6.ID, with the Ethernet address of the standard, in place of %s", importing.Short(strings.Join(child.Words[1:], " "), 64))
			}
		case "vmac_xmit_base":
			m.fromCard = line
			line.Taken("adverts_from_card")
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
					if len(each.Words) > 1 {
						each.Line.Assumed("the time to live of every advert is 255, in place of %s", importing.Short(strings.Join(each.Words[1:], " "), 64))
					}
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
			m.message = line
			line.Taken("checksum of the message alone, with version 3")
		default:
			switch {
			case strings.HasPrefix(word, "notify") && instead[word] == "":
				m.notify(child)
			case word == "unicast_ttl" && value == "255", word == "mcast_dst_ip" && standardGroup(value):
				child.Ignore("adverts are so always")
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
	if part := m.otherFamily(); part != nil {
		r.members = append(r.members, part)
	}
}

// otherFamily takes the addresses that are not of the first one's family, with their routes, for an instance of their own,
// which all else decides as it does for the first; nil: there are none.
func (m *member) otherFamily() *member {
	v6 := m.v6()
	elsewhere := func(text string) bool { return strings.Contains(text, ":") != v6 }
	part := *m
	part.part, part.name = true, m.name+"-6"
	part.peers, part.source, part.authLine, part.password, part.message = nil, address{}, nil, "", nil // they are of the first one
	if v6 {
		part.name = m.name + "-4"
	}
	if m.hmac != nil {
		part.hmac = proto.CloneOf(m.hmac)
	}
	part.addresses, part.routes = nil, nil
	for _, a := range m.addresses {
		if elsewhere(a.text) {
			part.addresses = append(part.addresses, a)
			a.line.Assumed("it is in an instance of its own, because it is of another family")
		}
	}
	if len(part.addresses) == 0 {
		return nil
	}
	m.addresses = slices.DeleteFunc(m.addresses, func(a address) bool { return elsewhere(a.text) })
	for _, r := range m.routes {
		if elsewhere(r.route.GetDestination()) {
			part.routes = append(part.routes, r)
		}
	}
	m.routes = slices.DeleteFunc(m.routes, func(r route) bool { return elsewhere(r.route.GetDestination()) })
	return &part
}

// leave says of a block why nothing is taken, in its first line and that of the statement that is meant, or of a part of it that its addresses and routes are not.
func (m *member) leave(format string, args ...any) {
	if !m.part {
		why := fmt.Sprintf(format, args...)
		m.block.Each(func(inner *blocks.Statement) {
			if word := inner.Word(0); word != "" && strings.Contains(why, word+": ") { // it is the one
				inner.Line.LeftOut("%s", why)
			}
		})
		m.block.Leave("%s", why)
		return
	}
	for _, a := range m.addresses {
		a.line.LeftOut(format, args...)
	}
	for _, r := range m.routes {
		r.line.LeftOut(format, args...)
	}
}

// tracking reads a block of things that are tracked.
func (m *member) tracking(s *blocks.Statement) {
	s.Line.Ignored("it begins a block")
	for _, each := range append([]*blocks.Statement{{Line: s.Line, Words: s.Words[1:]}}, s.Children...) {
		if each.Word(0) == "" {
			continue
		}
		switch s.Word(0) {
		case "track_script":
			m.track(each.Words, each.Line)
		case "track_interface":
			m.trackInterface(each)
		case "track_file":
			m.trackFile(each)
		case "track_process":
			m.trackProcess(each)
		}
	}
}

// ofGroup reads what a sync group tracks, and whom it tells: its instances change together, so that the first one does it.
func (m *member) ofGroup(s *blocks.Statement) {
	switch word := s.Word(0); {
	case instead[word] != "":
		s.Leave("%s", instead[word])
	case strings.HasPrefix(word, "track_"):
		m.tracking(s)
	default:
		m.notify(s)
		if word == "notify" {
			s.Line.Assumed("behind its arguments come INSTANCE and the name of the instance, in place of GROUP and that of the group")
		}
	}
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
	if s.Word(3) != "" {
		s.Line.Assumed("the user's own group in place of %s", importing.Quote(s.Word(3)))
	}
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
	switch a, err := netip.ParseAddr(r.Destination); {
	case r.Destination == "default" && strings.Contains(r.Via+r.Source, ":"):
		r.Destination = "::/0"
	case r.Destination == "default":
		r.Destination = "0.0.0.0/0"
	case err == nil:
		r.Destination = netip.PrefixFrom(a, a.BitLen()).String()
	}
	m.routes = append(m.routes, route{r, line})
	line.Taken("virtual route to %s", importing.Short(r.Destination, 64))
}

// trackProcess reads a line of track_process.
func (m *member) trackProcess(s *blocks.Statement) {
	block := m.node.processes[s.Word(0)]
	if block == nil {
		s.Line.LeftOut("there is no vrrp_track_process %s in this file", importing.Quote(s.Word(0)))
		return
	}
	t := &vrrpv1.Tracker{Name: s.Word(0), Process: &vrrpv1.Process{}}
	for _, child := range block.Children {
		if child.Word(0) == "process" {
			t.Process.Name = path.Base(child.Word(1))
			if len(child.Words) > 2 {
				child.Line.Assumed("the process by its name alone, whatever its arguments")
			}
		}
	}
	m.watch(t, weightOf(block, s), s.Line)
}

// weightOf is what is said of the weight where a thing is tracked, or else where it is described: the number, and what stands
// behind it.
func weightOf(block, track *blocks.Statement) []string {
	var said []string
	if block != nil {
		for _, child := range block.Children {
			if child.Word(0) == "weight" {
				said = child.Words[1:]
			}
		}
	}
	if track.Word(1) == "weight" {
		own := track.Words[2:]
		if len(said) > 1 && len(own) == 1 && said[1] == "reverse" {
			own = append(slices.Clone(own), "reverse") // noreverse would take it back
		}
		return own
	}
	return said
}

// trackFile reads a line of track_file. keepalived adds the number in the file, times the weight, to the priority; without a
// weight another number than 0 is a failure.
func (m *member) trackFile(s *blocks.Statement) {
	block := m.node.files[s.Word(0)]
	if block == nil {
		s.Line.LeftOut("there is no track_file %s in this file", importing.Quote(s.Word(0)))
		return
	}
	t := &vrrpv1.Tracker{Name: s.Word(0), File: &vrrpv1.File{Number: true}}
	for _, child := range block.Children {
		if child.Word(0) == "file" {
			t.File.Path = child.Word(1)
		}
	}
	weight := weightOf(block, s)
	if len(weight) == 0 {
		weight = []string{"1"} // keepalived's default
	}
	switch number, err := strconv.Atoi(weight[0]); {
	case err == nil && (number == 1 || number == -1):
		s.Line.LeftOut("the number in the file is itself added to the priority, which a tracker does not do: write 0 or 1 into the file, " +
			"and give a tracker of the kind file with number the weight")
		return
	case err == nil && number != 0:
		s.Line.Assumed("any number but 0 counts as 1")
		// What the number adds is added while it is there; a tracker adds a positive weight while it is well, a negative one
		// while it is not.
		if len(weight) > 1 && weight[1] == "reverse" {
			number = -number
		}
		t.Reverse, weight = number > 0, []string{strconv.Itoa(number)}
	}
	m.watch(t, weight, s.Line)
}

// watch adds a tracker with the weight that the words say.
func (m *member) watch(t *vrrpv1.Tracker, said []string, line *importing.Line) {
	if len(said) > 0 {
		w, err := strconv.Atoi(said[0])
		if err != nil || w < -spec.MaxWeight || w > spec.MaxWeight {
			line.Unsupported("weight %s: want %d to %d", importing.Quote(said[0]), -spec.MaxWeight, spec.MaxWeight)
			w = 0
		}
		if len(said) > 1 && said[1] == "reverse" {
			// keepalived turns the sign around and not the check; so that each outcome keeps its priority, both are turned here.
			t.Reverse, w = true, -w
		}
		t.Weight = int32(w)
	}
	t.Rise, t.Fall = 1, 1
	m.watched = append(m.watched, watched{t, line})
	line.Taken("tracker %s of the instance", importing.Short(t.GetName(), 64))
}

// authHMAC reads a block auth_hmac of keepalived 2.4.
func (m *member) authHMAC(s *blocks.Statement) {
	s.Line.Taken("authentication.hmac")
	m.hmac, m.hmacLine = &vrrpv1.Hmac{}, s.Line
	for _, child := range s.Children {
		line, value := child.Line, child.Word(1)
		id, err := strconv.ParseUint(value, 10, 8)
		switch word := child.Word(0); word {
		case "key":
			if err != nil || id == 0 || child.Word(2) == "" {
				line.LeftOut("want key, 1 to 255, and the key")
				continue
			}
			k := key{&vrrpv1.HmacKey{Id: uint32(id)}, line}
			if file, ok := strings.CutPrefix(child.Word(2), "file:"); ok {
				k.key.File = file
				line.Taken("key %d of %s", id, importing.Short(file, 128))
				line.Assumed("it holds the key as hexadecimal digits, perhaps behind hex:, and not as plain text")
			}
			m.keys = append(m.keys, k)
		case "active_key":
			if err != nil || id == 0 {
				line.LeftOut("want 1 to 255, got %s", importing.Quote(value))
				continue
			}
			m.hmac.Active = new(uint32(id))
			line.Taken("active key %d", id)
		case "mode":
			mode, known := map[string]vrrpv1.HmacMode{
				"enforce": vrrpv1.HmacMode_HMAC_MODE_ENFORCE, "permissive": vrrpv1.HmacMode_HMAC_MODE_PERMISSIVE, "receive-only": vrrpv1.HmacMode_HMAC_MODE_RECEIVE_ONLY,
			}[value]
			if !known {
				line.LeftOut("want enforce, permissive or receive-only, got %s", importing.Quote(value))
				continue
			}
			m.hmac.Mode = mode
			line.Taken("mode %s", value)
		case "anti_replay":
			if value != "time" {
				line.Unsupported("the clocks of the members always have to agree: to 5s, or 3 intervals")
				continue
			}
			line.Ignored("it is always so")
		case "time_window":
			line.Assumed("5s, or 3 intervals")
		default:
			line.Unsupported("%s: not known to the importer", importing.Quote(word))
		}
	}
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
					child.Line.Unsupported("auth_type %s: there is PASS, which is taken, and hmac, which nobody can forge; keepalived has that as auth_hmac", importing.Quote(value))
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
	"dev": 1, "use_vmac": 0, "label": 1, "brd": 1, "broadcast": 1, "scope": 1, "peer": 1, "home": 0, "-nodad": 0, "mngtmpaddr": 0, "noprefixroute": 0,
	"autojoin": 0, "preferred_lft": 1, "track_group": 1, "no_track": 0,
}

// take reads virtual addresses with their options.
func (m *member) take(words []string, line *importing.Line) {
	for i := 0; i < len(words); i++ {
		word := words[i]
		if args, known := addressOptions[word]; known {
			line.Assumed("the address without %s: it is added alone to the card with an address of its subnet", word)
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
		single := "32"
		if strings.Contains(text, ":") {
			single = "128"
		}
		if masked && mask != single {
			line.Assumed("/%s and not /%s: the subnet belongs to the card's own address", single, importing.Short(mask, 8))
		}
	}
}

// track reads a line of track_script.
func (m *member) track(words []string, line *importing.Line) {
	t := track{script: words[0], line: line}
	if len(words) > 2 && words[1] == "weight" {
		if w, err := strconv.Atoi(words[2]); err == nil && w >= -253 && w <= 253 {
			t.weight = &w
		} else {
			line.Unsupported("weight %s: want -253 to 253", importing.Quote(words[2]))
		}
		if len(words) > 3 && words[3] == "reverse" {
			line.Unsupported("%s", noReverse)
		}
	}
	if m.node.scripts[t.script] == nil {
		line.LeftOut("there is no vrrp_script %s in this file", importing.Quote(t.script))
		return
	}
	m.tracks = append(m.tracks, t)
}

// trackInterface reads a line of track_interface.
func (m *member) trackInterface(s *blocks.Statement) {
	if s.Word(0) == m.iface && len(s.Words) == 1 {
		s.Line.Ignored("the card of the address is always watched")
		return
	}
	m.watch(&vrrpv1.Tracker{Name: s.Word(0), Interface: &vrrpv1.Interface{Name: s.Word(0)}}, weightOf(nil, s), s.Line)
}

// announces is how often addresses are announced again: as the instance says, or else global_defs.
func (m *member) announces() setting {
	if m.refresh.line != nil {
		return m.refresh
	}
	return m.node.globals.refresh
}

// v6 tells whether the instance is one of IPv6, by its first address.
func (m *member) v6() bool { return len(m.addresses) > 0 && strings.Contains(m.addresses[0].text, ":") }

func (m *member) advertInterval() time.Duration {
	if m.interval.line == nil {
		return time.Second
	}
	return m.interval.value
}
