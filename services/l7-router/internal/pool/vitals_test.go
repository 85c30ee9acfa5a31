package pool

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/l7-router/internal/check"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// TestVitals tells a server's life in letters and compares its status after each: + a good check, - a bad one, c a 404 under
// disable-on-404; r, d, m: ready, drain, maint; U, S, D: forced up, stopping, down; o, O: checks off, on.
func TestVitals(t *testing.T) {
	t.Parallel()
	http := spec.Check{Kind: spec.CheckHTTP, Rise: 2, Fall: 3}
	initially := func(i spec.Initial) spec.Check { c := http; c.Initial = i; return c }
	tests := []struct {
		name  string
		check spec.Check
		life  string
		want  string
	}{
		{"the first bad check takes it down", http, "-++", "DOWN, DOWN 1/2, UP"},
		{"fall in a row", http, "+--+---", "UP, UP 2/3, UP 1/3, UP, UP 2/3, UP 1/3, DOWN"},
		{"rise in a row", http, "-+-++", "DOWN, DOWN 1/2, DOWN, DOWN 1/2, UP"},
		{"drain", http, "+d-r", "UP, DRAIN, DRAIN 2/3, UP 2/3"},
		{"drain that falls is down", http, "+d---", "UP, DRAIN, DRAIN 2/3, DRAIN 1/3, DOWN"},
		{"after maintenance the first check decides", http, "+mr-", "UP, MAINT, UP 1/3, DOWN"},
		{"drain ends maintenance", http, "+md", "UP, MAINT, DRAIN 1/3"},
		{"404 means no new clients", http, "+c-+", "UP, NOLB, NOLB 2/3, UP"},
		{"404 of a server that is down is a failure", http, "-c+c", "DOWN, DOWN, DOWN 1/2, DOWN"},
		{"forced down, and back by checks", http, "+D+-++", "UP, DOWN, DOWN 1/2, DOWN, DOWN 1/2, UP"},
		{"forced up, and down by checks", http, "-U---", "DOWN, UP, UP 2/3, UP 1/3, DOWN"},
		{"forced to stop", http, "+S+", "UP, NOLB, UP"},
		{"checks off", http, "+oDUO", "UP, no check, DOWN, no check, UP"},
		{"fully up at first", initially(spec.InitialFullyUp), "--mr-", "UP 2/3, UP 1/3, MAINT, UP, UP 2/3"},
		{"down at first", initially(spec.InitialDown), "+mr+", "UP, MAINT, DOWN 1/2, UP"},
		{"fully down at first", initially(spec.InitialFullyDown), "+-++", "DOWN 1/2, DOWN, DOWN 1/2, UP"},
		{"no check", spec.Check{}, "dmrDU", "DRAIN, MAINT, no check, DOWN, no check"},
	}
	for _, test := range tests {
		v := unchecked
		v.use(&test.check)
		var got []string
		for _, event := range test.life {
			admin := func(a spec.Admin) {
				if v.admin == spec.AdminMaint {
					v.start()
				}
				v.admin = a
			}
			switch event {
			case '+':
				v.observe(check.Layer7OK)
			case '-':
				v.observe(check.Layer7Status)
			case 'c':
				v.observe(check.Layer7Condition)
			case 'r':
				admin(spec.AdminReady)
			case 'd':
				admin(spec.AdminDrain)
			case 'm':
				admin(spec.AdminMaint)
			case 'U':
				v.force(Up)
			case 'S':
				v.force(Stopping)
			case 'D':
				v.force(Down)
			case 'o', 'O':
				v.checksOff = event == 'o'
			}
			got = append(got, v.status())
		}
		if text := strings.Join(got, ", "); text != test.want {
			t.Errorf("%s: %s: got %s, want %s", test.name, test.life, text, test.want)
		}
	}
}

// TestVitalsUnderAnotherCheck: other counts keep the health.
func TestVitalsUnderAnotherCheck(t *testing.T) {
	t.Parallel()
	use := func(rise, fall int) spec.Check { return spec.Check{Kind: spec.CheckTCP, Rise: rise, Fall: fall} }
	tests := []struct {
		name     string
		life     string
		from, to spec.Check
		want     string
	}{
		{"up", "+", use(2, 3), use(1, 5), "UP"},
		{"going down", "+-", use(2, 3), use(2, 5), "UP 4/5"},
		{"nearly down", "+--", use(2, 3), use(2, 1), "UP"},
		{"down", "-", use(2, 3), use(5, 1), "DOWN"},
		{"going up", "-++", use(3, 3), use(2, 3), "DOWN 1/2"},
		{"down, and checked no more", "-", use(2, 3), spec.Check{}, "no check"},
		{"checked from now on", "", spec.Check{}, use(2, 3), "UP 1/3"},
	}
	for _, test := range tests {
		v := unchecked
		v.use(&test.from)
		for _, event := range test.life {
			v.observe(map[rune]check.Code{'+': check.Layer4OK, '-': check.Layer4Refused}[event])
		}
		v.use(&test.to)
		if got := v.status(); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

func TestIntervals(t *testing.T) {
	t.Parallel()
	c := spec.Check{Kind: spec.CheckTCP, Rise: 2, Fall: 3, Interval: 1, Fast: 2, Down: 3}
	v := unchecked
	v.use(&c)
	got := fmt.Sprint(int(v.interval(&c)))
	for _, event := range "+--+---+-++" {
		v.observe(map[rune]check.Code{'+': check.Layer4OK, '-': check.Layer4Refused}[event])
		got += fmt.Sprint(int(v.interval(&c)))
	}
	if want := "2" + "12212232321"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
