package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/netnstest"
	"github.com/twotier/twotier/services/internal/testreq"
)

// pair is two agents on the dispatch network and the control network, and a witness that counts the owners of vip1.
type pair struct {
	a, b     *machine
	onA, onB *agent
	census   *census
}

func newPair(t *testing.T, more string) *pair {
	t.Helper()
	p := newMachines(t)
	desired := version3(t, more)
	p.onA, p.onB = p.a.agent(t, desired), p.b.agent(t, desired)
	p.census.await(t, p.a.mac(t, "eth0"))
	p.acquainted(t)
	return p
}

// newMachines is a pair whose agents are still to be started.
func newMachines(t *testing.T) *pair {
	t.Helper()
	n := newLAN(t)
	p := &pair{a: n.machine(t, "haproxy", "192.168.60.22/24"), b: n.machine(t, "haproxy2", "192.168.60.128/24")}
	netnstest.Bridge(t, n.hub, "control")
	for m, prefix := range map[*machine]string{p.a: "10.99.0.22/24", p.b: "10.99.0.128/24"} {
		netnstest.Veth(t, m.NS, "eth1", prefix, n.hub, m.name+"-c", "")
		n.hub.Exec(t, "ip", "link", "set", m.name+"-c", "master", "control")
	}
	p.census = n.machine(t, "witness", "192.168.60.1/24").census(t, "eth0", vip1)
	return p
}

// acquainted waits until each agent knows the other one.
func (p *pair) acquainted(t *testing.T) {
	t.Helper()
	awaitThat(t, "the agents know each other", func() string {
		for _, on := range []*agent{p.onA, p.onB} {
			i := on.instances(t)["VI_1"]
			if len(i.GetAgents()) != 1 || len(i.GetAgents()[0].GetAddresses()) != 2 || !i.GetAgents()[0].GetOwner() && !i.GetAgents()[0].GetReady() {
				return fmt.Sprint(i)
			}
		}
		return ""
	})
}

// cuts are rules of nftables on haproxy that keep apart what the two machines send each other. ARP passes always: the
// witness must be able to count.
var cuts = map[string]string{
	"none":                   "",
	"multicast":              "ip daddr 224.0.0.18 drop",
	"multicast from haproxy": `meta oifname "eth0" ip daddr 224.0.0.18 drop`,
	"haproxy to haproxy2":    `meta oifname "eth0" ip daddr { 224.0.0.18, 192.168.60.128 } drop`,
	"haproxy2 to haproxy":    `meta iifname "eth0" ip saddr 192.168.60.128 drop`,
	"dispatch network":       "ip daddr 224.0.0.18 drop; ip saddr 192.168.60.128 drop; ip daddr 192.168.60.128 drop",
	"control network":        `meta iifname "eth1" drop; meta oifname "eth1" drop`,
	"all":                    `ip daddr 224.0.0.18 drop; ip saddr { 192.168.60.128, 10.99.0.128 } drop; ip daddr { 192.168.60.128, 10.99.0.128 } drop`,
}

// cut puts one of them in force, at one moment.
func (m *machine) cut(t *testing.T, name string) {
	t.Helper()
	rules := strings.ReplaceAll(cuts[name], ";", "\n")
	in, out := rules, rules
	// A rule for one direction only stands in one chain.
	if strings.Contains(rules, "oifname") && !strings.Contains(rules, "iifname") {
		in = ""
	}
	m.filter(t, without(in, "oifname"), without(out, "iifname"))
}

// drop puts rules in force for what the machine sends and gets; none with "".
func (m *machine) drop(t *testing.T, rules string) {
	t.Helper()
	m.filter(t, rules, rules)
}

// filter puts rules in force, at one moment, in the place of those before.
func (m *machine) filter(t *testing.T, in, out string) {
	t.Helper()
	text := "table inet cut\ndelete table inet cut\ntable inet cut {\n chain i { type filter hook input priority 0;\n" + in +
		"\n }\n chain o { type filter hook output priority 0;\n" + out + "\n }\n}\n"
	var said []byte
	var err error
	m.Do(t, func() {
		command := exec.Command("nft", "-f", "-")
		command.Stdin = strings.NewReader(text)
		said, err = command.CombinedOutput()
	})
	if err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, said, text)
	}
}

// without leaves out the lines that contain the word.
func without(text, word string) string {
	var kept []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, word) {
			kept = append(kept, strings.TrimSpace(line))
		}
	}
	return strings.Join(kept, "\n")
}

// grace is how many questions after a complete cut has ended are not counted: the two find each other again.
const grace = 300

// cutting is a cut, and how many questions of the census it lasts, which are milliseconds on an idle machine.
type cutting struct {
	name      string
	questions int
}

