// Package track answers: is what an instance depends on well?
package track

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/netnsmark"
	"github.com/twotier/twotier/services/internal/probe"
	"github.com/twotier/twotier/services/internal/program"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// Tracker runs the checks of this node.
type Tracker struct {
	// TLS is the agent's own certificate and CA. nil: plain text.
	TLS *tls.Config
	// Etcd reads keys there.
	Etcd Keys
	// Log gets what has nowhere else to go.
	Log *zap.Logger
}

// Keys is where keys stand.
type Keys interface {
	// Get reads a key and tells whether it is there.
	Get(ctx context.Context, key string) (value string, there bool, err error)
}

// Watch runs one check until ctx ends, and reports the first answer and then whenever it has changed; why tells what is
// wrong. well is the state that it starts from. The first answer decides at once, without regard to rise and fall.
func (t Tracker) Watch(ctx context.Context, c spec.Check, well bool, report func(well bool, why string)) {
	prober, end := t.prober(c)
	hold := newHold(c.HoldDown, report)
	first := true
	err := probe.Run(ctx, probe.Config{
		Interval: c.Interval, Timeout: c.Timeout, Rise: c.Rise, Fall: c.Fall, Up: well, FirstDecides: true,
	}, prober, func(r probe.Result) {
		if !r.Changed && !first {
			hold.pass(time.Now())
			return
		}
		first = false
		why := ""
		if r.Err != nil {
			why = r.Err.Error()
		}
		hold.take(time.Now(), r.Up, why)
	})
	if err != nil {
		t.Log.Error("tracker ended", zap.String("tracker", c.Name), zap.Error(err))
	}
	if err := end(); err != nil {
		t.Log.Debug("close the connection of a tracker", zap.String("tracker", c.Name), zap.Error(err))
	}
}

// proberFunc is a function that asks once.
type proberFunc func(context.Context) error

func (f proberFunc) Probe(ctx context.Context) error { return f(ctx) }

// prober is what asks, and what ends it.
func (t Tracker) prober(c spec.Check) (probe.Prober, func() error) {
	nothing := func() error { return nil }
	w := c.What
	switch w.Kind {
	case spec.CheckGRPC:
		health := probe.NewGRPCHealth(c.Address, w.Target, t.TLS)
		if w.LastResort {
			last := newLastResort(health, c, t.TLS)
			return last, last.close
		}
		return health, health.Close
	case spec.CheckTCP:
		return probe.TCP{Address: c.Address}, nothing
	case spec.CheckHTTP:
		return probe.HTTP{Address: c.Address, Path: w.Target, Host: w.Host}, nothing
	case spec.CheckEtcd:
		return &keyProber{keys: t.Etcd, key: c.Address, what: w}, nothing
	case spec.CheckScript:
		return proberFunc(func(ctx context.Context) error { return program.Run(ctx, w.Arguments(), w.Target) }), nothing
	case spec.CheckProcess:
		return presence(w, "process "+w.Target, func() (bool, error) { return processRuns("/proc", w.Target) }), nothing
	case spec.CheckFile:
		switch {
		case w.Number:
			return proberFunc(func(context.Context) error { return holdsZero(w) }), nothing
		case w.Namespace:
			return presence(w, "mark of this network namespace in the file "+w.Target, func() (bool, error) { return bearsMark(w.Target) }), nothing
		}
		return presence(w, "file "+w.Target, func() (bool, error) { return fileIsThere(w.Target) }), nothing
	case spec.CheckInterface:
		return presence(w, "network card "+w.Target, func() (bool, error) { return cardIsUp(w.Target) }), nothing
	case spec.CheckRoute:
		return presence(w, "route to "+w.Target, func() (bool, error) { return routeIsThere("/proc/net", w.Target) }), nothing
	}
	return proberFunc(func(context.Context) error { return fmt.Errorf("unknown kind of check %d", w.Kind) }), nothing
}

// presence is good while something is there, or while it is not. What cannot be told is bad either way.
func presence(w spec.What, what string, there func() (bool, error)) probe.Prober {
	return proberFunc(func(context.Context) error {
		is, err := there()
		switch {
		case err != nil:
			return fmt.Errorf("look for the %s: %w", what, err)
		case is && w.Reverse:
			return errors.New(what + " is there")
		case !is && !w.Reverse:
			return errors.New(what + " is not there")
		}
		return nil
	})
}

