package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
)

// signing is the lines of an instance that signs adverts.
func signing(active int, mode string, keys ...string) string {
	return fmt.Sprintf("authentication: {hmac: {active: %d, mode: %s, keys: [%s]}}", active, mode, strings.Join(keys, ", "))
}

// signingKey writes a key, and is its line.
func signingKey(t *testing.T, id int, octet string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	write(t, file, strings.Repeat(octet, 32)+"\n")
	return fmt.Sprintf("{id: %d, file: %s}", id, file)
}

// keepFrames keeps the adverts that a machine sends, as frames, seen from the machine on.
func keepFrames(t *testing.T, on, from *machine) (all func() [][]byte) {
	t.Helper()
	var mu sync.Mutex
	var kept [][]byte
	mac := from.mac(t, "eth0")
	on.frames(t, "eth0", func(frame []byte) {
		if binary.BigEndian.Uint16(frame[12:]) == 0x0800 && frame[14+9] == 112 && fmt.Sprintf("%x", frame[6:12]) == strings.ReplaceAll(mac, ":", "") {
			mu.Lock()
			defer mu.Unlock()
			kept = append(kept, slices.Clone(frame))
		}
	})
	return func() [][]byte {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(kept)
	}
}

// sendAs sends a frame of another machine from the machine's own Ethernet address, so that the switch does not look for the other
// one here.
func (m *machine) sendAs(t *testing.T, frame []byte) {
	t.Helper()
	own, err := net.ParseMAC(m.mac(t, "eth0"))
	if err != nil {
		t.Fatal(err)
	}
	m.send(t, slices.Concat(frame[:6], own, frame[12:]))
}

