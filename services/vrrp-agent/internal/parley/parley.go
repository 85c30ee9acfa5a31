// Package parley answers: what do agents say to each other beside VRRP, and in which bytes?
//
// VRRP only tells that a master lives, to whom its multicast reaches. Agents also ask each other, by unicast and over every
// network that they share, so that a master that is not heard is not taken for dead, and hand over addresses in an
// agreed order. A message is one UDP datagram with a code of 16 bytes behind it (HMAC-SHA256 cut to 128 bits), whose
// key follows from the instance's name and password: without a password it keeps mistakes apart, not attackers, as VRRP
// itself does. Answers bear the number of their question, so that an old one proves nothing. The package is pure: bytes
// in, values out.
package parley

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
)

const (
	// Port is the UDP port that every agent listens on; the control API has the TCP port of the same number.
	Port = 7403
	// TTL is the only time to live that a receiver accepts: agents ask each other over networks that they share, and no
	// router passes a question on (RFC 5082).
	TTL = 255
	// MaxAddresses is the most addresses of a sender.
	MaxAddresses = 16
	// MaxLength is the length of the longest message.
	MaxLength = fixedLength + 2*maxName + MaxAddresses*(1+16) + codeLength

	maxName     = 63
	codeLength  = 16
	fixedLength = 32
)

// magic begins every message; its last byte is the version of this language.
var magic = [4]byte{'2', 'T', 'V', 1}

// Kind of a message.
type Kind uint8

const (
	// Question asks how the other one stands, and tells how the asker does.
	Question Kind = iota + 1
	// Answer tells it. Echo is the number of the question.
	Answer
	// Request asks the master to hand over: the sender has the higher priority.
	Request
	// Offer asks a backup to take over now. Echo is the number of the last question that the master has heard from it,
	// so that only the one who has just asked is meant.
	Offer
	// Taken tells the master that its addresses are on the sender's card and that the network has been told. Echo is the
	// number of the offer.
	Taken
	// Refused tells the master that the sender will not. Echo is the number of the offer or of the request.
	Refused
)

// Message is one of them.
type Message struct {
	// Kind of the message.
	Kind Kind
	// Instance that it is about.
	Instance string
	// Node that sends it.
	Node string
	// VirtualRouterID of the instance.
	VirtualRouterID uint8
	// Owner: the sender is the master and holds the addresses.
	Owner bool
	// Ready: the sender stands for election and would take an offer.
	Ready bool
	// Deaf: the sender misses the adverts of a master. Whoever is one speaks to it by unicast for a while.
	Deaf bool
	// Priority of the sender at present.
	Priority uint8
	// Number of this message, chosen by chance.
	Number uint64
	// Echo is the number of another message; see Kind.
	Echo uint64
	// Addresses of the sender on all its networks.
	Addresses []netip.Addr
}

// Key proves that a message is of our instance.
type Key [sha256.Size]byte

// NewKey derives the key of an instance. The secret may be empty.
func NewKey(instance string, secret []byte) Key {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("twotier vrrp-agent parley 1 " + instance)) // a hash never fails
	return Key(mac.Sum(nil))
}

// Bits of the byte of flags.
const (
	flagOwner = 1 << iota
	flagReady
	flagDeaf
)

// Append appends the message to b. Names longer than 63 bytes and addresses above MaxAddresses are cut off.
func (m Message) Append(b []byte, k Key) []byte {
	start := len(b)
	instance, node := m.Instance[:min(len(m.Instance), maxName)], m.Node[:min(len(m.Node), maxName)]
	addresses := m.Addresses[:min(len(m.Addresses), MaxAddresses)]
	var flags byte
	for flag, set := range map[byte]bool{flagOwner: m.Owner, flagReady: m.Ready, flagDeaf: m.Deaf} {
		if set {
			flags |= flag
		}
	}
	b = append(b, magic[:]...)
	b = append(b, byte(m.Kind), m.VirtualRouterID, flags, m.Priority)
	b = binary.BigEndian.AppendUint64(b, m.Number)
	b = binary.BigEndian.AppendUint64(b, m.Echo)
	b = append(b, byte(len(instance)), byte(len(node)), byte(len(addresses)), 0, 0, 0, 0, 0)
	b = append(append(b, instance...), node...)
	for _, a := range addresses {
		raw := a.AsSlice()
		b = append(append(b, byte(len(raw))), raw...)
	}
	code := k.code(b[start:])
	return append(b, code[:]...)
}

func (k Key) code(b []byte) [codeLength]byte {
	mac := hmac.New(sha256.New, k[:])
	mac.Write(b)
	return [codeLength]byte(mac.Sum(nil))
}

var (
	// ErrMalformed is the error of bytes that are no message.
	ErrMalformed = errors.New("malformed message")
	// ErrCode is the error of a message whose code is wrong.
	ErrCode = errors.New("wrong code")
)

// About tells which instance a message is about, without having checked its code.
func About(b []byte) (instance string, err error) {
	m, _, err := decode(b)
	return m.Instance, err
}

// Parse checks a message and reads it.
func Parse(b []byte, k Key) (Message, error) {
	m, end, err := decode(b)
	if err != nil {
		return Message{}, err
	}
	if code := k.code(b[:end]); !hmac.Equal(code[:], b[end:]) {
		return Message{}, ErrCode
	}
	return m, nil
}

// decode reads a message and tells where its code begins.
func decode(b []byte) (m Message, end int, err error) {
	if len(b) < fixedLength+codeLength || len(b) > MaxLength || [4]byte(b) != magic {
		return Message{}, 0, ErrMalformed
	}
	m = Message{
		Kind: Kind(b[4]), VirtualRouterID: b[5], Priority: b[7],
		Owner: b[6]&flagOwner != 0, Ready: b[6]&flagReady != 0, Deaf: b[6]&flagDeaf != 0,
		Number: binary.BigEndian.Uint64(b[8:]), Echo: binary.BigEndian.Uint64(b[16:]),
	}
	instance, node, count := int(b[24]), int(b[25]), int(b[26])
	if m.Kind < Question || m.Kind > Refused || instance > maxName || node > maxName || count > MaxAddresses {
		return Message{}, 0, ErrMalformed
	}
	rest := b[fixedLength : len(b)-codeLength]
	if len(rest) < instance+node {
		return Message{}, 0, ErrMalformed
	}
	m.Instance, m.Node = string(rest[:instance]), string(rest[instance:instance+node])
	rest = rest[instance+node:]
	for range count {
		if len(rest) == 0 || len(rest) <= int(rest[0]) {
			return Message{}, 0, ErrMalformed
		}
		a, ok := netip.AddrFromSlice(rest[1 : 1+rest[0]])
		if !ok {
			return Message{}, 0, ErrMalformed
		}
		m.Addresses = append(m.Addresses, a)
		rest = rest[1+rest[0]:]
	}
	if len(rest) != 0 {
		return Message{}, 0, ErrMalformed
	}
	return m, len(b) - codeLength, nil
}
