// Package ipvsmsg answers: what do the kernel's generic netlink messages about IPVS say? Bytes to values and back, without a
// socket. It knows what the IPVS library does not: 64-bit statistics, the family of a real server, tunnels, persistent
// connections, the synchronisation daemon, and whether a listing was interrupted by a change.
//
// Sources: include/uapi/linux/netlink.h, genetlink.h and ip_vs.h, and ip_vs_ctl.c of net/netfilter/ipvs.
package ipvsmsg

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Of struct nlmsghdr and struct genlmsghdr, include/uapi/linux/netlink.h and genetlink.h.
const (
	headerLen  = 16
	genericLen = 4

	typeError   = 2    // NLMSG_ERROR
	typeDone    = 3    // NLMSG_DONE
	typeOverrun = 4    // NLMSG_OVERRUN
	firstFamily = 0x10 // NLMSG_MIN_TYPE: below are control messages

	flagRequest     = 0x1   // NLM_F_REQUEST
	flagMulti       = 0x2   // NLM_F_MULTI
	flagAck         = 0x4   // NLM_F_ACK
	flagInterrupted = 0x10  // NLM_F_DUMP_INTR
	flagDump        = 0x300 // NLM_F_DUMP
)

var (
	// ErrInterrupted means that something changed while the kernel listed it: entries may be missing or there twice. Ask again.
	ErrInterrupted = errors.New("the listing was interrupted by a change")
	// ErrMalformed means that bytes are not what the kernel's headers say.
	ErrMalformed = errors.New("malformed message")
)

// Refused is the kernel's no, an error number of errno(3).
type Refused uint32

func (r Refused) Error() string { return fmt.Sprintf("refused with error number %d", uint32(r)) }

// Request is a question to, or an order for, one generic netlink family.
type Request struct {
	// Family is its number: Controller, or what ParseFamily told.
	Family uint16
	// Command of the family, and Version of its messages.
	Command, Version uint8
	// List asks for all there are, instead of one.
	List bool
	// Silent asks for no acknowledgement. A refusal comes all the same.
	Silent bool
	// Attributes, encoded.
	Attributes []byte
}

// Encode makes the message, a datagram or a part of one. Its answer bears the same sequence number.
func (r Request) Encode(sequence uint32) []byte {
	flags := uint16(flagRequest)
	if !r.Silent {
		flags |= flagAck
	}
	if r.List {
		flags |= flagDump
	}
	b := make([]byte, 0, headerLen+genericLen+len(r.Attributes))
	b = binary.NativeEndian.AppendUint32(b, uint32(cap(b)))
	b = binary.NativeEndian.AppendUint16(b, r.Family)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, sequence)
	b = append(b, 0, 0, 0, 0) // from: the socket fills it in
	b = append(b, r.Command, r.Version, 0, 0)
	return append(b, r.Attributes...) // which are aligned, and the next message with them
}

// Answer collects what the kernel says to one request. The zero value with a sequence number is ready.
type Answer struct {
	// Sequence is that of the request; messages with another are late answers to somebody who has given up.
	Sequence uint32
	// Messages are the attributes of each message, in the order of arrival.
	Messages [][]byte

	interrupted bool
}

// Take reads one datagram and tells whether the answer is complete. The error is Refused, ErrInterrupted or
// ErrMalformed; with one, nothing more is to be taken. The messages go on using the datagram's memory.
func (a *Answer) Take(datagram []byte) (complete bool, err error) {
	for len(datagram) > 0 {
		var m received
		if m, datagram, err = next(datagram); err != nil {
			return false, err
		}
		if m.sequence != a.Sequence {
			continue
		}
		body, kind, flags := m.body, m.kind, m.flags
		a.interrupted = a.interrupted || flags&flagInterrupted != 0
		switch {
		case kind == typeDone || kind == typeError:
			if err := m.verdict(); err != nil {
				return false, err
			}
			if a.interrupted {
				return false, ErrInterrupted
			}
			return true, nil
		case kind == typeOverrun:
			return false, ErrInterrupted
		case kind < firstFamily:
		case len(body) < genericLen:
			return false, fmt.Errorf("%w: a message of %d bytes", ErrMalformed, len(body))
		default:
			a.Messages = append(a.Messages, body[genericLen:])
		}
	}
	return false, nil
}

// aligned rounds up to 4 (NLMSG_ALIGN, NLA_ALIGN).
func aligned(n int) int { return (n + 3) &^ 3 }

// received is one message of the kernel.
type received struct {
	kind, flags uint16
	sequence    uint32
	body        []byte
}

// next takes the first message off a datagram.
func next(datagram []byte) (m received, rest []byte, err error) {
	if len(datagram) < headerLen {
		return m, nil, fmt.Errorf("%w: %d bytes are left for a header", ErrMalformed, len(datagram))
	}
	length := binary.NativeEndian.Uint32(datagram)
	if length < headerLen || uint64(length) > uint64(len(datagram)) {
		return m, nil, fmt.Errorf("%w: a message of %d bytes in %d", ErrMalformed, length, len(datagram))
	}
	m = received{
		kind: binary.NativeEndian.Uint16(datagram[4:]), flags: binary.NativeEndian.Uint16(datagram[6:]),
		sequence: binary.NativeEndian.Uint32(datagram[8:]), body: datagram[headerLen:length],
	}
	return m, datagram[min(aligned(int(length)), len(datagram)):], nil
}

// verdict is what the end of an answer says: its body begins with 0 or a negative error number; that of a listing's end may be missing.
func (m received) verdict() error {
	if len(m.body) < 4 && (m.kind == typeError || len(m.body) > 0) {
		return fmt.Errorf("%w: an end of %d bytes", ErrMalformed, len(m.body))
	}
	if len(m.body) >= 4 {
		if code := int32(binary.NativeEndian.Uint32(m.body)); code != 0 {
			return Refused(-code)
		}
	}
	return nil
}

// Verdicts collects what the kernel says to requests that were sent in one datagram, all of them Silent but the last: it carries them
// out in their order, whatever becomes of those before, and speaks of those that it refuses and of the last one.
type Verdicts struct {
	// First is the sequence number of the first request; the others count on from there.
	First uint32
	// Refused are the refusals, by the place of the request. Its length is the number of requests.
	Refused []error
}

// Take reads one datagram and tells whether the last request has been answered.
func (v *Verdicts) Take(datagram []byte) (complete bool, err error) {
	for len(datagram) > 0 {
		var m received
		if m, datagram, err = next(datagram); err != nil {
			return false, err
		}
		at := m.sequence - v.First
		if m.kind != typeError || uint64(at) >= uint64(len(v.Refused)) {
			continue
		}
		err := m.verdict()
		if errors.Is(err, ErrMalformed) {
			return false, err
		}
		v.Refused[at] = err
		complete = complete || int(at) == len(v.Refused)-1
	}
	return complete, nil
}
