package exchange

import (
	"testing"
	"time"
)

// TestPace follows peers second by second. Each letter is a second: digits move that many hundred bytes at its end, "-"
// nothing, and in "s" the other side is waited for.
func TestPace(t *testing.T) {
	t.Parallel()
	const second = int64(time.Second)
	tests := []struct {
		name, seconds string
		rate          int
		most          time.Duration
		over          int // the second at whose end it is over, 0: never
	}{
		{"steady", "111111111111111111111111", 100, 0, 0},
		{"silent", "------", 100, 0, 5},
		{"a pause", "22---2222---2222", 100, 0, 0},
		{"a trickle is half of it", "1-1-1-1-1-1-1-1-1-1-1-1-", 100, 0, 9},
		{"what was fast before is not saved up", "999------", 100, 0, 8},
		{"the other side is slow", "1sssssssssssssss1sssssssss----", 100, 0, 0},
		{"the other side, then silent", "sssssss-------", 100, 0, 12},
		{"no rate", "------------", 0, 0, 0},
		{"in all", "999999999999", 100, 7 * time.Second, 7},
		{"in all, without a rate", "------------", 0, 7 * time.Second, 7},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var p Pace
			now := int64(1000)
			p.Begin(now, test.rate, 5*time.Second, test.most)
			over := 0
			for i, c := range test.seconds {
				if c == 's' {
					p.Rest(now)
				} else {
					p.Wait(now)
				}
				now += second
				if p.Over(now) {
					over = i + 1
					break
				}
				if c >= '0' && c <= '9' {
					p.Earn(now, int64(c-'0')*100)
				}
			}
			if over != test.over {
				t.Errorf("over after %d s, want %d", over, test.over)
			}
		})
	}
}

// TestPaceOfLargeNumbers: a large count at a large rate does not overflow.
func TestPaceOfLargeNumbers(t *testing.T) {
	t.Parallel()
	var p Pace
	p.Begin(0, 1<<30, 24*time.Hour, 0)
	p.Wait(0)
	p.Earn(int64(time.Hour), 1<<60)
	if got, want := p.Due(), int64(25*time.Hour); got != want {
		t.Errorf("due %d, want %d", got, want)
	}
}
