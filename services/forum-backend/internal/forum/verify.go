package forum

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"io"
)

// lookAhead is how much of a file is read before any of it is given out, and how much is always held back: a file up to
// this size is known to be right before its first byte leaves; of a larger one the end never leaves when it is wrong.
const lookAhead = 256 << 10

// Verify reads a file and gives out its bytes, but never the whole of one whose size or sha256 is not the one in want:
// then it answers ErrTampered, at once or from Read before the end. Other errors are those of r.
func Verify(r io.Reader, want File) (io.Reader, error) {
	v := &verifier{from: r, want: want, hash: sha256.New()}
	if err := v.fill(); err != nil {
		return nil, err
	}
	return v, nil
}

type verifier struct {
	from  io.Reader
	want  File
	hash  hash.Hash
	size  int64  // bytes read so far
	ready []byte // hashed, and may be given out but for the last lookAhead bytes until done
	done  bool   // everything was read and is right
}

// fill reads until two look-aheads are there, or to the end, where it judges.
func (v *verifier) fill() error {
	for !v.done && len(v.ready) <= lookAhead {
		block := make([]byte, lookAhead)
		n, err := io.ReadFull(v.from, block)
		v.hash.Write(block[:n])
		v.size += int64(n)
		v.ready = append(v.ready, block[:n]...)
		switch {
		case v.size > v.want.Size:
			return fmt.Errorf("%w: %s is longer than %d bytes", ErrTampered, v.want.Path, v.want.Size)
		case err == nil:
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			// ReadFull says ErrUnexpectedEOF for a short last block; a body that broke off is short too and so is not right.
			if v.size != v.want.Size || subtle.ConstantTimeCompare(v.hash.Sum(nil), v.want.SHA256[:]) != 1 {
				return fmt.Errorf("%w: %s", ErrTampered, v.want.Path)
			}
			v.done = true
		default:
			return err
		}
	}
	return nil
}

func (v *verifier) Read(p []byte) (int, error) {
	if err := v.fill(); err != nil {
		return 0, err
	}
	give := v.ready
	if !v.done {
		give = give[:len(give)-lookAhead]
	}
	if len(give) == 0 {
		return 0, io.EOF
	}
	n := copy(p, give)
	v.ready = v.ready[n:]
	return n, nil
}
