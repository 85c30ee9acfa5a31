package fsm

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var (
	self  = netip.MustParseAddr("192.168.60.22")
	above = netip.MustParseAddr("192.168.60.128")
	below = netip.MustParseAddr("192.168.60.9")
)

func TestStep(t *testing.T) {
	t.Parallel()
	heard := func(priority uint8, from netip.Addr) Event { return Event{Kind: Heard, Priority: priority, From: from} }
	tests := []struct {
		name      string
		state     State
		event     Event
		nopreempt bool
		want      State
		actions   string
	}{
		{"start", Initialize, Event{Kind: Startup}, false, Backup, "[time-master-down]"},
		{"start broken", Initialize, Event{Kind: Broken}, false, Fault, "[]"},
		{"nothing runs before the start", Initialize, Event{Kind: Timer}, false, Initialize, "[]"},
		{"nothing is heard before the start", Initialize, heard(255, above), false, Initialize, "[]"},
		{"stop before the start", Initialize, Event{Kind: Shutdown}, false, Initialize, "[]"},

		{"backup: master is gone", Backup, Event{Kind: Timer}, false, Master,
			"[send-advert add-addresses announce time-advert]"},
		{"backup: master resigns", Backup, heard(0, above), false, Backup, "[time-skew]"},
		{"backup: master resigns, nopreempt", Backup, heard(0, above), true, Backup, "[time-skew]"},
		{"backup: higher master", Backup, heard(106, below), false, Backup, "[follow-interval time-master-down]"},
		{"backup: equal master", Backup, heard(105, below), false, Backup, "[follow-interval time-master-down]"},
		{"backup: lower master is not heard", Backup, heard(104, above), false, Backup, "[]"},
		{"backup: lower master stays, nopreempt", Backup, heard(1, above), true, Backup,
			"[follow-interval time-master-down]"},
		{"backup: broken", Backup, Event{Kind: Broken}, false, Fault, "[stop-timer]"},
		{"backup: mended is no news", Backup, Event{Kind: Mended}, false, Backup, "[]"},
		{"backup: stop", Backup, Event{Kind: Shutdown}, false, Initialize, "[stop-timer]"},

		{"master: time to advertise", Master, Event{Kind: Timer}, false, Master, "[send-advert time-advert]"},
		{"master: rival resigns", Master, heard(0, above), false, Master, "[send-advert time-advert]"},
		{"master: higher rival", Master, heard(106, below), false, Backup, "[remove-addresses follow-interval time-master-down]"},
		{"master: higher rival, nopreempt", Master, heard(106, below), true, Backup,
			"[remove-addresses follow-interval time-master-down]"},
		{"master: equal rival, higher address", Master, heard(105, above), false, Backup,
			"[remove-addresses follow-interval time-master-down]"},
		{"master: equal rival, lower address", Master, heard(105, below), false, Master,
			"[send-advert announce time-advert]"},
		{"master: lower rival", Master, heard(99, above), false, Master, "[send-advert announce time-advert]"},
		{"master: held up", Master, Event{Kind: HeldUp}, false, Backup,
			"[remove-addresses send-resign time-master-down]"},
		{"master: replaced", Master, Event{Kind: Replaced}, false, Backup, "[remove-addresses time-master-down]"},
		{"master: resign", Master, Event{Kind: Resign}, false, Backup, "[send-resign remove-addresses time-master-down]"},
		{"master: invited", Master, Event{Kind: Invited}, false, Master, "[]"},
		{"backup: invited", Backup, Event{Kind: Invited}, false, Master, "[send-advert add-addresses announce time-advert]"},
		{"backup: replaced", Backup, Event{Kind: Replaced}, false, Backup, "[]"},
		{"backup: resign", Backup, Event{Kind: Resign}, false, Backup, "[]"},
		{"backup: silence, but the owner lives", Backup, Event{Kind: Timer, OwnerLives: true}, false, Backup, "[time-master-down]"},
		{"fault: invited", Fault, Event{Kind: Invited}, false, Fault, "[]"},
		{"backup: held up", Backup, Event{Kind: HeldUp}, false, Backup, "[]"},
		{"fault: held up", Fault, Event{Kind: HeldUp}, false, Fault, "[]"},
		{"master: broken", Master, Event{Kind: Broken}, false, Fault, "[send-resign remove-addresses stop-timer]"},
		{"master: stop", Master, Event{Kind: Shutdown}, false, Initialize,
			"[send-resign remove-addresses stop-timer]"},

		{"fault: mended", Fault, Event{Kind: Mended}, false, Backup, "[time-master-down]"},
		{"fault: broken again", Fault, Event{Kind: Broken}, false, Fault, "[]"},
		{"fault: hears nothing", Fault, heard(0, above), false, Fault, "[]"},
		{"fault: no timer", Fault, Event{Kind: Timer}, false, Fault, "[]"},
		{"fault: stop", Fault, Event{Kind: Shutdown}, false, Initialize, "[]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := Config{Priority: 105, Interval: time.Second, Preempt: !tt.nopreempt, Self: self}
			got, actions := Step(c, tt.state, tt.event)
			if got != tt.want || fmt.Sprint(actions) != tt.actions {
				t.Errorf("%v %+v: got %v %v, want %v %v", tt.state, tt.event, got, actions, tt.want, tt.actions)
			}
		})
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name             string
		config           Config
		skew, masterDown time.Duration
	}{
		{"version 2", Config{Priority: 105, Interval: time.Second}, 151 * time.Second / 256, 3*time.Second + 151*time.Second/256},
		{"lower priority", Config{Priority: 99, Interval: time.Second}, 157 * time.Second / 256, 3*time.Second + 157*time.Second/256},
		{"highest priority", Config{Priority: 254, Interval: 2 * time.Second}, 2 * time.Second / 256, 6*time.Second + 2*time.Second/256},
		{"longest interval", Config{Priority: 1, Interval: 255 * time.Second}, 255 * time.Second / 256,
			765*time.Second + 255*time.Second/256},
		{"version 3", Config{Priority: 56, Interval: 30 * time.Millisecond, SkewByInterval: true},
			200 * 30 * time.Millisecond / 256, 90*time.Millisecond + 200*30*time.Millisecond/256},
		{"version 3, of the master's interval",
			Config{Priority: 56, Interval: 30 * time.Millisecond, MasterInterval: 500 * time.Millisecond, SkewByInterval: true},
			200 * 500 * time.Millisecond / 256, 1500*time.Millisecond + 200*500*time.Millisecond/256},
	}
	for _, tt := range tests {
		if got := tt.config; got.Skew() != tt.skew || got.MasterDown() != tt.masterDown {
			t.Errorf("%s: got %v %v, want %v %v", tt.name, got.Skew(), got.MasterDown(), tt.skew, tt.masterDown)
		}
	}
}

