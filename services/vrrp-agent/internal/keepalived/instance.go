package keepalived

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/twotier/twotier/services/internal/importing"
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
	"preempt_delay":              "a node with a higher priority takes over at once; nopreempt keeps it from doing so at all",
	"use_vmac":                   "addresses keep the card's own MAC; they are announced when they move",
	"native_ipv6":                "addresses are IPv4",
	"no_accept":                  "the node answers for its addresses",
	"smtp_alert":                 "mail is not taken over: give the instance mail with from, to and server",
	"unicast_src_ip":             "adverts are sent to the multicast address 224.0.0.18; the nodes must share a network",
	"unicast_peer":               "adverts are sent to the multicast address 224.0.0.18; the nodes must share a network",
	"unicast_ttl":                "adverts are sent to the multicast address 224.0.0.18; the nodes must share a network",
	"mcast_src_ip":               "adverts have the card's address as their source",
	"virtual_ipaddress_excluded": "every address is in the adverts, 20 at most; add it to virtual_addresses",
	"virtual_routes":             "routes do not move; configure them on each node",
	"virtual_rules":              "rules do not move; configure them on each node",
	"track_process":              "a tracker asks a gRPC health service; nothing else is watched",
	"track_file":                 "a tracker asks a gRPC health service; nothing else is watched",
	"track_bfd":                  "a tracker asks a gRPC health service; nothing else is watched",
	"track_src_ip":               "the card of the address is watched, nothing else",
	"dont_track_primary":         "the card of the address is always watched: without it the address is of no use",
}

// instance reads a vrrp_instance block.
func (r *reader) instance(n node, s *statement) {
	m := &member{node: n, block: s, name: s.word(1), priority: 100, idLine: s.line} // 100: keepalived's default
	said := false
	iface := ""
	for _, child := range s.children {
		if child.word(0) == "interface" {
			iface = child.word(1)
		}
	}
	for _, child := range s.children {
		line, value := child.line, child.word(1)
		switch word := child.word(0); word {
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
			m.take(child.words[1:], line)
			for _, each := range child.children {
				m.take(each.words, each.line)
			}
		case "track_script":
			line.Ignored("it begins a block")
			m.track(child.words[1:], line)
			for _, each := range child.children {
				m.track(each.words, each.line)
			}
		case "track_interface":
			trackInterface(child, iface)
		case "version":
			if value == "2" {
				line.Ignored("VRRPv2 is spoken")
			} else {
				line.LeftOut("imported instances speak VRRPv2; set version to 3 on the instance, which changes all its nodes together")
			}
		default:
			switch {
			case strings.HasPrefix(word, "notify"):
				notify(child)
			case harmless[word] != "":
				child.ignore("%s", harmless[word])
			case instead[word] != "":
				child.leave("%s", instead[word])
			default:
				child.leave("%s is not known to the importer; what can be wanted of the agent stands in proto/vrrp/v1/desired.proto", importing.Quote(word))
			}
		}
	}
	if !said {
		s.line.Assumed("priority 100, the default of keepalived")
	}
	r.members = append(r.members, m)
}

// notify speaks about a notify script.
func notify(s *statement) {
	why := "programs are not taken over: give the instance notify, with what to run as argv; it gets keepalived's arguments"
	if strings.Contains(strings.Join(s.words, " "), "haproxy") {
		why = "not taken over; l7-router runs on every node all the time, under a supervisor, so that nothing is to be started or stopped"
	}
	s.leave("%s", why)
}

// authentication reads the kind and the password, which goes to a file.
func (m *member) authentication(s *statement) {
	s.line.Taken("authentication")
	statements := append([]*statement{{line: s.line, words: s.words[1:]}}, s.children...)
	for _, child := range statements {
		for i := 0; i+1 < len(child.words); i += 2 {
			switch value := child.words[i+1]; child.words[i] {
			case "auth_type":
				if !strings.EqualFold(value, "PASS") && !strings.EqualFold(value, "SIMPLE") {
					child.line.Unsupported("auth_type %s: there is PASS only; it is taken", importing.Quote(value))
					continue
				}
				child.line.Taken("the simple password of RFC 2338")
			case "auth_pass":
				m.password, m.authLine = value[:min(len(value), 8)], child.line
				if len(value) > 8 {
					child.line.Assumed("its first 8 bytes only, as keepalived uses them")
				}
			default:
				child.line.Unsupported("%s: not known to the importer", importing.Quote(child.words[i]))
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
			line.Unsupported("%s: want an IPv4 address", importing.Quote(word))
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

func trackInterface(s *statement, iface string) {
	s.line.Ignored("it begins a block")
	for _, child := range s.children {
		if child.word(0) == iface && len(child.words) == 1 {
			child.line.Ignored("the card of the address is always watched")
		} else {
			child.leave("the card of the address is watched, nothing else")
		}
	}
}

func (m *member) advertInterval() time.Duration {
	if m.interval.line == nil {
		return time.Second
	}
	return m.interval.value
}
