package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/accesslog"
	"github.com/twotier/twotier/services/l7-router/internal/exchange"
	"github.com/twotier/twotier/services/l7-router/internal/http1"
)

const (
	// spliceMin is the least rest of a body, or of a chunk, that is worth a pipe.
	spliceMin = 64 << 10
	// pulse is how often a wait for a server is interrupted to see whether the client is still there.
	pulse = 250 * time.Millisecond
)

var (
	errEnd     = io.EOF
	errSilent  = errors.New("silent for too long")
	errGone    = errors.New("the client has gone")
	errCut     = errors.New("the body ends too early")
	errStopped = errors.New("stopped")
)

// failed is an error of one side of an exchange.
type failed struct {
	reading bool // from the sender, otherwise writing to the receiver
	err     error
}

func (f *failed) Error() string { return f.err.Error() }
func (f *failed) Unwrap() error { return f.err }

// activity is when a byte last moved in either direction of an exchange: a side is only silent while both are.
type activity struct{ last atomic.Int64 }

var epoch = accesslog.Clock

// now is the clock of everything that is counted.
func now() int64 { return int64(time.Since(epoch)) }

func (a *activity) touch(at int64)               { a.last.Store(at) }
func (a *activity) quiet(at int64) time.Duration { return time.Duration(at - a.last.Load()) }

// direction moves bytes from one socket to another.
type direction struct {
	from, to *sock
	// fromTimeout and toTimeout are how long each side may stay silent; fromFin and toFin from when half says that the other
	// direction has ended. nil: it says nothing.
	fromTimeout, toTimeout time.Duration
	fromFin, toFin         time.Duration
	half                   *atomic.Bool
	active                 *activity
	// at is the clock as the goroutine of the direction has read it when it last had waited: a small request would spend more on
	// clocks than on anything else otherwise.
	at int64
	// stop ends the direction before its next wait; set it, then expire the deadlines.
	stop *atomic.Bool
	// watch, when not nil, is asked every pulse while waiting to read.
	watch func() error
	// head is sent before anything else, together with the first bytes of the body when they fit.
	head []byte
	// put is how many bytes have been written.
	put int64
	// fromPace and toPace are what is asked of each side; nil: nothing.
	fromPace, toPace *exchange.Pace
}

// until is how long a side is waited for, at most for a time.
func until(p *exchange.Pace, at int64, wait time.Duration) time.Duration {
	if p == nil {
		return wait
	}
	p.Wait(at)
	if due := p.Due(); due != 0 {
		wait = min(wait, time.Duration(due-at))
	}
	return wait
}

// took notes that n bytes have been read.
func (d *direction) took(n int64) { d.moved(d.fromPace, n) }

// gave notes that n bytes have been written.
func (d *direction) gave(n int64) { d.moved(d.toPace, n) }

func (d *direction) moved(p *exchange.Pace, n int64) {
	d.at = now()
	if n <= 0 {
		return
	}
	d.active.touch(d.at)
	if p != nil {
		p.Earn(d.at, n)
		p.Rest(d.at)
	}
}

// readInto reads once.
func (d *direction) readInto(p []byte) (int, error) {
	for {
		if err := d.beforeRead(); err != nil {
			return 0, err
		}
		n, err := d.from.Read(p)
		if n > 0 {
			d.took(int64(n))
			return n, nil
		}
		if err = d.afterRead(err); err != nil {
			return 0, &failed{reading: true, err: err}
		}
	}
}

// patience is how long the sender and the receiver may stay silent now.
func (d *direction) patience() (from, to time.Duration) {
	if d.half != nil && d.half.Load() {
		return d.fromFin, d.toFin
	}
	return d.fromTimeout, d.toTimeout
}

func (d *direction) beforeRead() error {
	for {
		limit, _ := d.patience()
		wait := until(d.fromPace, d.at, d.rest(limit))
		if d.watch != nil {
			wait = min(wait, pulse)
		}
		d.from.readBy(d.at, wait)
		if now, _ := d.patience(); now == limit {
			break // and whoever changes it from here on sets another deadline
		}
	}
	if d.stop.Load() {
		return errStopped
	}
	return nil
}