// carrying is the frame with another advert in it.
func carrying(frame, advert []byte) []byte {
	const ip, header = 14, 20
	made := append(slices.Clone(frame[:ip+header]), advert...)
	binary.BigEndian.PutUint16(made[ip+2:], uint16(header+len(advert)))
	made[ip+10], made[ip+11] = 0, 0
	sum := uint32(0)
	for n := 0; n < header; n += 2 {
		sum += uint32(binary.BigEndian.Uint16(made[ip+n:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(made[ip+10:], ^uint16(sum))
	return made
}

// TestKernelSigned begins to sign the adverts of a running pair and changes the key: none is lost and no state changes.
// Then a stranger sends what he has heard, as it was and with another head; and then one of the two has another key.
func TestKernelSigned(t *testing.T) {
	t.Parallel()
	n := newLAN(t)
	a, b := n.machine(t, "haproxy", "192.168.60.22/24"), n.machine(t, "haproxy2", "192.168.60.128/24")
	stranger := n.machine(t, "stranger", "192.168.60.66/24")
	one, two := signingKey(t, 1, "11"), signingKey(t, 2, "22")
	seen := b.arrived(t, a.mac(t, "eth0"))
	ofA, ofB := keepFrames(t, stranger, a), keepFrames(t, stranger, b)
	steps := []string{
		"",
		signing(1, "HMAC_MODE_RECEIVE_ONLY", one),
		signing(1, "HMAC_MODE_PERMISSIVE", one),
		signing(1, "HMAC_MODE_ENFORCE", one),
		signing(1, "HMAC_MODE_ENFORCE", one, two),
		signing(2, "HMAC_MODE_ENFORCE", one, two),
		signing(2, "HMAC_MODE_ENFORCE", two),
	}
	const more = "profile: PROFILE_FAST\n"
	files := map[*machine]string{a: family4.desired(t, 105, more), b: family4.desired(t, 105, more)}
	onB := b.agent(t, files[b])
	master(t, onB, "VI_1") // and so it hears all adverts of the other one
	onA := a.agent(t, files[a])
	await(t, "started", map[*machine]string{a: vip1, b: ""})
	agents := map[*machine]*agent{a: onA, b: onB}
	instance := func(on *agent) *vrrpv1.InstanceState { return on.instances(t)["VI_1"] }
	unchanged := func() string {
		return fmt.Sprint(instance(onA).GetState(), instance(onA).GetTransitions(), instance(onB).GetState(), instance(onB).GetTransitions())
	}
	awaitThat(t, "the backup hears the master", func() string {
		if i := instance(onB); i.GetState() != vrrpv1.State_STATE_BACKUP || i.GetAdvertsReceived() < 10 {
			return fmt.Sprint(i)
		}
		return ""
	})
	before := unchanged()
	// order changes the instance of one machine and waits until it goes by it and some adverts have come.
	order := func(m *machine, old, text string) {
		t.Helper()
		const said = `"changed"`
		told := strings.Count(agents[m].output.String(), said)
		if old == "" {
			replace(t, files[m], more, more+text+"\n")
		} else {
			replace(t, files[m], old, text)
		}
		awaitThat(t, m.name+" goes by "+text, func() string {
			if strings.Count(agents[m].output.String(), said) == told {
				return "not yet"
			}
			return ""
		})
		sent := instance(onA).GetAdvertsSent()
		awaitThat(t, "adverts", func() string {
			if i := instance(onA); i.GetAdvertsSent() < sent+5 {
				return fmt.Sprint(i)
			}
			return ""
		})
	}
	for k, text := range steps[1:] {
		for _, m := range []*machine{b, a} {
			order(m, steps[k], text)
		}
		if got := unchanged(); got != before || len(instance(onA).GetDropped())+len(instance(onB).GetDropped()) > 0 {
			t.Fatalf("%s: %s, before %s; dropped %v and %v", text, got, before, instance(onA).GetDropped(), instance(onB).GetDropped())
		}
	}

	// As it was, and what another machine has sent, even of the time when the other key was in use.
	old := ofA()
	last := old[len(old)-1]
	const head, trailer = 14 + 20, 28
	refused := map[string]uint64{}
	throw := func(reason string, frames ...[]byte) {
		t.Helper()
		refused[reason] += uint64(len(frames))
		for _, f := range frames {
			stranger.sendAs(t, f)
		}
		awaitThat(t, "refused", func() string {
			if got := instance(onB).GetDropped(); fmt.Sprint(got) != fmt.Sprint(refused) {
				return fmt.Sprintf("dropped %v, want %v", got, refused)
			}
			return ""
		})
	}
	throw("replay", old[len(old)-20:]...)
	format := packet.Format{Version: packet.V3, Source: netip.MustParseAddr("192.168.60.22"), Destination: netip.MustParseAddr("224.0.0.18")}
	made := func(priority uint8) []byte {
		return packet.Advertisement{VirtualRouterID: 53, Priority: priority, Interval: 30 * time.Millisecond,
			Addresses: []netip.Addr{netip.MustParseAddr(vip1)}}.Append(nil, format)
	}
	for _, priority := range []uint8{250, 0} {
		newest := ofA()
		tail := newest[len(newest)-1][len(last)-trailer:]
		throw("signature", carrying(last, made(priority)), // no trailer, and that of another advert
			carrying(last, slices.Concat(made(priority), tail)))
	}
	withKey := slices.Clone(last[head:])
	withKey[len(withKey)-trailer+1] = 1 // which is used no more
	throw("signature", carrying(last, withKey))
	for k := range 3 { // the advert of one, the trailer of the next
		newest := ofA()
		first, second := newest[len(newest)-2-k], newest[len(newest)-1-k]
		spliced := slices.Concat(first[head:len(first)-trailer+12], second[len(second)-trailer+12:])
		throw("signature", carrying(last, spliced))
	}
	if theirs := ofB(); len(theirs) > 0 { // the other one's, from before it signed anything, to the master
		stranger.sendAs(t, theirs[len(theirs)-1])
		awaitThat(t, "the master refuses it", func() string {
			if got := instance(onA).GetDropped(); got["signature"] != 1 {
				return fmt.Sprint(got)
			}
			return ""
		})
	} else {
		t.Error("the other one has sent nothing")
	}
	if got := unchanged(); got != before {
		t.Errorf("a stranger has changed a state: %s, before %s", got, before)
	}
	for _, reason := range []string{"signature", "replay"} { // once a minute
		if got := strings.Count(onB.output.String(), `"reason":"`+reason+`"`); got != 1 {
			t.Errorf("the log tells %d times of %s, want once", got, reason)
		}
	}

	// Another key under the same number: neither hears the other one, by no way, and both are master, until it is the same.
	wrong := signing(2, "HMAC_MODE_ENFORCE", signingKey(t, 2, "33"))
	right := steps[len(steps)-1]
	replace(t, files[b], right, wrong)
	await(t, "different keys", map[*machine]string{a: vip1, b: vip1})
	awaitThat(t, "both refuse", func() string {
		if i, k := instance(onA).GetDropped()["signature"], instance(onB).GetDropped()["signature"]; i < 20 || k < 20+refused["signature"] {
			return fmt.Sprintf("%d and %d", i, k)
		}
		return ""
	})
	replace(t, files[b], wrong, right)
	await(t, "the same key again", map[*machine]string{a: vip1, b: ""})

	onA.stop(t)
	i := instance(onB)
	dropped := 0
	for _, n := range i.GetDropped() {
		dropped += int(n)
	}
	byStranger := 0
	for _, n := range refused {
		byStranger += int(n)
	}
	// All that has come from the first machine was taken in, or refused while the keys were different.
	if got, want := int(i.GetAdvertsReceived())+dropped-byStranger, seen(); got != want {
		t.Errorf("%d adverts were judged, %d have come", got, want)
	}
	t.Logf("%d adverts came, %d taken in, %d refused, %d of them a stranger's", seen(), i.GetAdvertsReceived(), dropped, byStranger)
	onB.stop(t)
}
