// Package keepalived answers: what do these keepalived.conf say in our words?
//
// keepalived has one file for each node; ours is one object for each instance, with all its nodes. So the files of all
// nodes are read together, and vrrp_instance blocks with the same router id become one instance. Whether a value is one
// that the agent takes is decided by spec alone. The package is pure.
package keepalived

import (
	"bytes"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/importing"
	"github.com/twotier/twotier/services/internal/importing/blocks"

	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// File is the configuration of one node.
type File struct {
	// Node is its name.
	Node string
	// Text of its keepalived.conf.
	Text []byte
	// RouterHealth is where the gRPC health of its l7-router is asked. Empty: not known.
	RouterHealth string
}

// Import reads the files of all nodes. The instances that it returns are valid together. The violations are of the files'
// fields, as in the request.
func Import(files []File) ([]*vrrpv1.Instance, *commonv1.ImportReport, []*commonv1.Violation) {
	if violations := check(files); len(violations) > 0 {
		return nil, nil, violations
	}
	var r reader
	for i, file := range files {
		lines, err := r.report.Read(file.Node, file.Text)
		if err != nil {
			return nil, nil, []*commonv1.Violation{{Field: fmt.Sprintf("files[%d].config", i), Description: err.Error()}}
		}
		r.file(node{
			name: file.Node, routerHealth: file.RouterHealth, scripts: map[string]*script{}, processes: map[string]*blocks.Statement{},
			files: map[string]*blocks.Statement{}, globals: &globals{},
		}, lines)
	}
	instances := r.finish()
	return instances, r.report.Message(), nil
}

func check(files []File) (violations []*commonv1.Violation) {
	bad := func(field, format string, args ...any) {
		violations = append(violations, &commonv1.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
	}
	if len(files) < 1 || len(files) > spec.MaxMembers {
		bad("files", "want 1 to %d, one for each node, got %d", spec.MaxMembers, len(files))
		return violations
	}
	for i, file := range files {
		field := fmt.Sprintf("files[%d].node", i)
		if !spec.IsName(file.Node) {
			bad(field, "want the name of a node, as given with --node, got %q", importing.Short(file.Node, 64))
		}
		if len(bytes.TrimSpace(file.Text)) == 0 {
			bad(fmt.Sprintf("files[%d].config", i), "want the text of a keepalived.conf, got nothing")
		}
		if first := slices.IndexFunc(files, func(f File) bool { return f.Node == file.Node }); first < i {
			bad(field, "files[%d] is of this node already", first)
		}
	}
	return violations
}

// node is what is known of one node.
type node struct {
	name         string
	routerHealth string
	scripts      map[string]*script
	processes    map[string]*blocks.Statement // vrrp_track_process blocks
	files        map[string]*blocks.Statement // track_file blocks
	globals      *globals
}

// globals are the global_defs of a node, as far as its instances need them.
type globals struct {
	mail         *vrrpv1.Mail
	mailLines    []*importing.Line
	startupDelay time.Duration
	version      string
	user         string  // who runs scripts; empty: keepalived's choice
	refresh      setting // vrrp_garp_master_refresh
	message      *importing.Line
}

// syncGroup is a vrrp_sync_group block of one node.
type syncGroup struct {
	node  string
	name  string
	block *blocks.Statement
	// instances, by keepalived's names, and their lines.
	instances []address
	// more are the trackers and programs of the group.
	more []*blocks.Statement
}

// script is a vrrp_script block.
type script struct {
	block      *blocks.Statement
	command    string
	line       *importing.Line // of the command
	interval   time.Duration
	timeout    time.Duration
	rise, fall uint32
	weight     int
	weightLine *importing.Line
	// tracked: a tracker was made of it.
	tracked bool
	// kept: its weight was taken as it is.
	kept bool
	user string
	// argv of the command; nil: it wants a shell. process: it only looks for a process of that name.
	argv    []string
	process string
	becomes *vrrpv1.Tracker
}

// member is a vrrp_instance block: what one node has of an instance.
type member struct {
	node     node
	block    *blocks.Statement
	name     string
	id       uint32
	idLine   *importing.Line
	priority uint32
	interval setting
	password string
	authLine *importing.Line
	// addresses that float, in their order.
	addresses []address
	nopreempt *importing.Line
	delay     setting // preempt_delay
	tracks    []track
	watched   []watched
	iface     string
	part      bool // it is of the addresses of the other family of a block
	routes    []route
	hooks     []hook
	alert     *importing.Line // smtp_alert
	version   string
	source    address         // unicast_src_ip
	peers     []address       // unicast_peer
	message   *importing.Line // v3_checksum_as_v2
	refresh   setting         // garp_master_refresh
	vmac      *importing.Line // use_vmac
	fromCard  *importing.Line // vmac_xmit_base
	hmac      *vrrpv1.Hmac
	hmacLine  *importing.Line
	keys      []key
}

// key is a line of auth_hmac.
type key struct {
	key  *vrrpv1.HmacKey
	line *importing.Line
}

// watched is a process, a file or a card that is tracked.
type watched struct {
	tracker *vrrpv1.Tracker
	line    *importing.Line
}

// route is a line of virtual_routes.
type route struct {
	route *vrrpv1.VirtualRoute
	line  *importing.Line
}

// hook is a notify line: which of the lists it belongs to, and the program.
type hook struct {
	state  string
	script *vrrpv1.Script
	line   *importing.Line
}

type setting struct {
	value time.Duration
	line  *importing.Line
}

type address struct {
	text string
	line *importing.Line
}

// track is a line of track_script.
type track struct {
	script string
	weight *int
	line   *importing.Line
}

// reader goes through the files, one after the other.
type reader struct {
	report  importing.Report
	nodes   []node
	members []*member
	groups  []syncGroup
}

func (r *reader) file(n node, lines []*importing.Line) {
	r.nodes = append(r.nodes, n)
	top := blocks.Parse(lines)
	for _, s := range top {
		switch s.Word(0) {
		case "vrrp_script":
			n.script(s)
		case "vrrp_track_process":
			n.processes[s.Word(1)] = s
			s.Line.Taken("a tracker of the instances that track it")
			for _, child := range s.Children {
				n.process(child)
			}
		case "track_file", "vrrp_track_file":
			n.files[s.Word(1)] = s
			s.Line.Taken("a tracker of the instances that track it")
			for _, child := range s.Children {
				n.file(child)
			}
		case "global_defs":
			s.Line.Ignored("what the process is given stands in its flags")
			for _, child := range s.Children {
				n.global(child)
			}
		}
	}
	for _, s := range top {
		switch word := s.Word(0); word {
		case "vrrp_script", "vrrp_track_process", "track_file", "vrrp_track_file", "global_defs":
		case "vrrp_instance":
			r.instance(n, s)
		case "vrrp_sync_group":
			r.syncGroup(n, s)
		case "virtual_server", "virtual_server_group":
			s.Leave("connections are spread by the ipvs-director: import this file there too")
		case "include", "include_check":
			s.Leave("other files are not read; put their text in this place")
		case "bfd_instance":
			s.Leave("there is no BFD: with the profile fast a lost master is noticed within 0.1s")
		case "static_ipaddress", "static_routes", "static_rules", "track_group":
			s.Leave("what belongs to the node for good is configured there")
		case "interface_up_down_delays":
			s.Leave("a card that goes down is a fault at once; hold_down of a tracker keeps what comes and goes from moving the addresses each time")
		case "linkbeat_interfaces":
			s.Ignore("the kernel tells when a card goes down")
		case "garp_group":
			s.Ignore("frames that announce addresses are sent without pauses, and few")
		default:
			if strings.HasPrefix(word, "@") || strings.HasPrefix(word, "$") || strings.HasPrefix(word, "~") {
				s.Leave("conditions, variables and sequences are not followed; write what they stand for")
				continue
			}
			s.Leave("%s is not known to the importer; what can be wanted of the agent stands in proto/vrrp/v1/desired.proto", importing.Quote(word))
		}
	}
}

// global reads a statement of global_defs.
func (n node) global(s *blocks.Statement) {
	mail := func() *vrrpv1.Mail {
		if n.globals.mail == nil {
			n.globals.mail = &vrrpv1.Mail{}
		}
		n.globals.mailLines = append(n.globals.mailLines, s.Line)
		return n.globals.mail
	}
	switch word := s.Word(0); {
	case word == "notification_email":
		for _, inner := range append([]*blocks.Statement{{Line: s.Line, Words: s.Words[1:]}}, s.Children...) {
			for _, to := range inner.Words {
				mail().To = append(mail().To, to)
			}
			n.globals.mailLines = append(n.globals.mailLines, inner.Line)
		}
	case word == "notification_email_from":
		mail().From = s.Word(1)
	case word == "smtp_server":
		m := mail()
		if m.Server = s.Word(1); s.Word(2) != "" {
			m.Server = net.JoinHostPort(s.Word(1), s.Word(2))
		}
	case word == "smtp_connect_timeout":
		d, good := seconds(s.Word(1))
		if !good {
			s.Line.Unsupported("want seconds, got %s; 30s is taken", importing.Quote(s.Word(1)))
			return
		}
		mail().Timeout = durationpb.New(d)
	case word == "smtp_alert", word == "smtp_alert_vrrp":
		s.Ignore("every instance sends mail when global_defs says where to")
	case word == "router_id", word == "smtp_helo_name":
		s.Ignore("the node has its name from --node")
	case word == "script_user":
		n.globals.user = s.Word(1)
		s.Line.Taken("user of the scripts and programs that name none")
		if s.Word(2) != "" {
			s.Line.Assumed("the user's own group in place of %s", importing.Quote(s.Word(2)))
		}
	case word == "enable_script_security":
		s.Ignore("scripts that others than root and their user could change are never run")
	case word == "vrrp_startup_delay":
		d, good := seconds(s.Word(1))
		if !good {
			s.Line.Unsupported("want seconds, got %s", importing.Quote(s.Word(1)))
			return
		}
		n.globals.startupDelay = d
		s.Line.Taken("startup_delay %v of every instance", d)
	case word == "vrrp_version":
		n.globals.version = s.Word(1)
		s.Line.Taken("version %s of the instances that name none", importing.Short(s.Word(1), 8))
	case word == "v3_checksum_as_v2":
		n.globals.message = s.Line
		s.Line.Taken("checksum of the message alone, with version 3")
	case word == "vrrp_garp_master_refresh":
		n.globals.refresh = refresh(s)
	case strings.HasPrefix(word, "vrrp_mcast_group") && standardGroup(s.Word(1)):
		s.Ignore("that is where adverts go")
	default:
		for _, of := range globalWords {
			if slices.ContainsFunc(of.words, func(w string) bool {
				return w == word || strings.HasSuffix(w, "*") && strings.HasPrefix(word, w[:len(w)-1])
			}) {
				if of.matters {
					s.Leave("%s", of.why)
				} else {
					s.Ignore("%s", of.why)
				}
				return
			}
		}
		s.Leave("global %s is not known to the importer; what can be wanted of the agent stands in proto/vrrp/v1/desired.proto and in its flags (--help)", importing.Quote(word))
	}
}

// globalWords are statements of global_defs that become nothing: what they are there for, and whether that is missed. The
// first that fits counts; a star stands for any end of the word.
var globalWords = []struct {
	words   []string
	matters bool
	why     string
}{
	{[]string{"vrrp_garp_*", "vrrp_gna_*", "vrrp_min_garp", "vrrp_vmac_garp_intvl"}, false, announcedHow},
	{[]string{"vrrp_strict", "vrrp_skip_check_adv_addr", "vrrp_check_unicast_src"}, false,
		"the checks of RFC 3768 are always made; adverts with other addresses are counted"},
	{[]string{"vrrp_lower_prio_no_advert", "vrrp_higher_prio_send_advert", "vrrp_owner_ignore_adverts"}, false,
		"a master that hears a lower priority answers and announces at once; one that hears a higher one gives way"},
	{[]string{"vrrp_down_timer_adverts"}, true, instead["down_timer_adverts"]},
	{[]string{"vrrp_mcast_group4", "vrrp_mcast_group6"}, true, instead["mcast_dst_ip"]},
	{[]string{"vrrp_delay_after_boot"}, true, "startup_delay counts from the start of the agent; give the instances that"},
	{[]string{"vrrp_notify_fifo*", "notify_fifo*", "fifo_*", "vrrp_notify_priority_changes"}, true,
		"the stream WatchInstances tells of every change in order; notify of an instance runs a program for each"},
	{[]string{"enable_snmp*", "snmp_*", "enable_traps"}, true, "there is no SNMP: use the Prometheus metrics (--metrics-listen) and the stream WatchInstances"},
	{[]string{"enable_dbus", "dbus_*"}, true, "there is no D-Bus: use the control API (ListInstances, WatchInstances, Handover, Drain)"},
	{[]string{"json_*", "state_dump_file", "stats_dump_file", "data_use_instance"}, false, "ListInstances tells at any time what keepalived writes to files on a signal"},
	{[]string{"net_namespace*", "namespace_with_ipsets", "instance", "use_pid_dir"}, true, "the agent works in the network namespace that it is started in"},
	{[]string{"startup_script*", "shutdown_script*"}, true, "the agent runs no program at its start and end: put it into the unit that starts the agent"},
	{[]string{"lvs_*", "checker_*", "rs_init_notifies", "no_checker_emails", "smtp_alert_checker"}, false, "it belongs to the virtual servers: import this file into the ipvs-director too"},
	{[]string{"vrrp_iptables", "vrrp_ipsets", "nftables*"}, false, "the agent has tables of nf_tables of its own, which go with it"},
	{[]string{"default_interface", "linkbeat_*", "dynamic_interfaces", "disable_local_igmp"}, false, "cards are found by the subnet of the addresses, whenever they are plugged in"},
	{[]string{"vmac_prefix", "vmac_addr_prefix"}, false, "the virtual cards are named vrrp.ID and vrrp6.ID"},
	{[]string{"no_email_faults"}, true, "mail tells of every change of state"},
	{[]string{"log_unknown_vrids", "email_faults"}, false, "what is dropped is counted by its reason (dropped in ListInstances)"},
	{[]string{"reload_*", "config_save_dir", "include_check", "iproute_*", "tmp_config_directory", "use_symlink_paths"}, false, "the desired state is not read from this file"},
	{[]string{"process_*", "vrrp_priority", "vrrp_rt_*", "vrrp_no_swap", "vrrp_process*", "vrrp_rlimit_*", "vrrp_cpu_affinity", "vrrp_netlink_*", "vrrp_rx_bufs_*",
		"bfd_*", "max_auto_priority", "min_auto_priority_delay", "umask", "random_seed", "child_wait_time", "fork_delay", "set_supplementary_groups"}, false,
		"keepalived's own process is tuned by this"},
}

// standardGroup tells whether it is where VRRP's adverts go (RFC 9568, section 5.1).
func standardGroup(address string) bool { return address == "224.0.0.18" || address == "ff02::12" }

// announcedHow is how addresses are announced.
const announcedHow = "an address that moves is announced five times at once, five times after 5s, and every announce_refresh from then on"

// refresh reads the seconds between two announcements.
func refresh(s *blocks.Statement) setting {
	d, good := seconds(s.Word(1))
	switch {
	case !good && s.Word(1) == "0":
		s.Line.Assumed("announce_refresh %v: a master announces its addresses now and then", spec.DefaultRefresh)
		return setting{}
	case !good:
		s.Line.Unsupported("want seconds, got %s", importing.Quote(s.Word(1)))
		return setting{}
	}
	s.Line.Taken("announce_refresh %v", d)
	return setting{d, s.Line}
}

// file speaks about a line of a track_file block.
func (n node) file(s *blocks.Statement) {
	switch word := s.Word(0); word {
	case "file", "weight":
		s.Line.Taken("%s of the tracker", word)
	case "init_file":
		s.Leave("the agent writes no files; one that is not there holds 0")
	default:
		s.Leave("%s: not known to the importer", importing.Quote(word))
	}
}

// process speaks about a line of a vrrp_track_process block.
func (n node) process(s *blocks.Statement) {
	switch word := s.Word(0); word {
	case "process", "weight":
		s.Line.Taken("%s of the tracker", word)
	case "quorum", "quorum_max":
		s.Leave("a process is there or is not; they are not counted")
	case "delay", "fork_delay", "terminate_delay":
		s.Leave("use rise, fall or hold_down of the tracker")
	case "full_command", "param_match":
		s.Leave("processes are told apart by their name, not by their arguments; a tracker of the kind script can look closer")
	default:
		s.Leave("%s: not known to the importer", importing.Quote(word))
	}
}

// syncGroup reads a vrrp_sync_group block.
func (r *reader) syncGroup(n node, s *blocks.Statement) {
	g := syncGroup{node: n.name, name: s.Word(1), block: s}
	for _, child := range s.Children {
		switch word := child.Word(0); {
		case word == "group":
			child.Line.Ignored("it begins a block")
			for _, each := range append([]*blocks.Statement{{Line: child.Line, Words: child.Words[1:]}}, child.Children...) {
				for _, name := range each.Words {
					g.instances = append(g.instances, address{name, each.Line})
				}
			}
		case word == "global_tracking", word == "sync_group_tracking_weight":
			child.Ignore("what fails on one instance of a group is the fault of all")
		case strings.HasPrefix(word, "notify"):
			g.more = append(g.more, child)
		case word == "smtp_alert":
			child.Ignore("every instance sends mail when global_defs says where to")
		case strings.HasPrefix(word, "track_"):
			g.more = append(g.more, child)
		default:
			child.Leave("%s is not known to the importer", importing.Quote(word))
		}
	}
	r.groups = append(r.groups, g)
}

// script reads a vrrp_script block. What its lines became depends on the instances that track it.
func (n node) script(s *blocks.Statement) {
	if s.Word(1) == "" || n.scripts[s.Word(1)] != nil {
		s.Leave("want a name that no other script has")
		return
	}
	c := &script{block: s, line: s.Line, interval: time.Second, rise: 1, fall: 1, user: n.globals.user} // keepalived's defaults
	n.scripts[s.Word(1)] = c
	for _, child := range s.Children {
		value := child.Word(1)
		number, err := strconv.ParseUint(value, 10, 31)
		good := err == nil
		switch word := child.Word(0); word {
		case "script":
			c.command, c.line = strings.Join(child.Words[1:], " "), child.Line
			c.argv, c.process = command(child.Words[1:]), looksFor(c.command)
			continue
		case "interval":
			c.interval, good = seconds(value)
		case "timeout":
			c.timeout, good = seconds(value)
		case "rise":
			c.rise = uint32(number)
		case "fall":
			c.fall = uint32(number)
		case "weight":
			var w int
			if w, err = strconv.Atoi(value); err != nil || w < -253 || w > 253 {
				child.Line.Unsupported("weight %s: want -253 to 253", importing.Quote(value))
				continue
			}
			c.weight, c.weightLine = w, child.Line
			if child.Word(2) == "reverse" {
				child.Line.Unsupported("%s", noReverse)
			}
			continue
		case "user":
			c.user = value
			if child.Word(2) != "" {
				child.Line.Assumed("the user's own group in place of %s", importing.Quote(child.Word(2)))
			}
			continue
		case "init_fail":
			child.Ignore("a tracker counts as failed until its first answer")
			continue
		default:
			child.Leave("%s: not known to the importer", importing.Quote(word))
			continue
		}
		if !good {
			child.Line.Unsupported("%s %s: not a good value; keepalived's default is read", child.Word(0), importing.Quote(value))
		}
	}
}

// noReverse is what to do about a script that is to be well when it fails.
const noReverse = "a script cannot be reversed: let it end with 0 when all is well"

// command is a command as a program and its arguments; nil: it wants a shell, is not named by its whole path, or seems to
// hold a secret.
func command(words []string) []string {
	text := strings.Join(words, " ")
	argv := strings.Fields(text)
	if importing.Secretive(text) { // it would stand in the desired state
		return nil
	}
	if strings.ContainsAny(text, "|&;<>()$`\\\"'*?[]~\n") || len(argv) == 0 || !path.IsAbs(argv[0]) {
		return nil
	}
	return argv
}

// looksFor is the name of the process that a command looks for without doing anything else; empty: it does something else.
func looksFor(text string) string {
	argv := strings.Fields(text)
	if len(argv) == 0 {
		return ""
	}
	argv[0] = path.Base(argv[0])
	name := argv[len(argv)-1]
	switch strings.Join(argv[:len(argv)-1], " ") {
	case "killall -0", "pidof", "pidof -s", "pgrep", "pgrep -x":
		if argv[0] == "pgrep" && strings.ContainsAny(name, "^$.*[") {
			return ""
		}
		return path.Base(name)
	}
	return ""
}

// seconds reads a number of seconds, with decimals perhaps.
func seconds(text string) (time.Duration, bool) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f > 0 && f < 1e6) {
		return 0, false
	}
	return time.Duration(f * float64(time.Second)), true
}