// rest is what is left of a timeout; when nothing is, there is a last look.
func (d *direction) rest(limit time.Duration) time.Duration {
	if left := limit - d.active.quiet(d.at); left > 0 {
		return left
	}
	return min(limit, pulse)
}

// afterRead turns a timeout of a read that is none yet into nil.
func (d *direction) afterRead(err error) error {
	d.from.readDue.forget()
	from, _ := d.patience()
	return d.afterWait(err, from, d.fromPace)
}

// afterWrite turns a timeout of a write that is none yet into nil.
func (d *direction) afterWrite(err error) error {
	d.to.writeDue.forget()
	_, to := d.patience()
	return d.afterWait(err, to, d.toPace)
}

// afterWait turns a timeout that is none yet into nil.
func (d *direction) afterWait(err error, timeout time.Duration, pace *exchange.Pace) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	d.at = now()
	if d.stop.Load() {
		return errStopped
	}
	if d.watch != nil {
		if err := d.watch(); err != nil {
			return err
		}
	}
	if d.active.quiet(d.at) >= timeout || pace != nil && pace.Over(d.at) {
		return errSilent
	}
	return nil
}

// write sends p, after the head when that has not been sent yet.
func (d *direction) write(p []byte) error {
	if len(d.head) > 0 {
		if len(p) <= cap(d.head)-len(d.head) {
			p = append(d.head, p...)
			d.head = nil
		} else {
			head := d.head
			d.head = nil
			if err := d.writeAll(head); err != nil {
				return err
			}
		}
	}
	return d.writeAll(p)
}

func (d *direction) flush() error {
	if len(d.head) == 0 {
		return nil
	}
	return d.write(nil)
}

func (d *direction) writeAll(p []byte) error {
	for len(p) > 0 {
		if err := d.beforeWrite(); err != nil {
			return &failed{err: err}
		}
		n, err := d.to.Write(p)
		d.put += int64(n)
		p = p[n:]
		d.gave(int64(n))
		if err == nil {
			continue
		}
		if err := d.afterWrite(err); err != nil {
			return &failed{err: err}
		}
	}
	return nil
}

func (d *direction) beforeWrite() error {
	d.to.writing = d
	for {
		_, limit := d.patience()
		d.to.writeBy(d.at, until(d.toPace, d.at, d.rest(limit)))
		if _, now := d.patience(); now == limit {
			break // as above
		}
	}
	if d.stop.Load() {
		return errStopped
	}
	return nil
}

// stream moves a whole body. What has been read of it already is in the buffer; what follows it stays there. With
// unchunk only the data of chunks is passed on.
func (d *direction) stream(in *buffer, body http1.Body, unchunk bool) error {
	switch body.Framing {
	case http1.Length:
		return d.length(in, body.Length)
	case http1.Chunked:
		return d.chunks(in, body, unchunk)
	case http1.UntilClose:
		return d.untilClose(in)
	}
	return d.flush()
}

func (d *direction) length(in *buffer, left int64) error {
	for {
		if have := min(int64(len(in.bytes())), left); have > 0 {
			if err := d.write(in.bytes()[:have]); err != nil {
				return err
			}
			in.consume(int(have))
			left -= have
		}
		if err := d.flush(); err != nil || left == 0 {
			return err
		}
		if left >= spliceMin {
			_, err := d.splice(left)
			return err
		}
		room := in.room()
		n, err := d.readInto(room[:min(int64(len(room)), left)])
		if err != nil {
			return cut(err)
		}
		in.w += n
	}
}