// TestHoldsAddressesOnlyAsMaster walks every state with every event and checks what must hold of any machine: addresses
// are added exactly on the way into Master and removed exactly on the way out of it, with priority 0 unless a better
// master is there.
func TestHoldsAddressesOnlyAsMaster(t *testing.T) {
	t.Parallel()
	var events []Event
	for _, k := range []Kind{Startup, Shutdown, Timer, Broken, Mended, HeldUp, Invited, Replaced, Resign} {
		events = append(events, Event{Kind: k})
	}
	events = append(events, Event{Kind: Timer, OwnerLives: true})
	for p := range 256 {
		for _, from := range []netip.Addr{above, below, self} {
			events = append(events, Event{Kind: Heard, Priority: uint8(p), From: from})
		}
	}
	for _, preempt := range []bool{false, true} {
		c := Config{Priority: 105, Interval: time.Second, Preempt: preempt, Self: self}
		for s := Initialize; s <= Fault; s++ {
			for _, e := range events {
				next, actions := Step(c, s, e)
				has := func(want Action) bool {
					for _, a := range actions {
						if a == want {
							return true
						}
					}
					return false
				}
				if has(AddAddresses) != (s != Master && next == Master) {
					t.Errorf("%v %+v -> %v %v: addresses added", s, e, next, actions)
				}
				if has(RemoveAddresses) != (s == Master && next != Master) {
					t.Errorf("%v %+v -> %v %v: addresses removed", s, e, next, actions)
				}
				if has(SendResign) != (s == Master && next != Master && e.Kind != Heard && e.Kind != Replaced) {
					t.Errorf("%v %+v -> %v %v: resign", s, e, next, actions)
				}
				if (next == Master || next == Backup) && next != s && !(has(TimeAdvert) || has(TimeMasterDown)) {
					t.Errorf("%v %+v -> %v %v: no timer", s, e, next, actions)
				}
			}
		}
	}
}

