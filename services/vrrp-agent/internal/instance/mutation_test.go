package instance

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/parley"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// Packets that keepalived has sent, IP header included: virtual router 53, priority 105, 192.168.60.78, from 192.168.60.1.
const (
	goldenV2 = "45c0002800010000ff70dde8c0a83c01e0000012" + "21356901000178d1c0a83c4e0000000000000000"
	goldenV3 = "45c0002000010000ff70ddf0c0a83c01e0000012" + "3135690100328b67c0a83c4e"
)

// mutate changes a packet in some places, cuts it or makes it longer, and half of the time puts its sums right again, so
// that what lies behind them is reached.
func mutate(r *rand.Rand, golden []byte) []byte {
	b := append([]byte(nil), golden...)
	for range 1 + r.IntN(4) {
		switch r.IntN(10) {
		case 0:
			b = b[:r.IntN(len(b)+1)]
		case 1:
			for range 1 + r.IntN(40) {
				b = append(b, byte(r.Uint32()))
			}
		case 2: // fields that matter
			if len(b) > 24 {
				b[[]int{0, 8, 9, 16, 19, 20, 21, 22, 23, 24}[r.IntN(10)]] = byte(r.Uint32())
			}
		default:
			if len(b) > 0 {
				b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			}
		}
	}
	if r.IntN(2) == 0 && len(b) >= 28 {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[26], b[27] = 0, 0
		payload := b[20:]
		pseudo := append(append([]byte(nil), b[12:20]...), 0, 112, byte(len(payload)>>8), byte(len(payload)))
		if payload[0]>>4 == 2 || r.IntN(2) == 0 {
			pseudo = nil
		}
		binary.BigEndian.PutUint16(b[26:], ^sum(append(pseudo, payload...)))
	}
	return b
}

// sum is the ones' complement sum (RFC 1071).
func sum(b []byte) uint16 {
	var s uint32
	for n, x := range b {
		if n%2 == 0 {
			s += uint32(x) << 8
		} else {
			s += uint32(x)
		}
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// lawful makes the checks of RFC 3768 and RFC 5798, section 7.1 once more, without anything of package packet.
func lawful(b []byte, version byte, own netip.Addr) bool {
	if len(b) < 28 || b[0]>>4 != 4 || int(b[0]&15) < 5 || len(b) < int(b[0]&15)*4+8 || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		return false
	}
	destination := [4]byte(b[16:20])
	p := b[int(b[0]&15)*4:]
	if b[8] != 255 || b[9] != 112 || destination != [4]byte{224, 0, 0, 18} && destination != own.As4() {
		return false
	}
	want := 8 + 4*int(p[3])
	if version == 2 {
		want += 8
	}
	if p[0] != version<<4|1 || len(p) != want || p[1] != 53 || [4]byte(b[12:16]) == own.As4() {
		return false
	}
	good := sum(p) == 0xffff
	if version == 3 {
		for _, to := range [][4]byte{destination, {224, 0, 0, 18}} {
			pseudo := append(append(append([]byte(nil), b[12:16]...), to[:]...), 0, 112, byte(len(p)>>8), byte(len(p)))
			good = good || sum(append(pseudo, p...)) == 0xffff
		}
		return good && binary.BigEndian.Uint16(p[4:])&0xfff > 0
	}
	return good && p[4] == 0 && p[5] == 1
}

// TestMutations: 20,000 packets that were made from good ones by chance. Nothing panics, what is taken in is exactly
// what the RFC allows, and nothing else changes the state.
func TestMutations(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	own := netip.MustParseAddr("192.168.60.22")
	taken, changed := 0, 0
	for version, golden := range map[packet.Version]string{packet.V2: goldenV2, packet.V3: goldenV3} {
		original, err := hex.DecodeString(golden)
		if err != nil || !lawful(original, byte(version), own) {
			t.Fatalf("the golden packet of version %d is none: %v", version, err)
		}
		local := vi1(100)
		local.Version, local.Peers = version, []spec.Peer{{Node: "x"}}
		i := newInstance(deafNetwork{}, deafNetwork{}, nil, zap.NewNop(), func() {}, func(spec.Local, plan.Transition) {}, order{local: local, keys: []parley.Key{{}}})
		if err := i.settle(nic.Port{Index: 2, Source: own}); err != nil {
			t.Fatal(err)
		}
		i.step(fsm.Event{Kind: fsm.Startup}, because("started"))
		for range 10000 {
			if i.state == fsm.Backup && r.IntN(2) == 0 {
				i.heard = cause{}
				i.due = time.Now()
				i.step(fsm.Event{Kind: fsm.Timer}, because("test"))
			}
			b := mutate(r, original)
			before, received := i.state, i.counters.received.Load()
			due := i.due
			i.receive(b)
			ok := i.counters.received.Load() > received
			if want := lawful(b, byte(version), own); ok != want {
				t.Fatalf("version %d: %x: taken in %v, the RFC says %v", version, b, ok, want)
			}
			if !ok && (i.state != before || i.due != due) {
				t.Fatalf("version %d: %x: dropped, but the state went from %v to %v", version, b, before, i.state)
			}
			if ok {
				taken++
			}
			if i.state != before {
				changed++
			}
		}
		i.hangUp()
		i.goroutine.Wait()
	}
	t.Logf("%d of 20000 were taken in, %d changed the state", taken, changed)
	if taken < 500 || changed < 100 {
		t.Errorf("only %d packets were taken in, and %d changed the state: too little is tried", taken, changed)
	}
}