// schedule is random cuts for about that long.
func schedule(random *rand.Rand, length time.Duration) (all []cutting) {
	names := slices.Sorted(maps.Keys(cuts))
	for total := 0; total < int(length/time.Millisecond); {
		c := cutting{names[random.IntN(len(names))], 300 + random.IntN(1200)}
		all, total = append(all, c), total+c.questions
	}
	return all
}

// suffer puts the cuts in force, one after the other, and returns what was answered while there was a way between the
// two. After a complete cut it lets them find each other again.
func (p *pair) suffer(t *testing.T, all []cutting, each func(name string, got tally)) (total tally) {
	t.Helper()
	apart := false
	for _, c := range all {
		p.a.cut(t, c.name)
		since := p.census.mark()
		if apart {
			since += grace
		}
		want := since + c.questions
		awaitEach(t, 10*time.Millisecond, c.name, func() string {
			if got := p.census.mark(); got < want {
				return fmt.Sprintf("%d questions, want %d", got, want)
			}
			return ""
		})
		if apart = c.name == "all"; apart {
			continue
		}
		got := p.census.between(since, want)
		total.asked, total.nobody, total.one, total.two = total.asked+got.asked, total.nobody+got.nobody, total.one+got.one, total.two+got.two
		each(c.name, got)
	}
	p.a.cut(t, "none")
	return total
}

// TestKernelPartitions cuts the two agents off from each other at random, and counts who answers for the address every
// millisecond: while there is any way between them, there is one owner. The same cuts are made between two keepalived at the
// same interval beside them, for comparison. It takes 20 s, or as long as TWOTIER_PARTITIONS says, and nothing else runs.
func TestKernelPartitions(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "nft")
	}
	requireKeepalived(t)
	length := 20 * time.Second
	if text := os.Getenv("TWOTIER_PARTITIONS"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	all := schedule(rand.New(rand.NewPCG(seed, 0)), length)

	t.Run("agents", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, "profile: PROFILE_FAST")
		total := p.suffer(t, all, func(name string, got tally) {
			if got.two > 0 {
				t.Errorf("%s: %v", name, got)
			}
		})
		t.Logf("with a way between them: %v", total)
		p.census.await(t, p.a.mac(t, "eth0"))
		p.onA.stop(t)
		p.onB.stop(t)
	})
	t.Run("keepalived", func(t *testing.T) {
		t.Parallel()
		k := newMachines(t)
		onB := keepalivedVersion3(30)
		onA := strings.NewReplacer("priority 99", "priority 105", "priority 105", "priority 99").Replace(onB)
		ofA, ofB := k.a.keepalived(t, onA), k.b.keepalived(t, onB)
		k.census.await(t, k.a.mac(t, "eth0"))
		t.Logf("with a way between them: %v", k.suffer(t, all, func(string, tally) {}))
		ofA.stop(t)
		ofB.stop(t)
	})
}

// TestKernelPlannedMoves moves the address by order, by drain, by stop and by start, in both profiles: nobody who asks
// is left without an answer.
func TestKernelPlannedMoves(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{"PROFILE_COMPAT", "PROFILE_FAST"} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, "profile: "+profile)
			macA, macB := p.a.mac(t, "eth0"), p.b.mac(t, "eth0")
			ctx := t.Context()
			step := func(what, owner string, move func()) {
				t.Helper()
				since := p.census.mark()
				move()
				p.census.await(t, owner)
				got := p.census.count(since)
				t.Logf("%s: %v", what, got)
				// The last few are on their way; the next step would show them.
				if got.nobody > 10 {
					t.Errorf("%s: %v", what, got)
				}
			}
			admin := func(a *agent) vrrpv1.AgentAdminClient { return vrrpv1.NewAgentAdminClient(a.conn) }
			step("handover", macB, func() {
				answer, err := admin(p.onA).Handover(ctx, &vrrpv1.HandoverRequest{Instance: "VI_1"})
				if err != nil || answer.GetNode() != "haproxy2" {
					t.Fatalf("%v %v", answer, err)
				}
			})
			step("back", macA, func() {
				if _, err := admin(p.onB).Handover(ctx, &vrrpv1.HandoverRequest{Instance: "VI_1", Node: "haproxy"}); err != nil {
					t.Fatal(err)
				}
			})
			step("drain", macB, func() {
				if answer, err := admin(p.onA).Drain(ctx, &vrrpv1.DrainRequest{}); err != nil || len(answer.GetKept()) > 0 {
					t.Fatalf("%v %v", answer, err)
				}
			})
			step("end of the drain", macA, func() {
				if _, err := admin(p.onA).Drain(ctx, &vrrpv1.DrainRequest{End: true}); err != nil {
					t.Fatal(err)
				}
			})
			step("stop", macB, func() { p.onA.stop(t) })
			step("start", macA, func() { p.onA = p.a.agent(t, version3(t, "profile: "+profile)) })
			p.onA.stop(t)
			p.onB.stop(t)
		})
	}
}
