package spec

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/vrrp-agent/internal/election"
)

// what tells what a tracker looks at, and where, by node.
func (c *checker) what(at string, m *vrrpv1.Tracker, members []Member) (What, map[string]string) {
	set := 0
	for _, is := range []bool{
		m.GetGrpcHealth() != nil, m.GetScript() != nil, m.GetProcess() != nil, m.GetFile() != nil, m.GetInterface() != nil,
		m.GetRoute() != nil, m.GetTcp() != nil, m.GetHttp() != nil, m.GetEtcdKey() != nil,
	} {
		if is {
			set++
		}
	}
	if set != 1 {
		c.bad(strings.TrimSuffix(at, "."), "want exactly one of grpc_health, script, process, file, interface, route, tcp, http and etcd_key, got %d", set)
		return What{}, nil
	}
	w := What{Reverse: m.GetReverse()}
	canReverse := true
	var addresses map[string]string
	switch {
	case m.GetGrpcHealth() != nil:
		w.Kind, w.Target, canReverse = CheckGRPC, m.GetGrpcHealth().GetService(), false
		w.LastResort = m.GetGrpcHealth().GetLastResort()
		addresses = c.tracked(at+"grpc_health", m.GetGrpcHealth().GetAddress(), members, !w.LastResort)
	case m.GetTcp() != nil:
		w.Kind, canReverse = CheckTCP, false
		addresses = c.tracked(at+"tcp", m.GetTcp().GetAddress(), members, false)
	case m.GetHttp() != nil:
		w.Kind, w.Target, w.Host, canReverse = CheckHTTP, m.GetHttp().GetPath(), m.GetHttp().GetHost(), false
		addresses = c.tracked(at+"http", m.GetHttp().GetAddress(), members, false)
		if w.Target == "" {
			w.Target = "/"
		}
		if !strings.HasPrefix(w.Target, "/") || strings.ContainsAny(w.Target, " \t\r\n#") {
			c.bad(at+"http.path", "want a path that begins with a slash, got %q", w.Target)
		}
		if strings.ContainsAny(w.Host, " \t\r\n/") {
			c.bad(at+"http.host", "want the name of a host, got %q", w.Host)
		}
	case m.GetEtcdKey() != nil:
		k := m.GetEtcdKey()
		w.Kind, w.Target, w.Exact = CheckEtcd, k.GetValue(), k.Value != nil
		if len(k.GetKey()) < 1 || len(k.GetKey()) > MaxKey {
			c.bad(at+"etcd_key.key", "want 1 to %d bytes, got %d", MaxKey, len(k.GetKey()))
		}
		addresses = map[string]string{}
		for _, member := range members {
			addresses[member.Node] = strings.ReplaceAll(k.GetKey(), "{node}", member.Node)
		}
	case m.GetScript() != nil:
		canReverse = false
		w.Kind = CheckScript
		w.Command, w.Target = c.script(at+"script.", m.GetScript())
	case m.GetProcess() != nil:
		w.Kind, w.Target = CheckProcess, m.GetProcess().GetName()
		if len(w.Target) < 1 || len(w.Target) > MaxProcessName || strings.ContainsAny(w.Target, "/\n\x00") {
			c.bad(at+"process.name", "want 1 to %d bytes without slashes, got %q", MaxProcessName, w.Target)
		}
	case m.GetFile() != nil:
		w.Kind, w.Target, w.Number, w.Namespace = CheckFile, m.GetFile().GetPath(), m.GetFile().GetNumber(), m.GetFile().GetNamespace()
		if w.Number && w.Namespace {
			c.bad(at+"file.namespace", "the file holds either a number or the mark of a namespace")
		}
		if !path.IsAbs(w.Target) || path.Clean(w.Target) != w.Target || strings.Contains(w.Target, "\x00") {
			c.bad(at+"file.path", "want the absolute path of a file, got %q", w.Target)
		}
	case m.GetInterface() != nil:
		w.Kind, w.Target = CheckInterface, m.GetInterface().GetName()
		if len(w.Target) < 1 || len(w.Target) > MaxProcessName || strings.ContainsAny(w.Target, "/ \n\x00") {
			c.bad(at+"interface.name", "want the name of a network card, got %q", w.Target)
		}
	case m.GetRoute() != nil:
		w.Kind = CheckRoute
		p, err := netip.ParsePrefix(m.GetRoute().GetDestination())
		if err != nil || p != p.Masked() || p.Addr().Is4In6() {
			c.bad(at+"route.destination", "want a network as in 10.0.0.0/8 or ::/0, got %q", m.GetRoute().GetDestination())
		}
		w.Target = p.String()
	}
	if w.Reverse && !canReverse {
		c.bad(at+"reverse", "only process, file, interface, route and etcd_key can be reversed")
	}
	return w, addresses
}

// script returns the command and the user of a program.
func (c *checker) script(at string, m *vrrpv1.Script) (command, name string) {
	name = m.GetUser()
	if name == "" {
		name = "nobody"
	}
	command = c.command(at+"argv", m.GetArgv())
	if !user.MatchString(name) {
		c.bad(at+"user", "want the name of a user, got %q", name)
	}
	return command, name
}

