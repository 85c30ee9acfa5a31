// Package http2 turns HTTP/2 frames and header blocks into the text of HTTP/1.1 messages and back: pure, strict, incremental.
//
// What is behind the frames is then served by the same code as HTTP/1.1: one reading of a message, one behaviour. A header
// block that could not be written down in HTTP/1.1 without being read as something else is malformed (RFC 9113 section 8).
package http2

// Limits of what is read.
const (
	// MaxFrame is the largest payload of a frame that is taken, in bytes: the least that a peer must be allowed
	// (SETTINGS_MAX_FRAME_SIZE, RFC 9113 section 6.5.2).
	MaxFrame = 16 << 10
	// MaxBlock is the most bytes of one header block as sent, over all its frames. Beyond it the connection is closed.
	MaxBlock = 64 << 10
	// MaxContinuations is the most CONTINUATION frames of one header block. Beyond it the connection is closed: MaxBlock
	// needs a few, a flood of small ones is an attack (CVE-2024-27316 and its kin).
	MaxContinuations = 16
	// MaxHeaderList is the most bytes of a decoded header block, counted as RFC 9113 section 6.5.2 does (name, value and 32
	// for each field). A request beyond it is answered with 431. It is advertised as SETTINGS_MAX_HEADER_LIST_SIZE.
	MaxHeaderList = 64 << 10
	// MaxTable is the size of the table of remembered fields that the other side may use, in bytes (SETTINGS_HEADER_TABLE_SIZE, RFC
	// 7541 section 4.2); its default. What is sent remembers nothing.
	MaxTable = 4096
	// InitialWindow is the flow-control window that a new stream and a new connection begin with (RFC 9113 section 6.9.2).
	InitialWindow = 65535
	// MaxWindow is the largest window (RFC 9113 section 6.9.1).
	MaxWindow = 1<<31 - 1
	// MaxStreamID is the last stream of a connection (RFC 9113 section 5.1.1).
	MaxStreamID = 1<<31 - 1
)

// Preface is what a client sends first (RFC 9113 section 3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Code says why a stream or a connection ends (RFC 9113 section 7).
type Code uint32

// The codes.
const (
	NoError            Code = 0x0
	ProtocolError      Code = 0x1
	InternalError      Code = 0x2
	FlowControlError   Code = 0x3
	StreamClosed       Code = 0x5
	FrameSizeError     Code = 0x6
	RefusedStream      Code = 0x7
	Cancel             Code = 0x8
	CompressionError   Code = 0x9
	EnhanceYourCalm    Code = 0xb
	InadequateSecurity Code = 0xc
)

var codes = map[Code]string{
	NoError: "NO_ERROR", ProtocolError: "PROTOCOL_ERROR", InternalError: "INTERNAL_ERROR",
	FlowControlError: "FLOW_CONTROL_ERROR", 0x4: "SETTINGS_TIMEOUT", StreamClosed: "STREAM_CLOSED",
	FrameSizeError: "FRAME_SIZE_ERROR", RefusedStream: "REFUSED_STREAM", Cancel: "CANCEL",
	CompressionError: "COMPRESSION_ERROR", 0xa: "CONNECT_ERROR", EnhanceYourCalm: "ENHANCE_YOUR_CALM",
	InadequateSecurity: "INADEQUATE_SECURITY", 0xd: "HTTP_1_1_REQUIRED",
}

// String is the name that the RFC gives a code.
func (c Code) String() string {
	if name, ok := codes[c]; ok {
		return name
	}
	return "unknown code"
}

// ConnError ends the whole connection (RFC 9113 section 5.4.1).
type ConnError struct {
	Code Code
	// Reason for a person.
	Reason string
}

func (e *ConnError) Error() string { return e.Code.String() + ": " + e.Reason }

// StreamError ends one stream (RFC 9113 section 5.4.2).
type StreamError struct {
	Code Code
	// Reason for a person.
	Reason string
}

func (e *StreamError) Error() string { return e.Code.String() + ": " + e.Reason }