// processRuns looks for a process by its name, zombies left out.
func processRuns(proc, name string) (bool, error) {
	all, err := filepath.Glob(proc + "/[0-9]*/stat")
	if err != nil {
		return false, err
	}
	for _, file := range all {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has just ended
		}
		// PID (NAME) STATE ...: the name may hold parentheses itself (proc(5)).
		open, end := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')')
		if open < 0 || end < open || len(text) < end+3 {
			continue
		}
		if string(text[open+1:end]) == name && text[end+2] != 'Z' && text[end+2] != 'X' {
			return true, nil
		}
	}
	return false, nil
}

func fileIsThere(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// numberMost is the most bytes that are read of a file with a number: the longest of 64 bits has 20, and there may be a line
// end or a word behind it.
const numberMost = 64

// holdsZero is good while the file holds the number 0, or, with Reverse, another one. No file and an empty one hold 0, as
// with keepalived.
func holdsZero(w spec.What) error {
	text, err := head(w.Target, numberMost)
	number, digits := int64(0), strings.Fields(text)
	if err == nil && len(digits) > 0 {
		number, err = strconv.ParseInt(digits[0], 10, 64)
	}
	switch {
	case err != nil:
		return fmt.Errorf("look for a number in the file %s: %w", w.Target, err)
	case (number == 0) == w.Reverse:
		return fmt.Errorf("file %s holds %d", w.Target, number)
	}
	return nil
}

// bearsMark tells whether the file was written in this network namespace.
func bearsMark(path string) (bool, error) {
	mark, err := netnsmark.Own()
	if err != nil {
		return false, err
	}
	text, err := head(path, int64(len(mark))+1)
	return text == mark, err
}

// head reads the first bytes of a file; none of one that is not there.
func head(path string, most int64) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe that nobody writes to is no reason to wait
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read from
	text, err := io.ReadAll(io.LimitReader(f, most))
	return string(text), err
}

func cardIsUp(name string) (bool, error) {
	card, err := net.InterfaceByName(name)
	if err != nil {
		return false, nil // a card that has been pulled out
	}
	return card.Flags&net.FlagUp != 0 && card.Flags&net.FlagRunning != 0, nil
}

// Flags of a route (include/uapi/linux/route.h, ipv6_route.h).
const (
	routeUp     = 1
	routeReject = 0x200
	routeLocal  = 0x80000000
)

// routeIsThere looks for a route that can be used, in the tables that the kernel shows in the folder.
func routeIsThere(folder, destination string) (bool, error) {
	to, err := netip.ParsePrefix(destination)
	if err != nil {
		return false, err
	}
	address, file, columns, want := to.Addr().AsSlice(), "ipv6_route", columnsV6, [2]string{}
	if to.Addr().Is6() {
		want = [2]string{hex.EncodeToString(address), fmt.Sprintf("%02x", to.Bits())}
	} else {
		file, columns = "route", columnsV4
		want = [2]string{hexadecimal(address), hexadecimal(net.CIDRMask(to.Bits(), to.Addr().BitLen()))}
	}
	text, err := os.ReadFile(filepath.Join(folder, file))
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) <= columns.flags || f[columns.destination] != want[0] || f[columns.mask] != want[1] {
			continue
		}
		flags, err := strconv.ParseUint(f[columns.flags], 16, 32)
		if err == nil && flags&routeUp != 0 && flags&(routeReject|routeLocal) == 0 {
			return true, nil
		}
	}
	return false, nil
}

// Columns of a line: of IPv4 the main table with addresses and masks as numbers in the order of the machine
// (net/ipv4/fib_trie.c), of IPv6 all tables with addresses as they are written and lengths (net/ipv6/route.c).
var (
	columnsV4 = struct{ destination, mask, flags int }{1, 7, 3}
	columnsV6 = struct{ destination, mask, flags int }{0, 1, 8}
)

// hexadecimal writes four bytes as the kernel prints a number of them.
func hexadecimal(four []byte) string { return fmt.Sprintf("%08X", binary.NativeEndian.Uint32(four)) }
