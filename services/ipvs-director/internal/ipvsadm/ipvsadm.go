// Package ipvsadm answers: what do these IPVS rules say in our words, and how are ours said as rules?
//
// The language is what ipvsadm -S -n prints and ipvsadm -R reads (ipvsadm(8)). The package is pure.
package ipvsadm

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/importing"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// Import reads rules. The services that it returns are valid together.
func Import(rules []byte) ([]*directorv1.VirtualService, *commonv1.ImportReport, error) {
	var report importing.Report
	lines, err := report.Read("", rules)
	if err != nil {
		return nil, nil, err
	}
	r := reader{services: map[string]*service{}, special: map[string]bool{}}
	for _, line := range lines {
		r.line(line)
	}
	services := r.finish(&report)
	return services, report.Message(), nil
}

// Export writes services as rules, in their order, as ipvsadm -S -n does; thresholds, which that leaves out, are written too.
func Export(services []spec.Service) string {
	var out strings.Builder
	for _, s := range services {
		vip := name(s.VIP)
		fmt.Fprintf(&out, "-A %s -s %s%s%s", vip, s.Scheduler, persistence(s), flags[s.Scheduler])
		if s.OnePacket {
			out.WriteString(" -o")
		}
		out.WriteByte('\n')
		for _, r := range s.Reals {
			fmt.Fprintf(&out, "-a %s -r %s %s -w %d%s", vip, r.Address, methods[r.Forward.Method], r.Weight, tunnel(r.Forward))
			if r.Upper != 0 {
				fmt.Fprintf(&out, " -x %d", r.Upper)
			}
			if r.Lower != 0 {
				fmt.Fprintf(&out, " -y %d", r.Lower)
			}
			out.WriteByte('\n')
		}
	}
	return out.String()
}

// name is how rules name a service.
func name(v spec.VIP) string {
	switch {
	case v.Mark != 0 && v.Mark6:
		return fmt.Sprintf("-f %d -6", v.Mark)
	case v.Mark != 0:
		return fmt.Sprintf("-f %d", v.Mark)
	case v.Protocol == spec.UDP:
		return "-u " + v.AddrPort.String()
	}
	return "-t " + v.AddrPort.String()
}

func persistence(s spec.Service) string {
	p := s.Persistence
	switch {
	case p == (spec.Persistence{}):
		return ""
	case s.VIP.Is6() && p.Prefix != 128:
		return fmt.Sprintf(" -p %d -M %d", p.Timeout/time.Second, p.Prefix)
	case !s.VIP.Is6() && p.Prefix != 32:
		return fmt.Sprintf(" -p %d -M %s", p.Timeout/time.Second, net.IP(net.CIDRMask(p.Prefix, 32)))
	}
	return fmt.Sprintf(" -p %d", p.Timeout/time.Second)
}

var methods = map[spec.Method]string{spec.Masquerade: "-m", spec.Direct: "-g", spec.ByTunnel: "-i"}

func tunnel(f spec.Forward) string {
	if f.Method != spec.ByTunnel {
		return ""
	}
	checksum := map[spec.TunnelChecksum]string{spec.NoChecksum: "--tun-nocsum", spec.WholeChecksum: "--tun-csum", spec.RemoteChecksum: "--tun-remcsum"}[f.Checksum]
	switch f.Tunnel {
	case spec.GUE:
		return fmt.Sprintf(" --tun-type gue --tun-port %d %s", f.Port, checksum)
	case spec.GRE:
		return " --tun-type gre " + checksum
	}
	return " --tun-type ipip"
}

// flags are what our schedulers are in the words of ipvsadm(8), --sched-flags: a client of a real server with the weight 0
// goes to another, and mh looks at the port too.
var flags = map[spec.Scheduler]string{spec.SH: " -b sh-fallback", spec.MH: " -b mh-fallback,mh-port"}

// service is a virtual service while its rules are read.
type service struct {
	line    *importing.Line
	vip     spec.VIP
	message *directorv1.VirtualService
	reals   map[netip.AddrPort]int // real server -> number of its line
	// refused is why the service is not taken; empty: it is.
	refused string
	// missed are lines of real servers that are not taken.
	missed int
}

// reader goes through the lines once.
type reader struct {
	order    []*service
	services map[string]*service // by how rules name them, for example "-t 10.10.60.22:80"
	// special is what only the plane ipvs does and has been taken.
	special map[string]bool
}