// hooks are the programs that are told of changes.
func (c *checker) hooks(at string, m *vrrpv1.Instance) []Hook {
	var all []Hook
	for _, list := range []struct {
		field, state string
		scripts      []*vrrpv1.Script
	}{
		{"notify_master", StateMaster, m.GetNotifyMaster()}, {"notify_backup", StateBackup, m.GetNotifyBackup()},
		{"notify_fault", StateFault, m.GetNotifyFault()}, {"notify_stop", StateStop, m.GetNotifyStop()},
		{"notify", "", m.GetNotify()},
	} {
		if len(list.scripts) > MaxHooks {
			c.bad(at+list.field, "want %d programs at most, got %d", MaxHooks, len(list.scripts))
		}
		for n, s := range list.scripts {
			command, name := c.script(fmt.Sprintf("%s%s[%d].", at, list.field, n), s)
			all = append(all, Hook{Command: command, User: name, State: list.state})
		}
	}
	return all
}

// mail is where changes are told.
func (c *checker) mail(at string, m *vrrpv1.Mail) Mail {
	if m == nil {
		return Mail{}
	}
	if len(m.GetTo()) < 1 || len(m.GetTo()) > MaxReceivers {
		c.bad(at+"to", "want 1 to %d addresses, got %d", MaxReceivers, len(m.GetTo()))
	}
	for n, address := range append([]string{m.GetFrom()}, m.GetTo()...) {
		if !mailbox.MatchString(address) {
			field := at + "from"
			if n > 0 {
				field = fmt.Sprintf("%sto[%d]", at, n-1)
			}
			c.bad(field, "want an address of mail, got %q", address)
		}
	}
	server := m.GetServer()
	if !strings.Contains(server, ":") {
		server += ":25"
	}
	if !dialable(server) || strings.HasPrefix(server, "unix:") {
		c.bad(at+"server", "want HOST or HOST:PORT, got %q", m.GetServer())
	}
	return Mail{
		From: m.GetFrom(), To: m.GetTo(), Server: server,
		Timeout: c.duration(at+"timeout", m.GetTimeout(), DefaultMailTimeout, MinMailTimeout, MaxMailTimeout),
	}
}

// mailbox is an address of mail in its plain form, which is what all servers take.
var mailbox = regexp.MustCompile(`^[A-Za-z0-9._%+=-]{1,64}@[A-Za-z0-9.-]{1,253}$`)

// user is what a user may be called (useradd of Debian).
var user = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// command checks the arguments of a script and joins them.
func (c *checker) command(field string, argv []string) string {
	if len(argv) < 1 || len(argv) > MaxArguments {
		c.bad(field, "want a program and its arguments, %d at most, got %d", MaxArguments, len(argv))
		return ""
	}
	if !path.IsAbs(argv[0]) || path.Clean(argv[0]) != argv[0] {
		c.bad(field+"[0]", "want the absolute path of a program, got %q", argv[0])
	}
	joined := ""
	for n, argument := range argv {
		if len(argument) > MaxArgument || strings.Contains(argument, "\x00") {
			c.bad(fmt.Sprintf("%s[%d]", field, n), "want %d bytes at most, without zero bytes", MaxArgument)
		}
		joined += argument + "\x00"
	}
	return joined
}

// tracked wants one address for each member, and none for others: a member without a check would hold the addresses
// whatever is broken, and a name misspelt is such a member.
func (c *checker) tracked(field string, addresses map[string]string, members []Member, local bool) map[string]string {
	for _, member := range members {
		if _, ok := addresses[member.Node]; !ok {
			c.bad(field+".address", "want an address for each member, none for %s", member.Node)
		}
	}
	for _, node := range slices.Sorted(maps.Keys(addresses)) {
		at := fmt.Sprintf("%s.address[%s]", field, node)
		if !slices.ContainsFunc(members, func(m Member) bool { return m.Node == node }) {
			c.bad(at, "%q is no member of this instance", node)
		}
		switch {
		case local && !dialable(addresses[node]):
			c.bad(at, "want HOST:PORT or unix:PATH, got %q", addresses[node])
		case !local && (!dialable(addresses[node]) || strings.HasPrefix(addresses[node], "unix:")):
			c.bad(at, "want HOST:PORT, got %q", addresses[node])
		}
	}
	return maps.Clone(addresses)
}

// weights refuses those that could not move the addresses in any case: they promise what they cannot do.
func (c *checker) weights(at string, all []Tracker, members []Member) {
	candidates := make([]election.Member, 0, len(members))
	for _, m := range members {
		candidates = append(candidates, election.Member{Priority: int(m.Priority)})
	}
	trackers := make([]election.Tracker, 0, len(all))
	for _, t := range all {
		trackers = append(trackers, election.Tracker{Weight: t.Weight})
	}
	for n, t := range all {
		if t.Weight == 0 || len(c.violations) > 0 || election.Moves(candidates, trackers, n) {
			continue
		}
		advice := "leave the weight out, and a failure is a fault"
		if w := election.Least(candidates, trackers, n, MaxWeight); w != 0 {
			advice = fmt.Sprintf("%d would do; or %s", w, advice)
		}
		c.bad(fmt.Sprintf("%strackers[%d].weight", at, n), "%d can never move the addresses, whatever all trackers find: %s", t.Weight, advice)
	}
}
