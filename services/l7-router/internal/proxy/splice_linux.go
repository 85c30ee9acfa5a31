package proxy

import (
	"errors"
	"syscall"
)

// pipeSize is how much a pipe should hold between two sockets; the kernel may give less.
const pipeSize = 256 << 10

// maxPipes is the most pipes kept for later; more are made while they are needed.
const maxPipes = 64

const (
	spliceMove     = 1 // SPLICE_F_MOVE
	spliceNonblock = 2 // SPLICE_F_NONBLOCK
	setPipeSize    = 1031
)

// pipe carries bytes from one socket to another inside the kernel: splice(2).
type pipe struct {
	r, w int
	held int64 // bytes inside

	n    int64
	err  error
	pour func(uintptr) bool
}

// errNoSplice: there is no pipe to be had (EMFILE, ENFILE), or the kernel does not splice from this socket.
var errNoSplice = errors.New("no splice")

var pipes = make(chan *pipe, maxPipes)

func borrowPipe() (*pipe, error) {
	select {
	case p := <-pipes:
		return p, nil
	default:
	}
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return nil, err
	}
	p := &pipe{r: fds[0], w: fds[1]}
	// A larger pipe only saves calls; a user may be at the limit of fs.pipe-user-pages-soft.
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(p.w), setPipeSize, pipeSize)
	p.pour = func(fd uintptr) bool { return p.splice(p.r, int(fd), p.held) }
	return p, nil
}

// giveBackPipe keeps an empty pipe for later; what is left in another must not reach a stranger.
func giveBackPipe(p *pipe) {
	if p.held == 0 {
		select {
		case pipes <- p:
			return
		default:
		}
	}
	_ = syscall.Close(p.r) // nothing in it is of use
	_ = syscall.Close(p.w)
}

// splice reports false when it has to wait for the socket.
func (p *pipe) splice(from, to int, n int64) bool {
	for {
		p.n, p.err = syscall.Splice(from, nil, to, nil, int(n), spliceMove|spliceNonblock)
		switch p.err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		}
		return true
	}
}

// fill waits until s can be read, and returns a pipe with at most n bytes of it; nil at the end of the stream.
func (s *sock) fill(n int64) (*pipe, error) {
	s.filled, s.fillMost, s.fillErr = nil, min(n, pipeSize), nil
	if err := s.raw.Read(s.fillNow); err != nil {
		return nil, err
	}
	p := s.filled
	s.filled = nil
	return p, s.fillErr
}

func (s *sock) fillReady(fd uintptr) bool {
	p, err := borrowPipe()
	if err != nil {
		s.fillErr = errNoSplice
		return true
	}
	if !p.splice(int(fd), p.w, s.fillMost) {
		giveBackPipe(p)
		return false
	}
	switch {
	case p.err == syscall.EINVAL:
		s.fillErr = errNoSplice
	case p.err != nil:
		s.fillErr = p.err
	case p.n > 0:
		p.held = p.n
		s.filled = p
		return true
	}
	giveBackPipe(p)
	return true
}

// give passes some of what the pipe holds on to s.
func (p *pipe) give(s *sock) (int64, error) {
	p.n, p.err = 0, nil
	if err := s.raw.Write(p.pour); err != nil {
		return 0, err
	}
	if p.err != nil {
		return 0, p.err
	}
	p.held -= p.n
	return p.n, nil
}