func (r *reader) line(line *importing.Line) {
	text := line.Text
	if at := strings.IndexByte(text, '#'); at >= 0 {
		if importing.Secretive(text[at:]) {
			line.Show(text[:at] + "# ***")
		}
		text = text[:at]
	}
	words := strings.Fields(text)
	if len(words) > 0 && (words[0] == "ipvsadm" || strings.HasSuffix(words[0], "/ipvsadm")) {
		words = words[1:]
	}
	if len(words) == 0 {
		line.Ignored("empty or a comment")
		return
	}
	switch words[0] {
	case "-A", "--add-service":
		r.service(line, words[1:])
	case "-a", "--add-server":
		r.real(line, words[1:])
	case "-C", "--clear":
		line.Ignored("the objects are the whole state; there is nothing to clear before")
	default:
		line.LeftOut("%s: a saved state consists of -A and -a; bring the rules into the kernel and save them with ipvsadm -S -n",
			importing.Quote(words[0]))
	}
}

// finish turns what was read into messages and speaks about what came of it.
func (r *reader) finish(report *importing.Report) []*directorv1.VirtualService {
	var taken []*directorv1.VirtualService
	for _, s := range r.order {
		if len(s.message.GetRealServers()) == 0 && s.missed > 0 {
			s.line.LeftOut("none of its real servers can be taken, and a service without any would refuse its clients")
			continue
		}
		taken = append(taken, s.message)
	}
	if len(taken) > 0 {
		report.Warn("The rules name no addresses of the node. If the director shall hold the VIPs, and the address that is " +
			"the real servers' gateway, apply an object of kind address for each; else they must be on a network card already.")
	}
	if len(r.special) > 0 {
		report.Warn("Only the data plane ipvs does this: %s.", strings.Join(slices.Sorted(maps.Keys(r.special)), ", "))
	}
	return taken
}

// service reads the words behind -A.
func (r *reader) service(line *importing.Line, words []string) {
	o := options(words)
	key, vip, wrong := o.service()
	switch {
	case wrong != "":
	case r.services[key] != nil:
		wrong = fmt.Sprintf("line %d has this service already", r.services[key].line.Number)
	case len(r.order) == spec.MaxServices:
		wrong = fmt.Sprintf("one director takes %d virtual services; use another one", spec.MaxServices)
	}
	if wrong != "" {
		line.LeftOut("%s", wrong)
		if key != "" && r.services[key] == nil {
			r.services[key] = &service{line: line, refused: wrong}
		}
		return
	}
	s := &service{line: line, vip: vip, reals: map[netip.AddrPort]int{}, message: &directorv1.VirtualService{Name: objectName(vip), Fwmark: vip.Mark}}
	switch {
	case vip.Mark != 0:
		r.special["services by mark"] = true
		if vip.Mark6 {
			s.message.Family = directorv1.Family_FAMILY_IPV6
		}
	default:
		s.message.Address, s.message.Port = vip.Addr().String(), uint32(vip.Port())
		if vip.Protocol == spec.UDP {
			s.message.Protocol = directorv1.Protocol_PROTOCOL_UDP
		}
	}
	r.services[key] = s
	r.order = append(r.order, s)
	line.Taken("virtual-service/%s", s.message.GetName())
	s.scheduler(o)
	if !slices.Contains([]string{"rr", "wrr", "lc", "wlc", "sh", "mh"}, s.message.GetScheduler()) {
		r.special["the scheduler "+s.message.GetScheduler()] = true
	}
	s.persistence(o)
	for _, option := range o {
		switch option.name {
		case "-t", "-u", "-f", "-6", "-s", "-b", "-p", "-M":
		case "-o":
			switch {
			case vip.Mark != 0 || vip.Protocol != spec.UDP:
				line.Unsupported("-o: it is for UDP only; the service is taken without it")
			case s.message.GetPersistence() != nil:
				line.Unsupported("-o: with -p datagrams stay where they were; the service is taken without -o")
			default:
				s.message.OnePacket = true
				r.special["each datagram anew (-o)"] = true
			}
		case "--pe":
			line.Unsupported("--pe %s: clients are told apart by their addresses only", importing.Quote(option.value))
		default:
			line.Unsupported("%s: the service is taken without it", importing.Quote(option.name))
		}
	}
}

// objectName makes the name of an object of a VIP; no two have the same.
func objectName(vip spec.VIP) string {
	return strings.NewReplacer("[", "", "]", "", ":", "-", "/", "-").Replace(vip.String())
}

// defaultPersistence is how long ipvsadm 1.31 has clients kept where -p says nothing, whatever its manual says.
const defaultPersistence = 360 * time.Second

