package proxy

import (
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

	want int64
	n    int64
	err  error
	fill func(uintptr) bool
	pour func(uintptr) bool
}

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
	p.fill = func(fd uintptr) bool { return p.splice(int(fd), p.w, min(p.want, pipeSize)) }
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

// take fills the pipe, which must be empty, with at most n bytes from s; 0 at the end of the stream.
func (p *pipe) take(s *sock, n int64) (int64, error) {
	p.want, p.n, p.err = n, 0, nil
	if err := s.raw.Read(p.fill); err != nil {
		return 0, err
	}
	if p.err != nil {
		return 0, p.err
	}
	p.held += p.n
	return p.n, nil
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
