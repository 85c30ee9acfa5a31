package accesslog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/internal/logging"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

const (
	// writeEvery is how long an entry waits at most.
	writeEvery = 100 * time.Millisecond
	// keepUnused is for how long a log that no frontend wants any more still takes the requests that began with it.
	keepUnused = 10 * time.Minute
	// complainEvery is how often it is told that requests are not logged.
	complainEvery = time.Minute
	// tag names the program in syslog.
	tag = "l7-router"
)

// Clock is when the clock of the Records was zero.
var Clock = time.Now()

// Log is where the requests of a frontend are logged.
type Log struct {
	spec.AccessLog
	out *output
	// skipped counts those that sampling has left out since the last.
	skipped atomic.Uint64
}

// output is one target, for as many Logs as want it.
type output struct {
	logs  *Logs
	rings []ring
	target
	unused time.Time // since when nobody wants it; zero: somebody does
}

// Logs are all the logs of the router.
type Logs struct {
	log *zap.Logger
	// Process tells how many connections are under way in all; set it before Run.
	Process func() int64

	wake    chan struct{}
	dropped atomic.Uint64

	mu      sync.Mutex // guards what follows
	outputs map[string]*output
	logsOf  map[spec.AccessLog]*Log

	// The goroutine of Run owns these.
	complained time.Time
	told       uint64
}

// New makes an empty set of logs; Run writes them.
func New(log *zap.Logger) *Logs {
	return &Logs{
		log: log.Named("accesslog"), wake: make(chan struct{}, 1), Process: func() int64 { return 0 },
		outputs: map[string]*output{}, logsOf: map[spec.AccessLog]*Log{},
	}
}

// Dropped tells how many requests were not logged, because they came faster than they could be written, or because they
// could not be written at all.
func (l *Logs) Dropped() uint64 { return l.dropped.Load() }

// Want gives the log that is wanted, nil when none is.
func (l *Logs) Want(s spec.AccessLog) *Log {
	if s.Kind == spec.LogNone {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	name := fmt.Sprint(s.Kind, " ", s.Target)
	out := l.outputs[name]
	if out == nil {
		out = &output{logs: l, rings: make([]ring, stats.Shards()), target: target{kind: s.Kind, path: s.Target}}
		for i := range out.rings {
			out.rings[i].entries = make([]Entry, ringSize)
		}
		l.outputs[name] = out
	}
	out.unused = time.Time{}
	log := l.logsOf[s]
	if log == nil || log.out != out {
		log = &Log{AccessLog: s, out: out}
		l.logsOf[s] = log
	}
	return log
}

// Keep tells which logs are wanted; the others end after a while.
func (l *Logs) Keep(wanted []spec.AccessLog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	used := map[*output]bool{}
	keep := map[spec.AccessLog]bool{}
	for _, s := range wanted {
		keep[s] = true
		if log := l.logsOf[s]; log != nil {
			used[log.out] = true
		}
	}
	for s := range l.logsOf {
		if !keep[s] {
			delete(l.logsOf, s)
		}
	}
	for _, out := range l.outputs {
		if !used[out] && out.unused.IsZero() {
			out.unused = time.Now()
		}
	}
}

// Wants reports whether a request that ended like this is to be logged. It is asked once for each.
func (l *Log) Wants(e *Entry) bool {
	return l.Sample <= 1 || e.abnormal() || l.skipped.Add(1)%uint64(l.Sample) == 0
}

// Put logs a request. It does not wait, and copies e.
func (l *Log) Put(shard int, e *Entry) {
	e.json, e.facility = l.JSON, l.Facility
	ok, full := l.out.rings[shard&(len(l.out.rings)-1)].put(e)
	if !ok {
		l.out.logs.dropped.Add(1)
	}
	if full {
		select {
		case l.out.logs.wake <- struct{}{}:
		default:
		}
	}
}

// Run writes until ctx ends, and then what is left. Whoever puts has to have ended by then.
func (l *Logs) Run(ctx context.Context) error {
	ticker := time.NewTicker(writeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-l.wake:
		case <-ctx.Done():
			l.write(time.Now())
			for _, out := range l.all() {
				out.close()
			}
			return nil
		}
		l.write(time.Now())
	}
}

func (l *Logs) all() []*output {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*output
	for name, out := range l.outputs {
		if !out.unused.IsZero() && time.Since(out.unused) > keepUnused {
			delete(l.outputs, name)
			out.close()
			continue
		}
		all = append(all, out)
	}
	return all
}

// write writes everything that has been put.
func (l *Logs) write(now time.Time) {
	process := l.Process()
	for _, out := range l.all() {
		for i := range out.rings {
			out.rings[i].take(func(e *Entry) { l.lost(out.line(out.append(e, now, process), now)) })
		}
		l.lost(out.flush(now))
	}
}

// append appends the entry's line to the buffer of the target.
func (o *output) append(e *Entry, now time.Time, process int64) []byte {
	dst := o.buffer
	if o.datagrams() {
		const informational = 6 // RFC 5424, section 6.2.1
		dst = fmt.Appendf(dst, "<%d>%s %s[%d]: ", e.facility<<3|informational, now.Format("Jan _2 15:04:05"), tag, os.Getpid())
	}
	if e.json {
		dst = e.appendJSON(dst, Clock)
	} else {
		dst = e.appendHTTPLog(dst, Clock, process)
	}
	if !o.datagrams() {
		dst = append(dst, '\n')
	}
	return dst
}

// lost counts lines that could not be written, and says so now and then.
func (l *Logs) lost(lines uint64, err error) {
	if lines > 0 {
		l.dropped.Add(lines)
	}
	if dropped := l.dropped.Load(); dropped > l.told && time.Since(l.complained) > complainEvery {
		if errors.Is(err, errClosed) {
			err = nil // the reason has been told
		}
		l.log.Warn("requests were not logged", logging.Count(int(dropped-l.told)), zap.Error(err))
		l.told, l.complained = dropped, time.Now()
	}
}
