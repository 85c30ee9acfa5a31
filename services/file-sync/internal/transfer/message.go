package transfer

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/twotier/twotier/services/file-sync/internal/tree"
)

// Version of the protocol. Both sides must speak the same.
const Version = 1

// Limits of one message, in bytes and in members. Whoever exceeds one is not one of ours, and is disconnected.
const (
	maxPayload = 256 << 10 // of any message
	chunk      = 128 << 10 // of content in one message
	maxText    = 1 << 10   // names and error texts
	batchBytes = 64 << 10  // a batch of entries or paths is sent when it is this long
)

// kind is the first byte of a message on the wire.
type kind uint8

// The messages. S: sent by the source, T: by the target. The numbers are on the wire; they are never used again for
// something else.
const (
	kindHello    kind = 1  // S: who I am and which pair I mean
	kindWelcome  kind = 2  // T: go on
	kindRefuse   kind = 3  // T: go away, and why
	kindEntries  kind = 4  // S: part of the list of the source folder, in order
	kindListed   kind = 5  // S: the list is complete
	kindNeed     kind = 6  // T: files of the list whose content I want
	kindCompared kind = 7  // T: all that I need is named; the deletes are done
	kindHeld     kind = 8  // T: the comparison would delete too much; wait
	kindReleased kind = 9  // T: a person has agreed; send the list again
	kindPut      kind = 10 // S: the state of one path, without content
	kindFile     kind = 11 // S: a file begins; content follows
	kindContent  kind = 12 // S: bytes of the file
	kindFileEnd  kind = 13 // S: the file ends, as good or as not good
	kindAck      kind = 14 // T: what became of a Put or a File
	kindFinish   kind = 15 // S: what was needed is sent; the directories may get their times
	kindPing     kind = 16 // S: I live, and so much waits
	kindPong     kind = 17 // T: I live
)

// message is anything that goes over the wire.
type message interface {
	kind() kind
	append(b []byte) []byte
}

// magic begins the first message, so that a stray client is told apart at once.
const magic = "twotier-sync"

type (
	hello struct {
		version uint64
		pair    string
		node    string
	}
	welcome struct{}
	refuse  struct{ why string }
	entries struct{ members []tree.Entry }
	// listed ends the list. watched: the source has watched its folder without a gap since the last Finish was
	// acknowledged.
	listed   struct{ watched bool }
	need     struct{ paths []string }
	compared struct{ deletes uint64 }
	held     struct{ deletes, total uint64 }
	released struct{}
	// put states what a path is. final: a directory gets mode, owner and time too.
	put struct {
		seq   uint64
		entry tree.Entry
		final bool
	}
	fileBegin struct {
		seq   uint64
		entry tree.Entry
	}
	content struct{ bytes []byte }
	// fileEnd ends the content. Not good: the file changed while it was read; the target keeps what it has.
	fileEnd struct {
		good bool
		sum  [32]byte
	}
	ack struct {
		seq    uint64
		result result
		text   string
	}
	finish struct{ seq uint64 }
	// ping carries how many changes wait at the source.
	ping struct{ waiting uint64 }
	pong struct{}
)

// result is what became of a path at the target.
type result uint8

const (
	resultDone  result = 0
	resultStale result = 1 // the content differs; send the file
	resultError result = 2 // see the text
)

func (hello) kind() kind     { return kindHello }
func (welcome) kind() kind   { return kindWelcome }
func (refuse) kind() kind    { return kindRefuse }
func (entries) kind() kind   { return kindEntries }
func (listed) kind() kind    { return kindListed }
func (need) kind() kind      { return kindNeed }
func (compared) kind() kind  { return kindCompared }
func (held) kind() kind      { return kindHeld }
func (released) kind() kind  { return kindReleased }
func (put) kind() kind       { return kindPut }
func (fileBegin) kind() kind { return kindFile }
func (content) kind() kind   { return kindContent }
func (fileEnd) kind() kind   { return kindFileEnd }
func (ack) kind() kind       { return kindAck }
func (finish) kind() kind    { return kindFinish }
func (ping) kind() kind      { return kindPing }
func (pong) kind() kind      { return kindPong }

func (m hello) append(b []byte) []byte {
	b = append(b, magic...)
	b = binary.AppendUvarint(b, m.version)
	b = appendString(b, m.pair)
	return appendString(b, m.node)
}
func (welcome) append(b []byte) []byte  { return b }
func (m refuse) append(b []byte) []byte { return appendString(b, m.why) }
func (m entries) append(b []byte) []byte {
	for _, e := range m.members {
		b = appendEntry(b, e)
	}
	return b
}
func (m listed) append(b []byte) []byte { return appendBool(b, m.watched) }
func (m need) append(b []byte) []byte {
	for _, p := range m.paths {
		b = appendString(b, p)
	}
	return b
}
func (m compared) append(b []byte) []byte { return binary.AppendUvarint(b, m.deletes) }
func (m held) append(b []byte) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, m.deletes), m.total)
}
func (released) append(b []byte) []byte { return b }
func (m put) append(b []byte) []byte {
	return appendEntry(appendBool(binary.AppendUvarint(b, m.seq), m.final), m.entry)
}
func (m fileBegin) append(b []byte) []byte {
	return appendEntry(binary.AppendUvarint(b, m.seq), m.entry)
}
func (m content) append(b []byte) []byte { return append(b, m.bytes...) }
func (m fileEnd) append(b []byte) []byte { return append(appendBool(b, m.good), m.sum[:]...) }
func (m ack) append(b []byte) []byte {
	return appendString(append(binary.AppendUvarint(b, m.seq), byte(m.result)), m.text)
}
func (m finish) append(b []byte) []byte { return binary.AppendUvarint(b, m.seq) }
func (m ping) append(b []byte) []byte   { return binary.AppendUvarint(b, m.waiting) }
func (pong) append(b []byte) []byte     { return b }

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// appendEntry writes path, type, mode, owner, group, time, size and what a symlink points to. The hash does not travel
// here: it is known only when the content has been read, and goes with fileEnd.
func appendEntry(b []byte, e tree.Entry) []byte {
	b = append(appendString(b, e.Path), byte(e.Type))
	b = binary.AppendUvarint(b, uint64(e.Mode))
	b = binary.AppendUvarint(b, uint64(e.UID))
	b = binary.AppendUvarint(b, uint64(e.GID))
	b = binary.AppendVarint(b, e.Mtime)
	b = binary.AppendUvarint(b, uint64(e.Size))
	return appendString(b, e.Target)
}

