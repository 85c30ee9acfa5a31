package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"

	nft "github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/internal/kernelsocket"
)

const (
	// exchangeTimeout bounds the wait for one datagram of an answer.
	exchangeTimeout = 5 * time.Second
	// sendBuffer holds the largest transaction, which is sent in one piece.
	sendBuffer = 8 << 20
)

// door is the one way to the kernel's nf_tables: a socket in the namespace of the thread that opens it. The library's own way
// starts a goroutine for each datagram and has each message of a transaction acknowledged and repeated: making 20,000 real servers
// took 6 s, most of it to receive 200,000 datagrams.
type door struct{ *kernelsocket.Socket }

func openDoor() (*door, error) {
	s, err := kernelsocket.Open(unix.NETLINK_NETFILTER, exchangeTimeout)
	if err != nil {
		return nil, err
	}
	s.MakeRoom(sendBuffer)
	return &door{s}, nil
}

// through makes a connection of the library whose messages go through a door: each exchange through one of its own, or, when d is not
// nil, all through that. A transaction ends with the messages in last, which are used up. The place where the library lets its messages be taken is called TestDial.
func through(d *door, last *[]netlink.Message) *nft.Conn {
	options := []nft.ConnOption{nft.WithTestDial(func(messages []netlink.Message) (answers []netlink.Message, err error) {
		if len(messages) == 0 { // it asks for what was not given with the answer to the request: there is none
			return nil, io.EOF
		}
		way := d
		if way == nil {
			if way, err = openDoor(); err != nil {
				return nil, err
			}
			defer func() { err = errors.Join(err, way.Close()) }()
		}
		if len(messages) > 1 {
			end := len(messages) - 1
			if last != nil {
				messages = slices.Insert(messages, end, *last...)
				*last = nil
			}
			for i := range messages[end:] {
				messages[end+i].Header.Sequence = messages[end-1].Header.Sequence + 1 + uint32(i)
			}
			if err := way.transact(messages); err != nil {
				return nil, err
			}
			return nil, io.EOF
		}
		return way.ask(messages[0])
	})}
	if d != nil {
		options = append(options, nft.AsLasting()) // or the library makes a generator of numbers for each question
	}
	conn, err := nft.New(options...)
	if err != nil { // only a socket of its own can fail
		panic("nftables: " + err.Error())
	}
	return conn
}

func (d *door) send(messages []netlink.Message) error {
	size := 0
	for _, m := range messages {
		size += headerOfMessage + (len(m.Data)+3)&^3
	}
	b := make([]byte, 0, size)
	for _, m := range messages {
		b = binary.NativeEndian.AppendUint32(b, uint32(headerOfMessage+len(m.Data)))
		b = binary.NativeEndian.AppendUint16(b, uint16(m.Header.Type))
		b = binary.NativeEndian.AppendUint16(b, uint16(m.Header.Flags))
		b = binary.NativeEndian.AppendUint32(b, m.Header.Sequence)
		b = append(b, 0, 0, 0, 0) // from: the socket fills it in
		b = append(b, m.Data...)
		for len(b)%4 > 0 {
			b = append(b, 0)
		}
	}
	return d.Send(b)
}

// headerOfMessage is the size of struct nlmsghdr of include/uapi/linux/netlink.h.
const headerOfMessage = 16

// receive takes one datagram apart.
func (d *door) receive(take func(netlink.Message)) error {
	b, err := d.Receive()
	if err != nil {
		return err
	}
	for len(b) > 0 {
		if len(b) < headerOfMessage {
			return fmt.Errorf("%d bytes are left for a header", len(b))
		}
		length := binary.NativeEndian.Uint32(b)
		if length < headerOfMessage || uint64(length) > uint64(len(b)) {
			return fmt.Errorf("a message of %d bytes in %d", length, len(b))
		}
		take(netlink.Message{
			Header: netlink.Header{
				Length: length, Type: netlink.HeaderType(binary.NativeEndian.Uint16(b[4:])), Flags: netlink.HeaderFlags(binary.NativeEndian.Uint16(b[6:])),
				Sequence: binary.NativeEndian.Uint32(b[8:]), PID: binary.NativeEndian.Uint32(b[12:]),
			},
			Data: b[headerOfMessage:length:length],
		})
		b = b[min(int(length+3)&^3, len(b)):]
	}
	return nil
}

// verdict is the number that ends an answer: 0, or what was wrong.
func verdict(m netlink.Message) error {
	if len(m.Data) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
		return syscall.Errno(-code)
	}
	return nil
}

// ask sends one request and returns the answers, without the end of a listing or the acknowledgement behind them.
func (d *door) ask(request netlink.Message) (answers []netlink.Message, err error) {
	request.Header.Flags |= netlink.Acknowledge // of a listing the kernel makes none: its end is one
	if err := d.send([]netlink.Message{request}); err != nil {
		return nil, err
	}
	for ended := false; !ended; {
		err := d.receive(func(m netlink.Message) {
			switch {
			case m.Header.Sequence != request.Header.Sequence || ended: // a late answer to an earlier request
			case m.Header.Type == netlink.Error || m.Header.Type == netlink.Done:
				ended, err = true, verdict(m)
			default:
				m.Header.Flags &^= netlink.Multi  // or the library waits for the end, which is no answer here
				m.Header.PID = request.Header.PID // it compares them; a socket has its own, whatever it said
				answers = append(answers, m)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return answers, err
}

// transact sends a transaction. The kernel does all of it or, when anything is wrong with one message, nothing. Of what it has to say
// to each, the acknowledgement of the last one is enough, which comes last of all.
func (d *door) transact(messages []netlink.Message) error {
	last := messages[len(messages)-2].Header.Sequence // the end of the batch is not acknowledged by Linux 6.1
	for i := range messages {
		messages[i].Header.Flags &^= netlink.Acknowledge | netlink.Echo
		if messages[i].Header.Sequence == last {
			messages[i].Header.Flags |= netlink.Acknowledge
		}
	}
	if err := d.send(messages); err != nil {
		return err
	}
	for done := false; !done; {
		var refused error
		err := d.receive(func(m netlink.Message) {
			if m.Header.Type != netlink.Error {
				return
			}
			if refused == nil {
				refused = verdict(m)
			}
			done = done || m.Header.Sequence == last
		})
		if err := errors.Join(err, refused); err != nil {
			return err
		}
	}
	return nil
}
