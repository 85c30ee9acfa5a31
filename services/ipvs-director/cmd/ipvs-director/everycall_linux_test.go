package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	"github.com/twotier/twotier/services/internal/netnstest"
	"github.com/twotier/twotier/services/internal/testreq"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/ipvs"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/nftables"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
)

// swappedReals is how many real servers of each of two services a change is about; half of them hand over to the other half.
const swappedReals = 20

// momentsEveryDay is beside about how many calls the program is killed in the short form.
const momentsEveryDay = 2

// ruleset is what another program than the director sees of the kernel.
type ruleset struct {
	// all is all of it, without counters.
	all func(ns *netnstest.NS) string
	// weights are the lines "VIP:port real:port weight", sorted, out of that.
	weights func(all string) []string
}

func seenByIPVSAdm(t *testing.T) ruleset {
	if _, err := exec.LookPath("ipvsadm"); err != nil {
		testreq.Missing(t, "the ipvsadm program, as a witness: install ipvsadm")
	}
	line := regexp.MustCompile(`(?m)^-a -t (\S+) -r (\S+) -m -w (\d+)$`)
	return ruleset{
		func(ns *netnstest.NS) string {
			lines := strings.Split(strings.TrimSpace(ns.Exec(t, "ipvsadm", "-Sn")), "\n")
			ns.Do(t, func() {
				limit, err := os.ReadFile("/proc/sys/net/ipv4/icmp_ratelimit")
				if err != nil {
					t.Fatal(err)
				}
				lines = append(lines, "icmp_ratelimit "+string(limit))
			})
			return strings.Join(lines, "\n")
		},
		func(all string) (weights []string) {
			for _, m := range line.FindAllStringSubmatch(all, -1) {
				weights = append(weights, strings.Join(m[1:], " "))
			}
			slices.Sort(weights)
			return weights
		},
	}
}

func seenByNFT(t *testing.T) ruleset {
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "the nft program, as a witness: install nftables")
	}
	service := regexp.MustCompile(`(?s)map weights_([0-9.]+)_(\d+) \{(.*?)\n\t\}`)
	weight := regexp.MustCompile(`([0-9.]+) \. (\d+) : (0x[0-9a-f]+)`)
	return ruleset{
		func(ns *netnstest.NS) string {
			return ns.Exec(t, "nft", "-s", "-n", "list", "ruleset")
		},
		func(all string) (weights []string) {
			for _, s := range service.FindAllStringSubmatch(all, -1) {
				for _, w := range weight.FindAllStringSubmatch(s[3], -1) {
					n, err := strconv.ParseUint(w[3], 0, 32)
					if err != nil {
						t.Fatal(err)
					}
					weights = append(weights, fmt.Sprintf("%s:%s %s:%s %d", s[1], s[2], w[1], w[2], n))
				}
			}
			slices.Sort(weights)
			return weights
		},
	}
}

// swap is one desired state of two services.
type swap struct {
	name string
	// schedulers of the two, and the weights of their first and second half; gone: they are not wanted.
	schedulers    [2]string
	first, second int
}

const gone = -1

// swapsInTurn are gone through in a circle: one half hands over to the other, then is taken away.
var swapsInTurn = []swap{
	{"the first half alone", [2]string{"wrr", "mh"}, 1, gone},
	{"the second half takes over", [2]string{"mh", "rr"}, 0, 3},
	{"the first half is taken away", [2]string{"mh", "rr"}, gone, 3},
	{"the first half takes over", [2]string{"wrr", "mh"}, 1, 0},
}

// says is the desired state as a file, and as the lines of a witness.
func (s swap) says(pools map[int][]netip.AddrPort) (file string, weights []string) {
	for i, port := range []int{planetest.VIPPort, planetest.VIP2Port} {
		file += fmt.Sprintf("---\nkind: virtual-service\nname: at-%[1]d\naddress: %[2]s\nport: %[1]d\nscheduler: %[3]s\nreal_servers:\n", port, planetest.VIP, s.schedulers[i])
		for n, real := range pools[port] {
			weight := s.first
			if n >= swappedReals/2 {
				weight = s.second
			}
			if weight != gone {
				file += fmt.Sprintf("  - {address: %s, port: %d, weight: %d}\n", real.Addr(), real.Port(), weight)
				weights = append(weights, fmt.Sprintf("%s:%d %s %d", planetest.VIP, port, real, weight))
			}
		}
	}
	slices.Sort(weights)
	return file, weights
}

// swapper has directors make changes beneath connections.
type swapper struct {
	*director
	n      *planetest.Network
	plane  string
	kernel ruleset
	pools  map[int][]netip.AddrPort
}

