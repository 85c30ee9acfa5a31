package transfer

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Deadlines of a connection.
const (
	greetTimeout = 5 * time.Second  // TLS handshake and Hello
	ioTimeout    = 30 * time.Second // a peer that sends or takes nothing for so long is gone
	beatInterval = 5 * time.Second  // each side lets hear from itself at least so often
)

// headerLen is the length of what precedes a payload: the kind, and the payload's length (big-endian).
const headerLen = 1 + 4

// readMessage reads one message. Nothing is allocated for a length before it was checked.
func readMessage(r io.Reader) (message, error) {
	var header [headerLen]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(header[1:])
	if n > maxPayload {
		return nil, fmt.Errorf("%w: kind %d, %d bytes", errMalformed, header[0], n)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, fmt.Errorf("read a message of kind %d: %w", header[0], noEOF(err))
	}
	return decode(kind(header[0]), payload)
}

// noEOF makes an end inside a message an error.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendMessage writes one message behind b.
func appendMessage(b []byte, m message) []byte {
	start := len(b)
	b = m.append(append(b, byte(m.kind()), 0, 0, 0, 0))
	binary.BigEndian.PutUint32(b[start+1:], uint32(len(b)-start-headerLen))
	return b
}

// conn is a connection that carries messages. One goroutine may read; any may write.
type conn struct {
	net net.Conn
	in  *bufio.Reader

	mu  sync.Mutex // guards out and buf; writing a message is one step
	out *bufio.Writer
	buf []byte
}

func newConn(c net.Conn) *conn {
	return &conn{net: c, in: bufio.NewReaderSize(c, chunk), out: bufio.NewWriterSize(c, chunk)}
}

// read waits for the next message, at most for the timeout.
func (c *conn) read(timeout time.Duration) (message, error) {
	if err := c.net.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	return readMessage(c.in)
}

// buffered reports whether more has arrived already.
func (c *conn) buffered() bool { return c.in.Buffered() > 0 }

// write puts a message behind those that wait.
func (c *conn) write(m message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = appendMessage(c.buf[:0], m)
	if err := c.net.SetWriteDeadline(time.Now().Add(ioTimeout)); err != nil {
		return err
	}
	_, err := c.out.Write(c.buf)
	return err
}

// flush sends what waits.
func (c *conn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.net.SetWriteDeadline(time.Now().Add(ioTimeout)); err != nil {
		return err
	}
	return c.out.Flush()
}

// send writes a message and sends it.
func (c *conn) send(m message) error {
	if err := c.write(m); err != nil {
		return err
	}
	return c.flush()
}
