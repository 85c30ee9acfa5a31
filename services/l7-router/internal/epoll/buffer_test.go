package epoll

import "testing"

// What is borrowed again and again is kept, what a burst has left goes with the second trim behind it.
func TestSpareFollowsTheNeed(t *testing.T) {
	t.Parallel()
	var s stack[int]
	use := func(n int) {
		var taken []*int
		for range n {
			v := s.pop()
			if v == nil {
				v = new(int)
			}
			taken = append(taken, v)
		}
		for _, v := range taken {
			s.push(v)
		}
	}
	use(1000)
	if len(s.spare) != 1000 {
		t.Fatalf("%d are kept, want 1000", len(s.spare))
	}
	s.trim()
	use(10)
	if len(s.spare) != 1000 {
		t.Errorf("a trim soon after the burst leaves %d", len(s.spare))
	}
	s.trim()
	if len(s.spare) != 10 {
		t.Errorf("%d are kept of which 10 are needed", len(s.spare))
	}
	for range 3 {
		s.trim()
	}
	if len(s.spare) != 0 {
		t.Errorf("%d are kept of which none is needed", len(s.spare))
	}
}
