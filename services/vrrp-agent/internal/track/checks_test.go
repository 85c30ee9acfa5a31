package track

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

func TestHold(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1000, 0)
	var told []string
	h := newHold(10*time.Second, func(well bool, why string) { told = append(told, fmt.Sprintf("%v%s", well, why)) })
	at := func(second int, well bool, want ...string) {
		t.Helper()
		told = nil
		h.take(begin.Add(time.Duration(second)*time.Second), well, "")
		check(t, second, told, want)
	}
	pass := func(second int, want ...string) {
		t.Helper()
		told = nil
		h.pass(begin.Add(time.Duration(second) * time.Second))
		check(t, second, told, want)
	}
	at(0, false, "false")
	at(1, true, "true") // the first answers hold nothing
	at(2, false, "false")
	at(3, true)
	pass(21) // it fell within 20 s of its recovery: 20 s of patience, then
	pass(22, "true")
	pass(23)
	at(24, false, "false") // and again
	at(25, true)
	at(26, false, "false")
	at(27, true)
	pass(63)
	pass(64, "true")
	at(3000, false, "false") // long after
	at(3001, true)
	pass(3009)
	pass(3010, "true")
	none := newHold(0, func(well bool, why string) { told = append(told, fmt.Sprint(well)) })
	told = nil
	for n, well := range []bool{true, false, true, false} {
		none.take(begin.Add(time.Duration(n)*time.Millisecond), well, "")
	}
	check(t, 0, told, []string{"true", "false", "true", "false"})
}

func check(t *testing.T, second int, got, want []string) {
	t.Helper()
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("at %d s: told %v, want %v", second, got, want)
	}
}

// TestHoldWatch: what is held back comes without another change.
func TestHoldWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "there")
		var log []string
		begin := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		go Tracker{Log: zap.NewNop()}.Watch(ctx, spec.Check{
			Name: "file", What: spec.What{Kind: spec.CheckFile, Target: file, Reverse: true}, Interval: 100 * time.Millisecond,
			Timeout: time.Second, Rise: 1, Fall: 1, HoldDown: 5 * time.Second,
		}, false, func(well bool, why string) {
			log = append(log, fmt.Sprintf("%d %v %s", time.Since(begin)/time.Second, well, strings.ReplaceAll(why, file, "FILE")))
		})
		time.Sleep(10 * time.Second) // of the bubble's clock
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second) // of the bubble's clock
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second) // of the bubble's clock
		cancel()
		synctest.Wait()
		if got, want := strings.Join(log, "; "), "0 true ; 10 false file FILE is there; 15 true "; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestNumber(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "number")
	for _, c := range []struct{ text, want, reversed string }{
		{"", "", "file FILE holds 0"},
		{"0\n", "", "file FILE holds 0"},
		{"-0", "", "file FILE holds 0"},
		{"7\n", "file FILE holds 7", ""},
		{" -3 a word\n", "file FILE holds -3", ""},
		{"x", `look for a number in the file FILE: strconv.ParseInt: parsing "x": invalid syntax`, `look for a number in the file FILE: strconv.ParseInt: parsing "x": invalid syntax`},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		number(t, file, c.text, c.want, c.reversed)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	number(t, file, "no file", "", "file FILE holds 0")
	number(t, t.TempDir(), "a folder", "read FILE: is a directory", "read FILE: is a directory")
}

func number(t *testing.T, file, what, want, reversed string) {
	t.Helper()
	for reverse, want := range map[bool]string{false: want, true: reversed} {
		prober, _ := Tracker{}.prober(spec.Check{What: spec.What{Kind: spec.CheckFile, Target: file, Number: true, Reverse: reverse}})
		got := ""
		if err := prober.Probe(t.Context()); err != nil {
			got = strings.ReplaceAll(err.Error(), file, "FILE")
		}
		if !strings.HasSuffix(got, want) || want == "" && got != "" {
			t.Errorf("%q, reverse %v: got %q, want %q", what, reverse, got, want)
		}
	}
}

func TestProcess(t *testing.T) {
	t.Parallel()
	proc := t.TempDir()
	for pid, stat := range map[string]string{
		"1": "1 (init) S 0", "2": "2 (a (b) c) R 1", "3": "3 (gone) Z 1", "4": "broken", "self": "5 (self) S 1",
	} {
		if err := os.MkdirAll(filepath.Join(proc, pid), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "stat"), []byte(stat), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"init": true, "a (b) c": true, "gone": false, "broken": false, "self": false} {
		if got, err := processRuns(proc, name); got != want || err != nil {
			t.Errorf("%s: got %v %v", name, got, err)
		}
	}
}

func TestRoute(t *testing.T) {
	t.Parallel()
	if hexadecimal([]byte{1, 0, 0, 0}) != "00000001" {
		return // the file below is of a little-endian machine
	}
	folder := t.TempDir()
	for name, table := range map[string]string{
		"route": "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
			"eth0\t00000000\t633CA8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
			"eth0\t003CA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n" +
			"*\t0000090A\t00000000\t0201\t0\t0\t0\t0000FFFF\t0\t0\t0\n" +
			"eth0\t000010AC\t00000000\t0000\t0\t0\t0\t0000FFFF\t0\t0\t0\n",
		// As Linux 6.18 shows it.
		"ipv6_route": "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n" +
			"00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0\n" +
			"fd000000000000000000000000000002 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000003 00000000 80200001     eth0\n" +
			"20010db8000900000000000000000000 30 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200201       lo\n",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(table), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for destination, want := range map[string]bool{
		"0.0.0.0/0": true, "192.168.60.0/24": true, "192.168.0.0/16": false, "172.16.0.0/16": false, "10.0.0.0/8": false, "10.9.0.0/16": false,
		"::/0": true, "fd00::/64": true, "fd00::/48": false, "fd00::2/128": false, "2001:db8:9::/48": false,
	} {
		if got, err := routeIsThere(folder, destination); got != want || err != nil {
			t.Errorf("%s: got %v %v", destination, got, err)
		}
	}
}

func TestInterface(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"lo": true, "nothing0": false} {
		if got, err := cardIsUp(name); got != want || err != nil {
			t.Errorf("%s: got %v %v", name, got, err)
		}
	}
}