// persistence takes -p and -M.
func (s *service) persistence(o optionList) {
	text, persists := o.find("-p")
	mask, masked := o.find("-M")
	if !persists {
		if masked {
			s.line.Unsupported("-M: it belongs to -p")
		}
		return
	}
	timeout := defaultPersistence
	switch seconds, err := strconv.ParseUint(text, 10, 32); {
	case text == "":
		s.line.Assumed("clients are kept for %s, the default of ipvsadm", timeout)
	case err != nil || seconds == 0:
		s.line.Unsupported("-p %s: want a number of seconds; clients are kept for %s", importing.Quote(text), timeout)
	case time.Duration(seconds)*time.Second > spec.MaxPersistence:
		timeout = spec.MaxPersistence
		s.line.Unsupported("-p %s: clients are kept for %s, which is the longest", importing.Quote(text), timeout)
	default:
		timeout = time.Duration(seconds) * time.Second
	}
	s.message.Persistence = &directorv1.Persistence{Timeout: durationpb.New(timeout)}
	if masked {
		if bits, ok := prefix(mask, s.vip.Is6()); ok {
			s.message.Persistence.Prefix = uint32(bits)
		} else {
			s.line.Unsupported("-M %s: want a netmask, or for IPv6 1 to 128 bits; the whole address of a client counts", importing.Quote(mask))
		}
	}
}

// prefix reads a netmask of IPv4, or the length of one of IPv6.
func prefix(mask string, six bool) (bits int, ok bool) {
	if six {
		n, err := strconv.Atoi(mask)
		return n, err == nil && n >= 1 && n <= 128
	}
	a, err := netip.ParseAddr(mask)
	if err != nil || !a.Is4() {
		return 0, false
	}
	bits, size := net.IPMask(a.AsSlice()).Size()
	return bits, size == 32 && bits > 0
}

// scheduler takes the scheduler, or the one of ours that is nearest to it.
func (s *service) scheduler(o optionList) {
	word, _ := o.find("-s")
	switch word {
	case "":
		s.message.Scheduler = string(spec.WLC)
		s.line.Assumed("scheduler wlc, the default of ipvsadm")
	default:
		scheduler := spec.Scheduler(word)
		if !slices.Contains(spec.Schedulers, scheduler) {
			s.message.Scheduler = string(spec.WLC)
			s.line.Unsupported("scheduler %s: wlc is taken; there are %v", importing.Quote(word), spec.Schedulers)
			return
		}
		s.message.Scheduler = word
		said, _ := o.find("-b")
		switch ours := strings.TrimPrefix(flags[scheduler], " -b "); {
		case sameFlags(said, ours):
		case ours == "":
			s.line.Unsupported("-b: the scheduler %s is taken without it", word)
		default:
			s.line.Assumed("-b %s, which is how %s deals here", ours, word)
		}
	}
}

// sameFlags compares two lists of scheduler flags, whatever their order.
func sameFlags(a, b string) bool {
	return slices.Equal(slices.Sorted(strings.SplitSeq(a, ",")), slices.Sorted(strings.SplitSeq(b, ",")))
}

// real reads the words behind -a.
func (r *reader) real(line *importing.Line, words []string) {
	o := options(words)
	key, vip, wrong := o.service()
	s := r.services[key]
	switch {
	case wrong != "":
		line.LeftOut("%s", wrong)
		return
	case s == nil:
		line.LeftOut("no line above adds the service %s", vip)
		return
	case s.refused != "":
		line.LeftOut("the service of line %d is not taken: %s", s.line.Number, s.refused)
		return
	}
	message, address, wrong := o.real(vip)
	if wrong == "" {
		wrong = o.forward(vip, message, &address)
	}
	if wrong == "" {
		switch other, twice := s.reals[address]; {
		case twice:
			wrong = fmt.Sprintf("line %d has this real server already", other)
		case address == vip.AddrPort:
			wrong = "the real server is the VIP itself"
		case len(s.reals) == spec.MaxRealServers:
			wrong = fmt.Sprintf("a service takes %d real servers", spec.MaxRealServers)
		}
	}
	if wrong != "" {
		s.missed++
		line.LeftOut("%s", wrong)
		return
	}
	s.reals[address] = line.Number
	s.message.RealServers = append(s.message.RealServers, message)
	line.Taken("real server %s of virtual-service/%s", address, s.message.GetName())
	if _, said := o.find("-w"); !said {
		line.Assumed("weight 1, the default of ipvsadm")
	}
	if text, _ := o.find("-r"); address.Port() != 0 && message.GetPort() == 0 && !strings.HasSuffix(text, fmt.Sprintf(":%d", address.Port())) {
		line.Assumed("port %d, that of the service", address.Port())
	}
	switch message.GetForwarding() {
	case directorv1.Forwarding_FORWARDING_DIRECT:
		r.special["direct routing (-g)"] = true
		if _, said := o.find("-g"); !said {
			line.Assumed("direct routing (-g), the default of ipvsadm")
		}
	case directorv1.Forwarding_FORWARDING_TUNNEL:
		r.special["tunnels (-i)"] = true
	}
	s.thresholds(line, message, o)
	for _, option := range o {
		switch option.name {
		case "-t", "-u", "-f", "-6", "-r", "-m", "-g", "-i", "-w", "-x", "-y":
		case "--tun-type", "--tun-port", "--tun-csum", "--tun-nocsum", "--tun-remcsum":
			if message.GetForwarding() != directorv1.Forwarding_FORWARDING_TUNNEL {
				line.Unsupported("%s: it belongs to -i", option.name)
			}
		default:
			line.Unsupported("%s: the real server is taken without it", importing.Quote(option.name))
		}
	}
}

