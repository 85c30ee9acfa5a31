package pair

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBell(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBell()
		start := time.Now()
		rung := make(chan time.Duration, 100)
		done := make(chan struct{})
		go func() {
			defer close(rung)
			for {
				select {
				case <-b.rings:
					rung <- time.Since(start)
				case <-done:
					return
				}
			}
		}()
		b.push() // at once
		for range 1500 {
			time.Sleep(time.Millisecond) // in the time of synctest
			b.push()
		}
		time.Sleep(10 * time.Second) // in the time of synctest
		b.push()
		synctest.Wait()
		b.push()
		b.close() // what waits is not said any more
		b.push()
		time.Sleep(10 * time.Second) // in the time of synctest
		close(done)
		var got []time.Duration
		for at := range rung {
			got = append(got, at)
		}
		want := []time.Duration{0, time.Second, 2 * time.Second, 11500 * time.Millisecond}
		if len(got) != len(want) {
			t.Fatalf("rung at %v, want %v", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("rung at %v, want %v", got, want)
			}
		}
	})
}
