package http2

import "encoding/binary"

// FrameType is the type of a frame (RFC 9113 section 6).
type FrameType uint8

// The types.
const (
	Data FrameType = iota
	Headers
	Priority
	Reset
	Settings
	PushPromise
	Ping
	GoAway
	WindowUpdate
	Continuation
)

// Flags of frames.
const (
	EndStream    = 0x1  // DATA, HEADERS
	Ack          = 0x1  // SETTINGS, PING
	EndHeaders   = 0x4  // HEADERS, CONTINUATION
	Padded       = 0x8  // DATA, HEADERS
	WithPriority = 0x20 // HEADERS
)

// FrameHeaderLen is the size of a frame header in bytes (RFC 9113 section 4.1).
const FrameHeaderLen = 9

// FrameHeader is what a frame begins with.
type FrameHeader struct {
	// Length of the payload in bytes.
	Length int
	Type   FrameType
	Flags  uint8
	Stream uint32
}

// Has reports whether a flag is set.
func (h FrameHeader) Has(flag uint8) bool { return h.Flags&flag != 0 }

// ParseFrameHeader reads the first FrameHeaderLen bytes of b.
func ParseFrameHeader(b []byte) FrameHeader {
	_ = b[FrameHeaderLen-1]
	return FrameHeader{
		Length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		Type:   FrameType(b[3]),
		Flags:  b[4],
		Stream: binary.BigEndian.Uint32(b[5:]) & MaxStreamID,
	}
}

// AppendFrameHeader appends the start of a frame.
func AppendFrameHeader(dst []byte, h FrameHeader) []byte {
	dst = append(dst, byte(h.Length>>16), byte(h.Length>>8), byte(h.Length), byte(h.Type), h.Flags)
	return binary.BigEndian.AppendUint32(dst, h.Stream)
}

// Setting names one parameter of a connection (RFC 9113 section 6.5.2).
type Setting uint16

// The settings.
const (
	HeaderTableSize      Setting = 0x1
	EnablePush           Setting = 0x2
	MaxConcurrentStreams Setting = 0x3
	InitialWindowSize    Setting = 0x4
	MaxFrameSize         Setting = 0x5
	MaxHeaderListSize    Setting = 0x6
)

// SettingValue is one parameter with its value.
type SettingValue struct {
	Setting Setting
	Value   uint32
}

// AppendSettings appends a SETTINGS frame.
func AppendSettings(dst []byte, values ...SettingValue) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: 6 * len(values), Type: Settings})
	for _, v := range values {
		dst = binary.BigEndian.AppendUint16(dst, uint16(v.Setting))
		dst = binary.BigEndian.AppendUint32(dst, v.Value)
	}
	return dst
}

// ReadSettings calls take for each parameter in the payload of a SETTINGS frame. Values out of range are refused (RFC
// 9113 section 6.5.2); unknown ones are passed over.
func ReadSettings(payload []byte, take func(SettingValue) error) error {
	if len(payload)%6 != 0 {
		return &ConnError{FrameSizeError, "a SETTINGS frame whose length is not a multiple of 6"}
	}
	for ; len(payload) > 0; payload = payload[6:] {
		v := SettingValue{Setting(binary.BigEndian.Uint16(payload)), binary.BigEndian.Uint32(payload[2:])}
		switch {
		case v.Setting == EnablePush && v.Value > 1:
			return &ConnError{ProtocolError, "SETTINGS_ENABLE_PUSH is neither 0 nor 1"}
		case v.Setting == InitialWindowSize && v.Value > MaxWindow:
			return &ConnError{FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE is too large"}
		case v.Setting == MaxFrameSize && (v.Value < MaxFrame || v.Value > 1<<24-1):
			return &ConnError{ProtocolError, "SETTINGS_MAX_FRAME_SIZE is out of range"}
		}
		if err := take(v); err != nil {
			return err
		}
	}
	return nil
}

// AppendSettingsAck appends the acknowledgement of a SETTINGS frame.
func AppendSettingsAck(dst []byte) []byte {
	return AppendFrameHeader(dst, FrameHeader{Type: Settings, Flags: Ack})
}

// AppendPing appends a PING frame with 8 bytes of payload.
func AppendPing(dst []byte, flags uint8, payload []byte) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: 8, Type: Ping, Flags: flags})
	return append(dst, payload[:8]...)
}

// AppendReset appends an RST_STREAM frame.
func AppendReset(dst []byte, stream uint32, code Code) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: 4, Type: Reset, Stream: stream})
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

// AppendGoAway appends a GOAWAY frame; last is the last stream that is or may be served.
func AppendGoAway(dst []byte, last uint32, code Code, reason string) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: 8 + len(reason), Type: GoAway})
	dst = binary.BigEndian.AppendUint32(dst, last)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, reason...)
}

// AppendWindowUpdate appends a WINDOW_UPDATE frame for a stream, or for the connection when stream is 0.
func AppendWindowUpdate(dst []byte, stream uint32, n int) []byte {
	dst = AppendFrameHeader(dst, FrameHeader{Length: 4, Type: WindowUpdate, Stream: stream})
	return binary.BigEndian.AppendUint32(dst, uint32(n))
}

// AppendBlock appends a header block as one HEADERS frame and as many CONTINUATION frames as maxFrame makes necessary.
func AppendBlock(dst []byte, stream uint32, block []byte, maxFrame int, end bool) []byte {
	h := FrameHeader{Type: Headers, Stream: stream}
	if end {
		h.Flags = EndStream
	}
	for {
		h.Length = min(len(block), maxFrame)
		if h.Length == len(block) {
			h.Flags |= EndHeaders
		}
		dst = append(AppendFrameHeader(dst, h), block[:h.Length]...)
		block = block[h.Length:]
		if h.Has(EndHeaders) {
			return dst
		}
		h.Type, h.Flags = Continuation, 0
	}
}

// Unpad takes padding, and the priority that the RFC has given up (section 5.3.2), off the payload of a DATA or HEADERS
// frame.
func Unpad(h FrameHeader, payload []byte) ([]byte, error) {
	pad := 0
	if h.Has(Padded) {
		if len(payload) < 1 {
			return nil, &ConnError{FrameSizeError, "a padded frame without the length of its padding"}
		}
		pad, payload = int(payload[0]), payload[1:]
	}
	if h.Type == Headers && h.Has(WithPriority) {
		if len(payload) < 5 {
			return nil, &ConnError{FrameSizeError, "a HEADERS frame without the priority that it announces"}
		}
		payload = payload[5:]
	}
	if pad > len(payload) {
		return nil, &ConnError{ProtocolError, "more padding than frame"}
	}
	return payload[:len(payload)-pad], nil
}
