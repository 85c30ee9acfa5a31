// Package mux carries the streams of one HTTP/2 connection: each is a stream of bytes that reads and writes HTTP/1.1, for
// whoever serves requests, and frames on the wire.
//
// A connection has one goroutine that reads frames, and one that writes while there is something to write. A stream is
// used by whoever serves it, as a net.Conn is. What it receives waits in the window that it has given; what it sends waits
// in the window of the other side and in the buffer of the connection, so that the memory of a connection is bounded.
package mux

import (
	"errors"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/http2"
)

// Limits of one connection.
const (
	// DefaultStreams is the most requests of one client connection at a time unless it is configured
	// (SETTINGS_MAX_CONCURRENT_STREAMS). A request counts until both sides have ended it, and when it has been reset until it is
	// no longer worked on: opening and resetting in turn gains nothing (CVE-2023-44487).
	DefaultStreams = 100
	// StreamWindow is how many bytes of a body a stream takes before they are passed on.
	StreamWindow = 64 << 10
	// ConnWindow is how many bytes of bodies all streams of a connection take together; more only when some hold so much and
	// others wait for theirs, up to StreamWindow for each that there may be.
	ConnWindow = 1 << 20
	// MaxOut is how many bytes wait to be written to a connection before its streams have to wait.
	MaxOut = 128 << 10
	// MaxPending is how many bytes wait to be written before nothing more is read: whoever sends what has to be answered
	// (PING, SETTINGS, requests) and does not read the answers waits.
	MaxPending = 256 << 10
	// ResetBurst is how many streams a client may reset, or have reset by its faults, before they have been answered at once, ResetRate how many more each
	// second. Beyond it the connection ends with ENHANCE_YOUR_CALM.
	ResetBurst, ResetRate = 200, 50
	// FrameBurst is how many frames that bring nothing forward (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, unknown ones,
	// frames for closed streams) the other side may send at once, FrameRate how many more each second. Each DATA frame that is sent allows
	// for framesPerData more, each request for framesPerRequest. Beyond it the connection ends with ENHANCE_YOUR_CALM.
	FrameBurst, FrameRate = 2000, 500

	framesPerData, framesPerRequest = 3, 8

	// writePiece is the most bytes that have to be taken within the write timeout.
	writePiece = 64 << 10
	// goAwayPause is how long after the first GOAWAY the second follows if the PING between them is not answered.
	goAwayPause = time.Second
	// lingerTimeout and lingerBytes bound what is still read of a connection before it is closed, so that a reset does not
	// destroy what is on its way.
	lingerTimeout, lingerBytes = time.Second, 1 << 20
	// maxGaps is how many ranges of stream numbers that a client has left out are remembered.
	maxGaps = 8
	// maxCut is how many streams that were reset before their end are remembered.
	maxCut = 64
)

// ErrUntouched: the server says that it has not looked at the request; it can be sent again, whatever its method
// (RFC 9113 section 8.7).
var ErrUntouched = errors.New("the server has not processed the request")

var errClosed = errors.New("the stream is closed")

// ResetError: the other side has given the stream up.
type ResetError struct{ Code http2.Code }

func (e *ResetError) Error() string { return "the stream was reset: " + e.Code.String() }

// bucket limits a rate: it holds tokens, up to a burst.
type bucket struct {
	tokens, burst, rate float64
	last                time.Time
}

func newBucket(burst, rate float64) bucket {
	return bucket{tokens: burst, burst: burst, rate: rate}
}

// take takes one token; false: there is none. The clock is only asked when it may matter.
func (b *bucket) take() bool {
	if b.tokens < b.burst/2 {
		now := time.Now()
		if !b.last.IsZero() {
			b.add(now.Sub(b.last).Seconds() * b.rate)
		}
		b.last = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (b *bucket) add(n float64) { b.tokens = min(b.burst, b.tokens+n) }
