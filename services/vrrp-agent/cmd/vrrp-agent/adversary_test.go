package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/testreq"
)

// mutants is how many packets TestKernelAdversary throws, unless TWOTIER_MUTANTS says.
const mutants = 600

// TestKernelAdversary throws adverts that scapy has mutated at a master and a backup, in both families. scapy says of each
// what the RFC makes of it; nothing changes a state, nothing ends a process, and the counters are scapy's.
func TestKernelAdversary(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("scapy3"); err != nil {
		testreq.Missing(t, "scapy")
	}
	count := mutants
	if text := os.Getenv("TWOTIER_MUTANTS"); text != "" {
		var err error
		if count, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	n := newLAN(t)
	a, b := n.pairV6(t)
	adversary := n.machineV6(t, "adversary", "192.168.60.66/24", "2001:db8:60::66/64")
	desired := bothFamilies(t, 105, "advert_interval: 1s")
	onA := a.agent(t, desired)
	for _, name := range []string{"VI_1", "VI_6"} {
		master(t, onA, name)
	}
	onB := b.agent(t, desired)
	awaitThat(t, "the backup hears the master", func() string {
		all := onB.instances(t)
		for _, name := range []string{"VI_1", "VI_6"} {
			if i := all[name]; i.GetState() != vrrpv1.State_STATE_BACKUP || i.GetAdvertsReceived() < 1 {
				return fmt.Sprint(i)
			}
		}
		return ""
	})
	transitions := func(on *agent) (all []uint64) {
		for _, name := range []string{"VI_1", "VI_6"} {
			all = append(all, on.instances(t)[name].GetTransitions())
		}
		return all
	}
	beforeA, beforeB := transitions(onA), transitions(onB)

	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	// Debian's own, whose package scapy is; there may be another one before it.
	command := exec.Command("/usr/bin/python3", filepath.Join("testdata", "adversary.py"), "eth0", strconv.Itoa(count), strconv.FormatInt(seed, 10),
		"53", "100", vip1, vip6Link+","+vip6, "192.168.60.66")
	said := &output{}
	command.Stderr = said
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	adversary.Do(t, func() { err = command.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill() // gone is as good
		_ = command.Wait()
		if t.Failed() {
			t.Logf("scapy said\n%s", said)
		}
	})
	// A busy kernel loses a frame now and then, before any of its listeners: those that a machine has not seen it need not
	// have judged.
	from := adversary.mac(t, "eth0")
	seenA, seenB := a.arrived(t, from), b.arrived(t, from)
	counted, other, accepted := 0, 0, 0
	wrong := func() string {
		for name, on := range map[string]struct {
			judged
			seen int
			all  bool // no adverts of others have been received
		}{"master": {taken(onA.instances(t)), seenA(), true}, "backup": {taken(onB.instances(t)), seenB(), false}} {
			lost := counted + other + accepted - on.seen
			notDropped, notTaken := counted-on.dropped, accepted-on.received
			if !on.all {
				notTaken = max(0, notTaken)
			}
			if lost > lossMost(counted+other+accepted) || notDropped < 0 || notTaken < 0 || notDropped+notTaken > lost {
				return fmt.Sprintf("scapy has sent %d to discard, %d of another router and %d to take in; the %s has seen %d, dropped %d and taken in %d",
					counted, other, accepted, name, on.seen, on.dropped, on.received)
			}
		}
		return ""
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		var c, o, k int
		if _, err := fmt.Sscan(lines.Text(), &c, &o, &k); err != nil {
			t.Fatalf("scapy said %q: %v", lines.Text(), err)
		}
		counted, other, accepted = counted+c, other+o, accepted+k
		awaitThat(t, "the batch is judged", wrong)
		if _, err := fmt.Fprintln(stdin); err != nil {
			break // that was the last batch
		}
	}
	heard := taken(onB.instances(t)).received
	awaitThat(t, "adverts of the master behind all that", func() string {
		if got := taken(onB.instances(t)).received; got < heard+4 {
			return fmt.Sprint(got)
		}
		return ""
	})
	if text := wrong(); text != "" {
		t.Error(text)
	}
	t.Logf("%d to discard, %d of another router, %d to take in", counted, other, accepted)
	if counted+other+accepted != count || counted == 0 || other == 0 || accepted == 0 {
		t.Errorf("scapy has sent %d packets, want %d of all three kinds", counted+other+accepted, count)
	}
	if gotA, gotB := transitions(onA), transitions(onB); fmt.Sprint(gotA, gotB) != fmt.Sprint(beforeA, beforeB) {
		t.Errorf("states have changed: %v %v, before %v %v", gotA, gotB, beforeA, beforeB)
	}
	onB.stop(t) // as it does only if it lives
	onA.stop(t)
}

// lossMost is how many of the frames may get lost.
func lossMost(sent int) int { return sent / 20 }

// judged is what the instances of an agent have made of what they got.
type judged struct{ dropped, received int }

func taken(all map[string]*vrrpv1.InstanceState) (j judged) {
	for _, i := range all {
		for _, n := range i.GetDropped() {
			j.dropped += int(n)
		}
		j.received += int(i.GetAdvertsReceived())
	}
	return j
}

// TestKernelDissected: tcpdump and tshark find nothing wrong with our adverts of any kind.
func TestKernelDissected(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"tcpdump", "tshark"} {
		if _, err := exec.LookPath(program); err != nil {
			testreq.Missing(t, program)
		}
	}
	n := newLAN(t)
	a, _ := n.pairV6(t)
	w := n.machineV6(t, "witness", "192.168.60.1/24", "2001:db8:60::1/64")
	folder := t.TempDir()
	text := ""
	for id, more := range map[int]string{
		52: "virtual_addresses: [192.168.60.72]\nprofile: PROFILE_COMPAT\nauthentication: {password_file: " + folder + "/pass}",
		53: "virtual_addresses: [192.168.60.73, 192.168.60.83]\nadvert_interval: 1s\nchecksum: CHECKSUM_FORM_PSEUDO_HEADER",
		54: "virtual_addresses: [192.168.60.74]\nadvert_interval: 1s\nchecksum: CHECKSUM_FORM_MESSAGE",
		55: "virtual_addresses: ['fe80::75', '2001:db8:60::75']\nadvert_interval: 1s",
	} {
		text += fmt.Sprintf("kind: instance\nname: VI_%d\nvirtual_router_id: %d\nmembers: [{node: haproxy, priority: 105}]\n%s\n---\n", id, id, more)
	}
	file, capture := filepath.Join(folder, "desired.yaml"), filepath.Join(folder, "adverts.pcap")
	for name, text := range map[string]string{file: strings.TrimSuffix(text, "---\n"), folder + "/pass": "1111\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tcpdump := w.run(t, "tcpdump", "-Z", "root", "-U", "-n", "-i", "eth0", "-w", capture, "ip proto 112 or ip6 proto 112")
	awaitThat(t, "tcpdump listens", func() string {
		if said := tcpdump.output.String(); !strings.Contains(said, "listening on") {
			return said
		}
		return ""
	})
	onA := a.agent(t, file)
	awaitThat(t, "adverts of all four", func() string {
		all := onA.instances(t)
		for id := 52; id <= 55; id++ {
			if i := all[fmt.Sprintf("VI_%d", id)]; i.GetAdvertsSent() < 2 {
				return fmt.Sprint(i)
			}
		}
		return ""
	})
	onA.stop(t) // priority 0 too
	// What is on the wire reaches tcpdump in time: it reads from the same kernel.
	read := func(want int) string {
		// That it runs as root it says beside it.
		return w.Exec(t, "sh", "-c", `exec tshark "$@" 2>/dev/null`, "tshark", "-n", "-r", capture,
			"-o", "vrrp.v3_checksum_as_in_v2:"+map[bool]string{true: "TRUE", false: "FALSE"}[want == 54],
			"-Y", fmt.Sprintf("vrrp.virt_rtr_id == %d", want), "-T", "fields", "-e", "vrrp.prio", "-e", "vrrp.checksum.status", "-e", "_ws.expert")
	}
	good := regexp.MustCompile(`^(105|0)\t1\t$`)
	for id := 52; id <= 55; id++ {
		seen := ""
		awaitThat(t, fmt.Sprintf("tcpdump has the adverts of %d", id), func() string {
			if seen = read(id); strings.Count(seen, "\n") < 3 || !strings.Contains(seen, "0\t1") {
				return seen
			}
			return ""
		})
		for line := range strings.Lines(seen) {
			if !good.MatchString(strings.TrimSuffix(line, "\n")) {
				t.Errorf("tshark on virtual router %d: %q", id, line)
			}
		}
	}
	tcpdump.stop(t)
	complaint := regexp.MustCompile(`(?i)bad|malformed|truncated|invalid|\[\|`)
	for line := range strings.Lines(w.Exec(t, "tcpdump", "-n", "-vv", "-r", capture)) {
		// tcpdump knows one form of version 3's checksum only.
		if complaint.MatchString(line) && !strings.Contains(line, "vrid 54") {
			t.Errorf("tcpdump: %s", line)
		}
	}
}