// is waits until the kernel is as wanted and the program says so.
func (s *swapper) is(weights []string) error {
	if got := s.kernel.weights(s.kernel.all(s.n.Director)); !slices.Equal(got, weights) {
		return fmt.Errorf("the kernel has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(weights, "\n"))
	}
	answer, err := s.admin.Reconcile(s.t.Context(), &commonv1.ReconcileRequest{})
	if err == nil && (answer.GetOutcome() != commonv1.Outcome_OUTCOME_DONE || len(answer.GetChanges()) > 0) {
		err = fmt.Errorf("a pass ends %s with changes %q", answer.GetOutcome(), answer.GetChanges())
	}
	return err
}

// change has the running program make the next state, with at called beside each kernel call; where that says so the program is killed,
// and left what it has made of the kernel. In the end that is what is wanted, by the work of another program, which goes on running.
func (s *swapper) change(to swap, at func(kernelCall) (kill bool)) (left string) {
	s.t.Helper()
	var open []*planetest.Conn
	for _, port := range []int{planetest.VIPPort, planetest.VIPPort, planetest.VIP2Port, planetest.VIP2Port} {
		c, err := s.n.Dial(s.t, port)
		if err != nil {
			s.t.Fatal(err)
		}
		open = append(open, c)
	}
	load := s.n.Load(s.t, planetest.VIPPort, planetest.VIP2Port)
	// The tracer alone waits for the program: whoever else does is told of its stops instead.
	begun, dead := make(chan struct{}), make(chan struct{})
	var failed error
	go func() {
		defer close(dead)
		failed = holdAtCalls(s.process.Process.Pid, begun, at)
	}()
	select {
	case <-begun:
	case <-dead:
		s.t.Fatalf("trace the program: %v", failed)
	}
	file, weights := to.says(s.pools)
	s.want(file)
	eventually(s.t, to.name, func() error {
		err := s.is(weights)
		select {
		case <-dead:
			return nil
		default:
			return err
		}
	})
	_ = s.process.Process.Kill() // it may be dead
	<-dead
	_ = s.process.Wait() // the tracer has been told how it ended
	if failed != nil {
		s.t.Fatalf("trace the program: %v", failed)
	}
	left = inOrder(s.kernel.all(s.n.Director))
	s.start("--dataplane", s.plane)
	eventually(s.t, to.name, func() error { return s.is(weights) })
	if made, err := load.Stop(); err != nil {
		s.t.Errorf("%s: of %d connections: %v", to.name, made, err)
	}
	for _, c := range open {
		c.Echo(s.t, to.name)
		if err := c.Close(); err != nil {
			s.t.Error(err)
		}
	}
	return left
}

// inOrder sorts the lines of what a witness sees: things come in the order in which they were made.
func inOrder(all string) string {
	lines := strings.Split(all, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// killedBesideEveryCall has the program killed before and after every call by which it changes the kernel, in changes of 20 real
// servers in each of two services, while connections come and go and some stay open: none is refused, reset or silent, the kernel is
// left with what the calls before have made of it and nothing else, and the next program finishes. Which calls there are is learnt
// from a program that nobody kills.
func killedBesideEveryCall(t *testing.T, plane string, kernel ruleset) {
	n := planetest.NewNetwork(t)
	const firstPort = 9001
	pools := map[int][]netip.AddrPort{
		planetest.VIPPort: n.Pool(t, swappedReals, firstPort), planetest.VIP2Port: n.Pool(t, swappedReals, firstPort+swappedReals),
	}
	file, weights := swapsInTurn[0].says(pools)
	s := &swapper{newDirector(t, n.Director, file), n, plane, kernel, pools}
	s.start("--dataplane", plane)
	eventually(t, "the first state", func() error { return s.is(weights) })

	next := func(i int) swap { return swapsInTurn[(i+1)%len(swapsInTurn)] }
	// states are what the kernel is after each call of each change, from none on; moments are those before and after each.
	var states [4][]string
	moments := 0
	for i := range swapsInTurn {
		states[i] = []string{inOrder(kernel.all(n.Director))}
		left := s.change(next(i), func(c kernelCall) bool {
			if c.after {
				states[i] = append(states[i], inOrder(kernel.all(n.Director)))
				t.Logf("%s, call %d: %s", next(i).name, c.n, c.what)
			}
			return false
		})
		if left != states[i][len(states[i])-1] {
			t.Errorf("%s: a call has escaped; the kernel has\n%s\nand after the last one\n%s", next(i).name, left, states[i][len(states[i])-1])
		}
		moments = max(moments, 2*(len(states[i])-1))
	}
	every := 1
	if os.Getenv(planetest.Long) != "1" {
		every = moments/momentsEveryDay | 1 // odd, so that both sides of calls have their turn
	}
	t.Logf("at one in %d of %d moments of each change", every, moments)
	for moment := 0; moment < moments; moment += every {
		for i := range swapsInTurn {
			call, after := moment/2+1, moment%2 == 1
			killed := false
			left := s.change(next(i), func(c kernelCall) bool {
				killed = c.n == call && c.after == after
				return killed
			})
			calls := len(states[i]) - 1
			if killed != (call <= calls) {
				t.Errorf("%s: of %d calls the one with the number %d was made: %v", next(i).name, calls, call, killed)
			}
			want := min(call, calls)
			if call <= calls && !after {
				want = call - 1
			}
			if left != states[i][want] {
				t.Errorf("%s, call %d, after it: %v: the kernel is left with\n%s\nwant\n%s", next(i).name, call, after, left, states[i][want])
			}
		}
	}
}

func TestKernelKilledBesideEveryCallOnNFTables(t *testing.T) {
	netnstest.Require(t)
	if r := nftables.Probe(); !r.Usable {
		testreq.Missing(t, "nf_tables in this kernel: "+r.Reason)
	}
	killedBesideEveryCall(t, dataplane.NFTables, seenByNFT(t))
}

func TestKernelKilledBesideEveryCallOnIPVS(t *testing.T) {
	netnstest.Require(t)
	if !ipvs.Probe().Usable {
		planetest.UML.Run(t, "^"+t.Name()+"$", binaryVariable+"="+buildDirector(t))
		return
	}
	killedBesideEveryCall(t, dataplane.IPVS, seenByIPVSAdm(t))
}