// thresholds takes -x and -y.
func (s *service) thresholds(line *importing.Line, message *directorv1.RealServer, o optionList) {
	number := func(name string) uint32 {
		text, said := o.find(name)
		n, err := strconv.ParseUint(text, 10, 32)
		if said && err != nil {
			line.Unsupported("%s %s: want 0 to 4294967295", name, importing.Quote(text))
		}
		return uint32(n) // 0 with an error
	}
	message.UpperThreshold, message.LowerThreshold = number("-x"), number("-y")
	if message.GetLowerThreshold() > message.GetUpperThreshold() {
		line.Unsupported("-y %d: it is above -x; the real server is taken without it", message.GetLowerThreshold())
		message.LowerThreshold = 0
	}
}

// option is one option with its argument.
type option struct{ name, value string }

// optionList is the options of one line.
type optionList []option

// short gives the long options the names of the short ones (ipvsadm(8)).
var short = map[string]string{
	"--tcp-service": "-t", "--udp-service": "-u", "--fwmark-service": "-f", "--scheduler": "-s", "--persistent": "-p",
	"--netmask": "-M", "--real-server": "-r", "--masquerading": "-m", "--gatewaying": "-g", "--ipip": "-i", "--weight": "-w",
	"--u-threshold": "-x", "--l-threshold": "-y", "--sched-flags": "-b", "--ops": "-o", "--ipv6": "-6",
}

// services are the options that name one.
var services = []string{"-t", "-u", "-f", "--sctp-service"}

// bare are the options that take no argument.
var bare = map[string]bool{"-m": true, "-g": true, "-i": true, "-o": true, "-6": true, "--tun-nocsum": true, "--tun-csum": true, "--tun-remcsum": true}

func options(words []string) optionList {
	var all optionList
	for i := 0; i < len(words); i++ {
		name, value, given := strings.Cut(words[i], "=")
		if !strings.HasPrefix(name, "--") {
			name, value, given = words[i], "", false
		}
		if s, ok := short[name]; ok {
			name = s
		}
		// An argument is the next word that is no option. That of -p may be missing.
		if !given && strings.HasPrefix(name, "-") && !bare[name] && i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
			i++
			value = words[i]
		}
		all = append(all, option{name, value})
	}
	return all
}

func (o optionList) find(name string) (value string, found bool) {
	for _, each := range o {
		if each.name == name {
			return each.value, true
		}
	}
	return "", false
}

// service finds the service that a line is about. The key is empty when the line names none.
func (o optionList) service() (key string, vip spec.VIP, wrong string) {
	for _, kind := range services {
		text, found := o.find(kind)
		if !found {
			continue
		}
		_, six := o.find("-6")
		key = kind + " " + text
		switch kind {
		case "--sctp-service":
			return key, vip, "SCTP: the director serves TCP and UDP; leave the service where it is"
		case "-f":
			mark, err := strconv.ParseUint(text, 10, 32)
			if err != nil || mark == 0 {
				return key, vip, fmt.Sprintf("-f %s: want 1 to 4294967295", importing.Quote(text))
			}
			vip = spec.VIP{Mark: uint32(mark), Mark6: six}
			return name(vip), vip, ""
		case "-u":
			vip.Protocol = spec.UDP
		}
		if vip.AddrPort, wrong = endpoint(text); wrong == "" {
			key = name(vip)
		}
		return key, vip, wrong
	}
	return "", vip, "it names no service with -t, -u or -f"
}

