// Package http1 turns bytes into HTTP/1 heads and bodies into their parts: pure, strict, incremental, without allocating.
//
// The same code reads requests and responses. It refuses whatever two programs could read differently, because a proxy
// that reads a message otherwise than the server behind it can be made to smuggle requests (RFC 9112 section 11.2).
package http1

// Limits of what is read. A head beyond one of them is refused.
const (
	// MaxHeadBytes is the most bytes of a head, start line and empty line included.
	MaxHeadBytes = 64 << 10
	// MaxFields is the most header fields in a head.
	MaxFields = 100
	// MaxChunkLine is the most bytes of a chunk-size line, extensions and CRLF included.
	MaxChunkLine = 256
	// MaxTrailerBytes is the most bytes of all trailer lines of one message.
	MaxTrailerBytes = 8 << 10
	// MaxMethodBytes is the most bytes of a method; the longest one registered has 17.
	MaxMethodBytes = 64
)

// Error tells why a message was refused.
type Error struct {
	// Status to answer when the message is a request; a bad response is a 502 whatever it says.
	Status int
	// Reason for a person.
	Reason string
}

func (e *Error) Error() string { return e.Reason }

// What is refused, and why. The sections are those of RFC 9112 unless another is named.
var (
	ErrLineEnd          = &Error{400, "a line ends without CR LF"}                           // 2.2
	ErrRequestLine      = &Error{400, "malformed request line"}                              // 3
	ErrTarget           = &Error{400, "malformed request target"}                            // 3.2
	ErrMethod           = &Error{501, "method not implemented"}                              // 3; CONNECT: this is no forward proxy
	ErrTrace            = &Error{400, "TRACE with a body"}                                   // RFC 9110 9.3.8
	ErrVersion          = &Error{505, "HTTP version not supported"}                          // RFC 9110 15.6.6
	ErrStatusLine       = &Error{502, "malformed status line"}                               // 4
	ErrFieldName        = &Error{400, "illegal character in a field name"}                   // 5.1; space before the colon too
	ErrFieldAlias       = &Error{400, "a field name with _ that servers read as one with -"} // RFC 3875 4.1.18
	ErrFieldValue       = &Error{400, "illegal character in a field value"}                  // RFC 9110 5.5
	ErrFolding          = &Error{400, "a field is folded over lines"}                        // 5.2
	ErrHeadTooLarge     = &Error{431, "head larger than 64 KiB"}                             // RFC 6585 5
	ErrTooManyFields    = &Error{431, "more than 100 fields"}                                // RFC 6585 5
	ErrTargetTooLong    = &Error{414, "request target larger than the head may be"}          // RFC 9110 15.5.15
	ErrHost             = &Error{400, "want exactly one valid Host field"}                   // 3.2
	ErrHostTarget       = &Error{400, "Host differs from the authority of the target"}       // 3.2.2
	ErrExpect           = &Error{417, "expectation other than 100-continue"}                 // RFC 9110 10.1.1
	ErrContentLength    = &Error{400, "want at most one Content-Length, a decimal number"}   // 6.3
	ErrTransferEncoding = &Error{400, "malformed or misplaced Transfer-Encoding"}            // 6.1
	ErrUnknownCoding    = &Error{501, "transfer coding before chunked"}                      // 6.1
	ErrTwoFramings      = &Error{400, "both Content-Length and Transfer-Encoding"}           // 6.1
	ErrChunk            = &Error{400, "malformed chunk"}                                     // 7.1
	ErrBodyTooLarge     = &Error{413, "body larger than it may be"}                          // RFC 9110 15.5.14
	ErrTrailer          = &Error{400, "malformed or forbidden trailer field"}                // 7.1.2
)
