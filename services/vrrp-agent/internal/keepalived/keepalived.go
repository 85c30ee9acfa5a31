// Package keepalived answers: what do these keepalived.conf say in our words?
//
// keepalived has one file for each node; ours is one object for each instance, with all its nodes. So the files of all
// nodes are read together, and vrrp_instance blocks with the same router id become one instance. Whether a value is one
// that the agent takes is decided by spec alone. The package is pure.
package keepalived

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/importing"

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
		r.file(node{name: file.Node, routerHealth: file.RouterHealth, scripts: map[string]*script{}}, lines)
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
}

// script is a vrrp_script block.
type script struct {
	block      *statement
	command    string
	line       *importing.Line // of the command
	interval   time.Duration
	timeout    time.Duration
	rise, fall uint32
	weight     int
	weightLine *importing.Line
	// tracked: a tracker was made of it.
	tracked bool
}

// member is a vrrp_instance block: what one node has of an instance.
type member struct {
	node     node
	block    *statement
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
	tracks    []track
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
}

func (r *reader) file(n node, lines []*importing.Line) {
	r.nodes = append(r.nodes, n)
	top := parse(lines)
	for _, s := range top {
		if s.word(0) == "vrrp_script" {
			n.script(s)
		}
	}
	for _, s := range top {
		switch word := s.word(0); word {
		case "vrrp_script":
		case "vrrp_instance":
			r.instance(n, s)
		case "global_defs":
			s.line.Ignored("what the process is given stands in its flags")
			for _, child := range s.children {
				global(child)
			}
		case "vrrp_sync_group":
			s.leave("instances move each for itself; give them the same trackers and the same order of priorities")
		case "virtual_server", "virtual_server_group":
			s.leave("connections are spread by the ipvs-director: import what ipvsadm -S -n prints there")
		case "include", "include_check":
			s.leave("other files are not read; put their text in this place")
		case "vrrp_track_process", "track_process", "vrrp_track_file", "track_file", "bfd_instance":
			s.leave("a tracker asks a gRPC health service; nothing else is watched")
		case "static_ipaddress", "static_routes", "static_rules", "garp_group":
			s.leave("what belongs to the node for good is configured there")
		default:
			if strings.HasPrefix(word, "@") || strings.HasPrefix(word, "$") || strings.HasPrefix(word, "~") {
				s.leave("conditions, variables and sequences are not followed; write what they stand for")
				continue
			}
			s.leave("%s is not known to the importer; what can be wanted of the agent stands in proto/vrrp/v1/desired.proto", importing.Quote(word))
		}
	}
}

// global speaks about a statement of global_defs.
func global(s *statement) {
	switch word := s.word(0); {
	case strings.HasPrefix(word, "notification_email"), strings.HasPrefix(word, "smtp_"):
		s.leave("mail is not taken over: give each instance mail with from, to and server")
	case word == "router_id":
		s.ignore("the node has its name from --node")
	case word == "script_user", word == "enable_script_security":
		s.ignore("each tracker of the kind script names its user")
	case strings.HasPrefix(word, "vrrp_garp_"), strings.HasPrefix(word, "vrrp_gna_"):
		s.ignore("an address that moves is announced five times at once and five times after 5s")
	case word == "vrrp_strict", word == "vrrp_skip_check_adv_addr", word == "vrrp_check_unicast_src":
		s.ignore("the checks of RFC 3768 are always made; adverts with other addresses are counted")
	case strings.HasPrefix(word, "process_"), strings.HasPrefix(word, "vrrp_priority"), strings.HasPrefix(word, "vrrp_rt_"),
		strings.HasPrefix(word, "vrrp_no_swap"), strings.HasPrefix(word, "vrrp_process"), strings.HasPrefix(word, "checker_"), word == "max_auto_priority":
		s.ignore("keepalived's own process is tuned by this")
	case word == "vrrp_version" && s.word(1) == "2":
		s.ignore("VRRPv2 is spoken")
	default:
		s.leave("global %s has no counterpart; see proto/vrrp/v1/desired.proto and the flags of the program (--help)", importing.Quote(word))
	}
}

// script reads a vrrp_script block. What its lines became depends on the instances that track it.
func (n node) script(s *statement) {
	if s.word(1) == "" || n.scripts[s.word(1)] != nil {
		s.leave("want a name that no other script has")
		return
	}
	c := &script{block: s, line: s.line, interval: time.Second, rise: 1, fall: 1} // keepalived's defaults
	n.scripts[s.word(1)] = c
	for _, child := range s.children {
		value := child.word(1)
		number, err := strconv.ParseUint(value, 10, 31)
		good := err == nil
		switch word := child.word(0); word {
		case "script":
			c.command, c.line = strings.Join(child.words[1:], " "), child.line
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
				child.line.Unsupported("weight %s: want -253 to 253", importing.Quote(value))
				continue
			}
			c.weight, c.weightLine = w, child.line
			if child.word(2) == "reverse" {
				child.line.Unsupported("reverse: a tracker that is well is well")
			}
			continue
		case "user", "init_fail":
			child.ignore("a tracker counts as failed until its first answer")
			continue
		default:
			child.leave("%s: not known to the importer", importing.Quote(word))
			continue
		}
		if !good {
			child.line.Unsupported("%s %s: not a good value; keepalived's default is read", child.word(0), importing.Quote(value))
		}
	}
}

// seconds reads a number of seconds, with decimals perhaps.
func seconds(text string) (time.Duration, bool) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f > 0 && f < 1e6) {
		return 0, false
	}
	return time.Duration(f * float64(time.Second)), true
}