// real finds the real server.
func (o optionList) real(vip spec.VIP) (message *directorv1.RealServer, address netip.AddrPort, wrong string) {
	text, found := o.find("-r")
	if !found {
		return nil, address, "it names no real server with -r"
	}
	// Without a port it has that of the service; with 0, behind a mark, that which the client asked for.
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		address = netip.AddrPortFrom(a, vip.Port())
	} else if both, err := netip.ParseAddrPort(text); err == nil && both.Port() == 0 && vip.Mark != 0 {
		address = both
	} else if address, wrong = endpoint(text); wrong != "" {
		return nil, address, wrong
	}
	if !spec.Usable(address.Addr()) {
		return nil, address, fmt.Sprintf("%s: not an address of a host on a network", importing.Quote(text))
	}
	weight := uint64(1)
	if text, given := o.find("-w"); given {
		var err error
		if weight, err = strconv.ParseUint(text, 10, 32); err != nil || weight > spec.MaxWeight {
			return nil, address, fmt.Sprintf("weight %s: want 0 to %d", importing.Quote(text), spec.MaxWeight)
		}
	}
	return &directorv1.RealServer{
		Address: address.Addr().String(), Port: uint32(address.Port()), Weight: proto.Uint32(uint32(weight)),
	}, address, ""
}

// forward reads how packets reach the real server, into its message. Without masquerading its port is that of the service.
func (o optionList) forward(vip spec.VIP, message *directorv1.RealServer, address *netip.AddrPort) (wrong string) {
	_, masquerades := o.find("-m")
	_, tunnels := o.find("-i")
	if address.Addr().Is6() != vip.Is6() && (masquerades || !tunnels) {
		return fmt.Sprintf("%s is of another family than the service, which is possible by a tunnel only", address.Addr())
	}
	if masquerades {
		return ""
	}
	*address = netip.AddrPortFrom(address.Addr(), vip.Port())
	message.Port = 0
	if !tunnels {
		message.Forwarding = directorv1.Forwarding_FORWARDING_DIRECT
		return ""
	}
	message.Forwarding = directorv1.Forwarding_FORWARDING_TUNNEL
	t := &directorv1.Tunnel{}
	kind, _ := o.find("--tun-type")
	switch kind {
	case "", "ipip":
		return o.without("--tun-port", "--tun-csum", "--tun-remcsum")
	case "gue":
		text, _ := o.find("--tun-port")
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return fmt.Sprintf("--tun-port %s: want 1 to 65535", importing.Quote(text))
		}
		t.Type, t.Port = directorv1.TunnelType_TUNNEL_TYPE_GUE, uint32(port)
		if _, remote := o.find("--tun-remcsum"); remote {
			t.Checksum = directorv1.TunnelChecksum_TUNNEL_CHECKSUM_REMOTE
		}
	case "gre":
		t.Type = directorv1.TunnelType_TUNNEL_TYPE_GRE
		if wrong := o.without("--tun-port", "--tun-remcsum"); wrong != "" {
			return wrong
		}
	default:
		return fmt.Sprintf("--tun-type %s: there are ipip, gue and gre", importing.Quote(kind))
	}
	if _, whole := o.find("--tun-csum"); whole {
		t.Checksum = directorv1.TunnelChecksum_TUNNEL_CHECKSUM_WHOLE
	}
	message.Tunnel = t
	return ""
}

// without tells which of the options there is that must not be.
func (o optionList) without(names ...string) (wrong string) {
	for _, name := range names {
		if _, there := o.find(name); there {
			return name + ": not with this type of tunnel"
		}
	}
	return ""
}

// endpoint reads ADDRESS:PORT.
func endpoint(text string) (netip.AddrPort, string) {
	address, err := netip.ParseAddrPort(text)
	switch {
	case err != nil && strings.Contains(text, ":"):
		return netip.AddrPort{}, fmt.Sprintf("%s: want ADDRESS:PORT in numbers; save the rules with ipvsadm -S -n", importing.Quote(text))
	case err != nil || address.Port() == 0:
		return netip.AddrPort{}, fmt.Sprintf("%s: a service on all ports; name each port in a service of its own", importing.Quote(text))
	case !spec.Usable(address.Addr()):
		return netip.AddrPort{}, fmt.Sprintf("%s: not an address of a host on a network", importing.Quote(text))
	}
	return address, ""
}