func (d *direction) chunks(in *buffer, body http1.Body, unchunk bool) error {
	var reader http1.ChunkReader
	reader.Limit(body.Length)
	reader.Reserve(body.Reserved)
	for {
		passed, ready := 0, 0 // up to ready it may be written
		for {
			n, data, err := reader.Next(in.bytes()[passed:])
			if err != nil {
				if unchunk && ready > 0 { // data that had been told from its framing goes out before
					if err := d.write(in.bytes()[:ready]); err != nil {
						return err
					}
				}
				return &failed{reading: true, err: err}
			}
			if n == 0 {
				break
			}
			held := in.bytes()
			from, to := reader.Drop()
			switch {
			case unchunk:
				ready += copy(held[ready:], data)
			case from == to && ready == passed:
				ready += n
			default:
				ready += copy(held[ready:], held[passed:passed+from])
				ready += copy(held[ready:], held[passed+to:passed+n])
			}
			passed += n
		}
		if ready > 0 {
			if err := d.write(in.bytes()[:ready]); err != nil {
				return err
			}
		}
		in.consume(passed)
		if err := d.flush(); err != nil || reader.Done() {
			return err
		}
		if left := reader.Left(); left >= spliceMin && in.empty() {
			moved, err := d.splice(left)
			reader.Skip(moved)
			if err != nil {
				return err
			}
			continue
		}
		n, err := d.readInto(in.room())
		if err != nil {
			return cut(err)
		}
		in.w += n
	}
}

func (d *direction) untilClose(in *buffer) error {
	if err := d.write(in.bytes()); err != nil {
		return err
	}
	in.consume(len(in.bytes()))
	return d.untilEnd()
}

// untilEnd moves everything up to the end of the stream.
func (d *direction) untilEnd() error {
	for {
		_, err := d.splice(1 << 40)
		switch {
		case errors.Is(err, errCut):
			return nil
		case err != nil:
			return err
		}
	}
}

// splice moves n bytes, if it can without bringing them into this process. It reports how many it has moved. While it
// waits for the sender it holds neither pipe nor buffer.
func (d *direction) splice(n int64) (moved int64, err error) {
	for moved < n {
		if err := d.beforeRead(); err != nil {
			return moved, err
		}
		var p *pipe
		err := errNoSplice // through TLS or HTTP/2 there is none
		if d.from.plain() && d.to.plain() {
			p, err = d.from.fill(n - moved)
		}
		var step int64
		switch {
		case errors.Is(err, errNoSplice):
			step, err = d.copy(n - moved)
		case err != nil:
			if err = d.afterRead(err); err != nil {
				err = &failed{reading: true, err: err}
			}
		case p == nil:
			err = &failed{reading: true, err: errCut}
		default:
			d.took(p.held)
			step, err = d.pour(p)
		}
		moved += step
		if err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// pour empties a pipe into the receiver and gives it back.
func (d *direction) pour(p *pipe) (moved int64, err error) {
	defer giveBackPipe(p)
	for p.held > 0 {
		if err := d.beforeWrite(); err != nil {
			return moved, &failed{err: err}
		}
		gave, err := p.give(d.to)
		if err != nil {
			if err = d.afterWrite(err); err != nil {
				return moved, &failed{err: err}
			}
			continue
		}
		moved += gave
		d.put += gave
		d.gave(gave)
	}
	return moved, nil
}

// copy moves at most n bytes through a buffer, for want of a pipe. Where it can it borrows that when something has come.
func (d *direction) copy(n int64) (moved int64, err error) {
	var b *buffer
	defer func() { giveBack(b) }()
	if n < BufferSize {
		b = borrow()
		if b.w, err = d.readInto(b.b[:n]); err != nil {
			return 0, cut(err)
		}
	}
	for b == nil {
		if err := d.beforeRead(); err != nil {
			return 0, err
		}
		if b, err = d.from.readFirst(); err == nil {
			d.took(int64(len(b.bytes())))
		} else if err = d.afterRead(err); err != nil {
			return 0, cut(&failed{reading: true, err: err})
		}
	}
	if err := d.writeAll(b.bytes()); err != nil {
		return 0, err
	}
	return int64(len(b.bytes())), nil
}

// cut says of the end of a stream that it came in the middle of a body.
func cut(err error) error {
	if errors.Is(err, errEnd) {
		return &failed{reading: true, err: errCut}
	}
	return err
}

// reading reports whether err came from the sending side.
func reading(err error) bool {
	var f *failed
	return errors.As(err, &f) && f.reading
}

// expire ends the waits of a socket at once.
func expire(s *sock) {
	_ = s.SetDeadline(past) // a closed socket has no waits
}

var _ net.Conn = (*sock)(nil)
