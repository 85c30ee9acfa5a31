package mux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/http2"
)

func wrong(code http2.Code, format string, args ...any) error {
	return &http2.ConnError{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// frame takes one frame. The errors are *http2.StreamError for its stream, others end the connection.
func (c *Conn) frame(h http2.FrameHeader, payload []byte) error {
	if !c.greeted && h.Type != http2.Settings {
		return wrong(http2.ProtocolError, "the first frame is not SETTINGS") // RFC 9113 3.4
	}
	if c.headers.Stream != 0 && (h.Type != http2.Continuation || h.Stream != c.headers.Stream) {
		return wrong(http2.ProtocolError, "a frame within a header block") // RFC 9113 6.10
	}
	switch h.Type {
	case http2.Data:
		return c.data(h, payload)
	case http2.Headers:
		return c.headersFrame(h, payload)
	case http2.Continuation:
		return c.continuation(h, payload)
	case http2.Priority:
		return c.priority(h, payload)
	case http2.Reset:
		return c.reset(h, payload)
	case http2.Settings:
		return c.settings(h, payload)
	case http2.PushPromise:
		return wrong(http2.ProtocolError, "a pushed request") // RFC 9113 6.6, 8.4: we have not allowed it
	case http2.Ping:
		return c.ping(h, payload)
	case http2.GoAway:
		return c.goAway(h, payload)
	case http2.WindowUpdate:
		return c.windowUpdate(h, payload)
	}
	return c.useless() // RFC 9113 4.1: unknown ones are passed over
}

// useless counts a frame that brings nothing forward.
func (c *Conn) useless() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.frames.take() {
		return errCalm
	}
	return nil
}

// opened reports whether a stream has ever been open: begun by the other side, or by us. The caller holds c.mu.
func (c *Conn) opened(id uint32) bool {
	return id%2 == 1 && id <= c.last
}

// late reports whether a stream is one of those that the last GOAWAY has told to be not served. The client may not have
// read that yet, and what comes on it is passed over (RFC 9113 section 6.8). The caller holds c.mu.
func (c *Conn) late(id uint32) bool { return c.final && id%2 == 1 && id > c.last }

// closedStream judges a frame of a stream that is not there (RFC 9113 section 5.1). The caller holds c.mu.
func (c *Conn) closedStream(id uint32, name string) error {
	switch {
	case c.late(id):
		return nil
	case !c.opened(id):
		return wrong(http2.ProtocolError, "%s on an idle stream", name)
	}
	return &http2.StreamError{Code: http2.StreamClosed, Reason: name + " on a closed stream"}
}

func (c *Conn) data(h http2.FrameHeader, payload []byte) error {
	if h.Stream == 0 {
		return wrong(http2.ProtocolError, "DATA without a stream")
	}
	data, err := http2.Unpad(h, payload)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own -= h.Length; c.own < 0 {
		return wrong(http2.FlowControlError, "more than the window of the connection")
	}
	if len(data) == 0 && !h.Has(http2.EndStream) && !c.frames.take() {
		return errCalm
	}
	defer c.feed()
	s := c.streams[h.Stream]
	if s == nil {
		c.giveBack(h.Length)
		return c.closedStream(h.Stream, "DATA")
	}
	in := &s.in
	refuse := func(code http2.Code, reason string) error {
		c.giveBack(h.Length)
		return &http2.StreamError{Code: code, Reason: reason}
	}
	if in.ended {
		return refuse(http2.StreamClosed, "DATA behind the end of the stream")
	}
	if !in.begun {
		return refuse(http2.ProtocolError, "DATA before HEADERS")
	}
	if in.window -= h.Length; in.window < 0 {
		return refuse(http2.FlowControlError, "more than the window of the stream")
	}
	if in.left >= 0 {
		if in.left -= int64(len(data)); in.left < 0 {
			return refuse(http2.ProtocolError, "more body than Content-Length") // RFC 9113 8.1.1
		}
		if h.Has(http2.EndStream) && in.left > 0 {
			return refuse(http2.ProtocolError, "less body than Content-Length")
		}
	}
	in.data = append(in.data, data...)
	if padding := h.Length - len(data); padding > 0 {
		s.giveBack(padding)
	}
	in.ended = h.Has(http2.EndStream)
	s.settle()
	s.readWait.signal()
	return nil
}

func (c *Conn) headersFrame(h http2.FrameHeader, payload []byte) error {
	if h.Stream == 0 || h.Stream%2 == 0 {
		return wrong(http2.ProtocolError, "HEADERS on stream %d", h.Stream)
	}
	if h.Has(http2.WithPriority) {
		at := 0
		if h.Has(http2.Padded) {
			at = 1
		}
		if len(payload) >= at+4 && binary.BigEndian.Uint32(payload[at:])&http2.MaxStreamID == h.Stream {
			return wrong(http2.ProtocolError, "a stream that depends on itself") // RFC 7540 5.3.1; some clients are still tested for it
		}
	}
	block, err := http2.Unpad(h, payload)
	if err != nil {
		return err
	}
	if !h.Has(http2.EndHeaders) {
		c.headers, c.continuations = h, 0
		c.blockIn = append(c.blockIn[:0], block...)
		return nil
	}
	return c.headerBlock(h, block)
}

func (c *Conn) continuation(h http2.FrameHeader, payload []byte) error {
	if c.headers.Stream == 0 {
		return wrong(http2.ProtocolError, "CONTINUATION without HEADERS")
	}
	c.continuations++
	if c.continuations > http2.MaxContinuations || len(c.blockIn)+len(payload) > http2.MaxBlock {
		return wrong(http2.EnhanceYourCalm, "a header block without end")
	}
	c.blockIn = append(c.blockIn, payload...)
	if !h.Has(http2.EndHeaders) {
		return nil
	}
	headers := c.headers
	c.headers = http2.FrameHeader{}
	err := c.headerBlock(headers, c.blockIn)
	if cap(c.blockIn) > http2.MaxFrame {
		c.blockIn = nil
	}
	return err
}

// headerBlock takes a whole header block.
func (c *Conn) headerBlock(h http2.FrameHeader, block []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[h.Stream]
	switch {
	case s != nil && !(c.client && !s.in.begun):
		return c.trailer(s, h, block)
	case s != nil:
		return c.response(s, h, block)
	case c.client || h.Stream <= c.last:
		if err := c.decode(http2.Trailer, nil, block); isConn(err) {
			return err
		}
		if !c.client && c.leftOut(h.Stream) {
			return wrong(http2.ProtocolError, "stream %d after stream %d", h.Stream, c.last) // RFC 9113 5.1.1
		}
		err := c.closedStream(h.Stream, "HEADERS")
		if c.opened(h.Stream) && !c.cutOff(h.Stream) {
			// It had ended the stream itself (RFC 9113 section 5.1).
			return wrong(http2.StreamClosed, "HEADERS on a closed stream")
		}
		return err
	}
	return c.request(h, block)
}

func isConn(err error) bool {
	if err == nil {
		return false
	}
	var conn *http2.ConnError
	return errors.As(err, &conn)
}

// decode reads a header block into c.head.
func (c *Conn) decode(part http2.Part, text, block []byte) error {
	c.head.Begin(part, text)
	return c.decoder.Decode(block, c.head.Field)
}

// request begins a stream. The caller holds c.mu.
func (c *Conn) request(h http2.FrameHeader, block []byte) error {
	if h.Stream > c.last+2 && c.gapCount < maxGaps || h.Stream > 1 && c.last == 0 && c.gapCount < maxGaps {
		c.gaps[c.gapCount] = [2]uint32{c.last + 1, h.Stream - 1}
		c.gapCount++
	}
	if c.final || c.ending {
		// The last GOAWAY has said that it is not served.
		if err := c.decode(http2.Request, nil, block); isConn(err) {
			return err
		}
		if !c.frames.take() {
			return errCalm
		}
		return nil
	}
	c.last = h.Stream
	w := c.config.Workers.take()
	s := w.stream
	s.reset(c)
	s.id, s.received = h.Stream, c.readAt
	refused := c.decode(http2.Request, s.in.text, block)
	end := h.Has(http2.EndStream)
	var err error
	if refused == nil {
		s.in.body, err = c.head.End(end, false)
		s.in.text = c.head.Text()
	}
	switch {
	case isConn(refused):
		w.spare()
		return refused
	case refused == http2.ErrTooLarge:
		s.in.text = append(s.in.text[:0], tooLarge...)
		s.in.body = http1.Body{Framing: http1.Chunked} // it is thrown away
		c.head.Begin(http2.Request, nil)
	case refused != nil:
		w.spare()
		return refused
	case err != nil:
		w.spare()
		return err
	case c.running >= c.config.Streams:
		w.spare()
		return &http2.StreamError{Code: http2.RefusedStream, Reason: "too many streams"}
	}
	s.in.begun, s.in.ended, s.in.left = true, end, c.head.Length()
	s.in.window, s.out.window = StreamWindow, c.initial
	s.out.toHead = c.head.IsMethod("HEAD")
	s.out.head.Reset(http1.Response)
	c.streams[s.id] = s
	c.running++
	c.frames.add(framesPerRequest)
	c.handlers.Add(1)
	w.serve()
	return nil
}

// tooLarge is a request that http1 refuses with 431, as the one that it stands for has to be.
var tooLarge = "GET / HTTP/1.1\r\n" + strings.Repeat("a:b\r\n", http1.MaxFields+1)

// cutOff reports whether we have, or may have, reset a stream before the other side had ended it: what comes on it was on
// its way then. The caller holds c.mu.
func (c *Conn) cutOff(id uint32) bool {
	for _, other := range c.cut {
		if other == id {
			return true
		}
	}
	return c.cuts > len(c.cut) // some have been forgotten
}

// leftOut reports whether a client has never begun this stream although it has begun later ones.
func (c *Conn) leftOut(id uint32) bool {
	for _, gap := range c.gaps[:c.gapCount] {
		if id >= gap[0] && id <= gap[1] {
			return true
		}
	}
	return false
}

// response takes the head of a response, an interim one too. The caller holds c.mu.
func (c *Conn) response(s *Stream, h http2.FrameHeader, block []byte) error {
	refused := c.decode(http2.Response, s.in.text, block)
	if isConn(refused) {
		return refused
	}
	if refused != nil {
		return &http2.StreamError{Code: http2.ProtocolError, Reason: refused.Error()}
	}
	end := h.Has(http2.EndStream)
	body, err := c.head.End(end, s.in.toHead)
	if err != nil {
		return err
	}
	s.in.text = c.head.Text()
	if len(s.in.text) > MaxPending {
		return wrong(http2.EnhanceYourCalm, "too many interim responses")
	}
	if c.head.Status() >= 200 {
		s.in.begun, s.in.ended, s.in.body, s.in.left = true, end, body, c.head.Length()
	}
	s.readWait.signal()
	return nil
}

// trailer takes the header block behind a body. The caller holds c.mu.
func (c *Conn) trailer(s *Stream, h http2.FrameHeader, block []byte) error {
	refused := c.decode(http2.Trailer, s.in.lines[:0], block)
	if isConn(refused) {
		return refused
	}
	if s.in.ended {
		return &http2.StreamError{Code: http2.StreamClosed, Reason: "HEADERS behind the end of the stream"}
	}
	if refused != nil {
		return &http2.StreamError{Code: http2.ProtocolError, Reason: refused.Error()}
	}
	if _, err := c.head.End(h.Has(http2.EndStream), false); err != nil {
		return err
	}
	if s.in.left > 0 {
		return &http2.StreamError{Code: http2.ProtocolError, Reason: "less body than Content-Length"}
	}
	if len(c.head.Text()) > http1.MaxTrailerBytes-2 {
		return &http2.StreamError{Code: http2.EnhanceYourCalm, Reason: "trailer too large"}
	}
	s.in.lines, s.in.ended = c.head.Text(), true
	s.settle()
	s.readWait.signal()
	return nil
}

func (c *Conn) priority(h http2.FrameHeader, payload []byte) error {
	switch {
	case h.Stream == 0:
		return wrong(http2.ProtocolError, "PRIORITY without a stream")
	case h.Length != 5:
		return &http2.StreamError{Code: http2.FrameSizeError, Reason: "PRIORITY whose length is not 5"}
	case binary.BigEndian.Uint32(payload)&http2.MaxStreamID == h.Stream:
		return &http2.StreamError{Code: http2.ProtocolError, Reason: "a stream that depends on itself"}
	}
	return c.useless() // RFC 9113 5.3.2: given up
}

func (c *Conn) reset(h http2.FrameHeader, payload []byte) error {
	switch {
	case h.Stream == 0:
		return wrong(http2.ProtocolError, "RST_STREAM without a stream")
	case h.Length != 4:
		return wrong(http2.FrameSizeError, "RST_STREAM whose length is not 4")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[h.Stream]
	if s == nil {
		if !c.opened(h.Stream) && !c.late(h.Stream) {
			return wrong(http2.ProtocolError, "RST_STREAM on an idle stream")
		}
		if !c.frames.take() {
			return errCalm
		}
		return nil
	}
	if !c.client && !s.out.ended && !c.resets.take() {
		return errResets
	}
	code := http2.Code(binary.BigEndian.Uint32(payload))
	var err error = &ResetError{code}
	switch {
	case c.client && code == http2.RefusedStream:
		err = ErrUntouched
	case c.client && code == http2.NoError && s.in.ended:
		// The response is whole, and the rest of the request is not wanted (RFC 9113 section 8.1).
		s.out.ended = true
	}
	delete(c.streams, h.Stream)
	c.giveUp(s, err)
	return nil
}

func (c *Conn) settings(h http2.FrameHeader, payload []byte) error {
	if h.Stream != 0 {
		return wrong(http2.ProtocolError, "SETTINGS on a stream")
	}
	if h.Has(http2.Ack) {
		if h.Length != 0 {
			return wrong(http2.FrameSizeError, "an acknowledgement of SETTINGS with a payload")
		}
		return c.useless()
	}
	if h.Length > maxSettings {
		return wrong(http2.EnhanceYourCalm, "more than %d bytes of SETTINGS", maxSettings)
	}
	c.greeted = true
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.frames.take() {
		return errCalm
	}
	err := http2.ReadSettings(payload, func(v http2.SettingValue) error {
		switch v.Setting {
		case http2.InitialWindowSize:
			change := int(v.Value) - c.initial
			c.initial = int(v.Value)
			for _, s := range c.streams {
				if s.out.window += change; s.out.window > http2.MaxWindow {
					return wrong(http2.FlowControlError, "a window beyond 2^31-1")
				}
			}
		case http2.MaxFrameSize:
			c.maxFrame = min(int(v.Value), http2.MaxFrame)
		case http2.MaxConcurrentStreams:
			if c.client {
				c.limit = int(min(v.Value, maxServerStreams))
			}
		case http2.EnablePush:
			if c.client && v.Value == 1 {
				return wrong(http2.ProtocolError, "a server that enables push")
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.wakeBlocked()
	c.pending = http2.AppendSettingsAck(c.pending)
	c.kick()
	return nil
}

func (c *Conn) ping(h http2.FrameHeader, payload []byte) error {
	switch {
	case h.Stream != 0:
		return wrong(http2.ProtocolError, "PING on a stream")
	case h.Length != 8:
		return wrong(http2.FrameSizeError, "PING whose length is not 8")
	case h.Has(http2.Ack):
		if string(payload) == string(goAwayPing[:]) {
			c.mu.Lock()
			retiring := c.retiring
			c.mu.Unlock()
			if retiring {
				c.lastGoAway()
			}
		}
		return c.useless()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.frames.take() {
		return errCalm
	}
	c.pending = http2.AppendPing(c.pending, http2.Ack, payload)
	c.kick()
	return nil
}

func (c *Conn) goAway(h http2.FrameHeader, payload []byte) error {
	switch {
	case h.Stream != 0:
		return wrong(http2.ProtocolError, "GOAWAY on a stream")
	case h.Length < 8:
		return wrong(http2.FrameSizeError, "GOAWAY of less than 8 bytes")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.frames.take() {
		return errCalm
	}
	if !c.client {
		return nil // what it has asked for it still gets
	}
	last := binary.BigEndian.Uint32(payload) & http2.MaxStreamID
	c.retiring = true
	for id, s := range c.streams {
		if id > last {
			delete(c.streams, id)
			c.giveUp(s, ErrUntouched)
		}
	}
	if c.running == 0 {
		c.finish()
	}
	return nil
}

func (c *Conn) windowUpdate(h http2.FrameHeader, payload []byte) error {
	if h.Length != 4 {
		return wrong(http2.FrameSizeError, "WINDOW_UPDATE whose length is not 4")
	}
	n := int(binary.BigEndian.Uint32(payload) & http2.MaxWindow)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.frames.take() {
		return errCalm
	}
	if h.Stream == 0 {
		if c.window += n; n == 0 || c.window > http2.MaxWindow {
			return windowError(n, func(code http2.Code, reason string) error { return &http2.ConnError{Code: code, Reason: reason} })
		}
		c.wakeBlocked()
		return nil
	}
	s := c.streams[h.Stream]
	if s == nil {
		if !c.opened(h.Stream) && !c.late(h.Stream) {
			return wrong(http2.ProtocolError, "WINDOW_UPDATE on an idle stream")
		}
		return nil
	}
	if s.out.window += n; n == 0 || s.out.window > http2.MaxWindow {
		return windowError(n, func(code http2.Code, reason string) error { return &http2.StreamError{Code: code, Reason: reason} })
	}
	s.writeWait.signal()
	return nil
}

// windowError says what is wrong with an increment (RFC 9113 sections 6.9 and 6.9.1).
func windowError(n int, as func(http2.Code, string) error) error {
	if n == 0 {
		return as(http2.ProtocolError, "WINDOW_UPDATE by nothing")
	}
	return as(http2.FlowControlError, "a window beyond 2^31-1")
}