// errMalformed says that a message is not what its kind promises.
var errMalformed = errors.New("malformed message")

// decode reads the payload of a message. It trusts nothing: every length is checked against what is there, every
// entry and path against what may be in a folder, and nothing may be left over.
func decode(k kind, payload []byte) (message, error) {
	d := decoder{rest: payload}
	var m message
	switch k {
	case kindHello:
		d.literal(magic)
		m = hello{version: d.uint(1 << 16), pair: d.text(), node: d.text()}
	case kindWelcome:
		m = welcome{}
	case kindRefuse:
		m = refuse{why: d.text()}
	case kindEntries:
		var members []tree.Entry
		for len(d.rest) > 0 && !d.bad {
			members = append(members, d.entry())
		}
		m = entries{members}
	case kindListed:
		m = listed{watched: d.bool()}
	case kindNeed:
		var paths []string
		for len(d.rest) > 0 && !d.bad {
			paths = append(paths, d.path())
		}
		m = need{paths}
	case kindCompared:
		m = compared{deletes: d.uint(1 << 62)}
	case kindHeld:
		m = held{deletes: d.uint(1 << 62), total: d.uint(1 << 62)}
	case kindReleased:
		m = released{}
	case kindPut:
		m = put{seq: d.uint(1 << 62), final: d.bool(), entry: d.entry()}
	case kindFile:
		f := fileBegin{seq: d.uint(1 << 62), entry: d.entry()}
		d.bad = d.bad || f.entry.Type != tree.File
		m = f
	case kindContent:
		m = content{bytes: d.rest}
		d.bad = len(d.rest) == 0 || len(d.rest) > chunk
		d.rest = nil
	case kindFileEnd:
		f := fileEnd{good: d.bool()}
		copy(f.sum[:], d.take(len(f.sum)))
		m = f
	case kindAck:
		m = ack{seq: d.uint(1 << 62), result: result(d.byte(byte(resultError))), text: d.text()}
	case kindFinish:
		m = finish{seq: d.uint(1 << 62)}
	case kindPing:
		m = ping{waiting: d.uint(1 << 62)}
	case kindPong:
		m = pong{}
	default:
		return nil, fmt.Errorf("%w: unknown kind %d", errMalformed, k)
	}
	if d.bad || len(d.rest) > 0 {
		return nil, fmt.Errorf("%w: kind %d, %d bytes", errMalformed, k, len(payload))
	}
	return m, nil
}

// decoder takes values off the front of a payload. After the first that is wrong, bad is set and all others are zero.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n < 0 || n > len(d.rest) {
		d.bad = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) literal(want string) {
	if string(d.take(len(want))) != want {
		d.bad = true
	}
}

func (d *decoder) uint(most uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	// Every value has one form only, the shortest.
	if d.take(n); d.bad || n <= 0 || v > most || n > 1 && v < 1<<(7*(n-1)) {
		d.bad = true
		return 0
	}
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.rest)
	if d.take(n); d.bad || n <= 0 || len(binary.AppendVarint(nil, v)) != n {
		d.bad = true
		return 0
	}
	return v
}

func (d *decoder) byte(most byte) byte {
	b := d.take(1)
	if d.bad || b[0] > most {
		d.bad = true
		return 0
	}
	return b[0]
}

func (d *decoder) bool() bool { return d.byte(1) == 1 }

func (d *decoder) string(most int) string {
	return string(d.take(int(d.uint(uint64(most)))))
}

func (d *decoder) text() string { return d.string(maxText) }

func (d *decoder) path() string {
	p := d.string(tree.MaxPath)
	d.bad = d.bad || !tree.ValidPath(p)
	return p
}

func (d *decoder) entry() tree.Entry {
	e := tree.Entry{
		Path:   d.string(tree.MaxPath),
		Type:   tree.Type(d.byte(byte(tree.Symlink))),
		Mode:   uint32(d.uint(tree.ModeMask)),
		UID:    uint32(d.uint(1<<32 - 2)), // 2^32-1 means "leave it" to chown(2)
		GID:    uint32(d.uint(1<<32 - 2)),
		Mtime:  d.int(),
		Size:   int64(d.uint(1<<63 - 1)),
		Target: d.string(tree.MaxPath),
	}
	d.bad = d.bad || !e.Valid()
	return e
}