func TestStepDoesNotAllocate(t *testing.T) {
	c := Config{Priority: 105, Interval: time.Second, Preempt: true, Self: self}
	if n := testing.AllocsPerRun(100, func() { Step(c, Master, Event{Kind: Timer}) }); n != 0 {
		t.Errorf("%v allocations per step", n)
	}
}

func TestFirst(t *testing.T) {
	t.Parallel()
	c := Config{Priority: 99, Interval: 30 * time.Millisecond, SkewByInterval: true, First: true}
	if got := c.MasterDown(); got <= 90*time.Millisecond {
		t.Errorf("nobody has been heard: %v", got)
	}
	c.MasterInterval = 10 * time.Millisecond
	if got, skew := c.MasterDown(), c.Skew(); got != 30*time.Millisecond || skew != 0 {
		t.Errorf("got %v, skew %v", got, skew)
	}
	c.SkewByInterval = false
	if got := c.Skew(); got == 0 {
		t.Error("version 2: no skew")
	}
}

// FuzzWalk takes the machine through a life of any events, and keeps the books that its driver keeps: whoever is master has
// the addresses, and nobody else; whoever waits for something has a timer, and nobody else; no advert of another node
// makes a master, nor does a word that comes before the start or in fault.
func FuzzWalk(f *testing.F) {
	f.Add([]byte{105, 1, byte(Startup), 0, 0, byte(Timer), 0, 0, byte(Heard), 106, 1, byte(Timer), 0, 4, byte(Timer), 0, 0, byte(HeldUp), 0, 0})
	f.Add([]byte{99, 0, byte(Startup), 0, 0, byte(Invited), 0, 0, byte(Heard), 99, 1, byte(Broken), 0, 0, byte(Mended), 0, 0, byte(Shutdown), 0, 0})
	f.Add([]byte{254, 2, byte(Startup), 0, 0, byte(Timer), 0, 0, byte(Replaced), 0, 0, byte(Heard), 0, 2, byte(Timer), 0, 0, byte(Resign), 0, 0})
	f.Fuzz(func(t *testing.T, life []byte) {
		if len(life) < 2 {
			return
		}
		c := Config{Priority: max(1, min(254, life[0])), Interval: time.Second, Preempt: life[1]&1 != 0, SkewByInterval: life[1]&2 != 0, Self: self}
		s, held, timed := Initialize, false, false
		for life = life[2:]; len(life) >= 3; life = life[3:] {
			e := Event{Kind: Kind(life[0]), Priority: life[1], From: []netip.Addr{below, above, self}[life[2]&3%3], OwnerLives: life[2]&4 != 0}
			next, actions := Step(c, s, e)
			for _, a := range actions {
				switch a {
				case AddAddresses, RemoveAddresses:
					if held == (a == AddAddresses) {
						t.Fatalf("%v %+v -> %v %v: held already %v", s, e, next, actions, held)
					}
					held = a == AddAddresses
				case Announce, SendAdvert:
					if next != Master {
						t.Fatalf("%v %+v -> %v %v: speaks as a master", s, e, next, actions)
					}
				case TimeAdvert, TimeMasterDown, TimeSkew, StopTimer:
					timed = a != StopTimer
				}
			}
			if held != (next == Master) || timed != (next == Master || next == Backup) {
				t.Fatalf("%v %+v -> %v %v: held %v, timer %v", s, e, next, actions, held, timed)
			}
			if next == Master && s != Master && (s != Backup || e.Kind != Timer && e.Kind != Invited || e.Kind == Timer && e.OwnerLives) {
				t.Fatalf("%v %+v -> %v: nothing to become master by", s, e, next)
			}
			s = next
		}
	})
}
