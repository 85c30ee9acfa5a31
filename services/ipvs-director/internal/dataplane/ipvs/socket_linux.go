package ipvs

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/internal/kernelsocket"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/ipvsmsg"
)

const (
	// receiveTimeout bounds the wait for one datagram of an answer. The kernel does not answer if what it did was interrupted
	// (netlink_rcv_skb of net/netlink/af_netlink.c).
	receiveTimeout = 2 * time.Second
	// listings is how often a listing that was interrupted by a change is asked for.
	listings = 5
)

// errNoIPVS means that the kernel has no such family.
var errNoIPVS = errors.New("no IPVS in this kernel: generic netlink has no family " + ipvsmsg.Name)

// socket is a conversation with the IPVS of one network namespace, that of the thread that opened it. It is used for a few
// questions and closed: what went wrong with one has no effect on the next.
type socket struct {
	*kernelsocket.Socket
	family   uint16
	sequence uint32
}

// open opens a socket and asks for the family; the kernel loads the module if it has one. errNoIPVS: it has none.
func open() (*socket, error) {
	wire, err := kernelsocket.Open(unix.NETLINK_GENERIC, receiveTimeout)
	if err != nil {
		return nil, err
	}
	s := &socket{Socket: wire}
	messages, err := s.ask(ipvsmsg.AskFamily())
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, errors.Join(errNoIPVS, s.Close())
	case err == nil && len(messages) != 1:
		err = fmt.Errorf("%d answers", len(messages))
	case err == nil:
		s.family, err = ipvsmsg.ParseFamily(messages[0])
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ask generic netlink for the family %s: %w", ipvsmsg.Name, err), s.Close())
	}
	return s, nil
}

// ask sends a request and returns the messages of the answer. What the kernel refuses is a unix.Errno.
func (s *socket) ask(request ipvsmsg.Request) ([][]byte, error) {
	s.sequence++
	answer := ipvsmsg.Answer{Sequence: s.sequence}
	err := s.exchange(request.Encode(s.sequence), answer.Take)
	return answer.Messages, number(err)
}

// order sends requests in one datagram, and returns what the kernel has refused of each; nil: it was done. One that is refused
// keeps none of those behind it from being done.
func (s *socket) order(requests []ipvsmsg.Request) (refused []error, err error) {
	verdicts := ipvsmsg.Verdicts{First: s.sequence + 1, Refused: make([]error, len(requests))}
	var datagram []byte
	for i, r := range requests {
		s.sequence++
		r.Silent = i < len(requests)-1
		datagram = append(datagram, r.Encode(s.sequence)...)
	}
	if err := s.exchange(datagram, verdicts.Take); err != nil {
		return nil, err
	}
	for i, err := range verdicts.Refused {
		verdicts.Refused[i] = number(err)
	}
	return verdicts.Refused, nil
}

// number makes a refusal a unix.Errno.
func number(err error) error {
	if refused := ipvsmsg.Refused(0); errors.As(err, &refused) {
		return syscall.Errno(refused)
	}
	return err
}

// exchange sends a datagram and receives until all has been taken.
func (s *socket) exchange(datagram []byte, take func([]byte) (complete bool, err error)) error {
	if err := s.Send(datagram); err != nil {
		return err
	}
	for {
		answer, err := s.Receive()
		if err != nil {
			return err
		}
		if complete, err := take(answer); complete || err != nil {
			return err
		}
	}
}

// list asks for all there are, again when a change came between, and reads each.
func list[T any](ctx context.Context, ask func(ipvsmsg.Request) ([][]byte, error), request ipvsmsg.Request, parse func([]byte) (T, error)) (all []T, err error) {
	for range listings {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		messages, err := ask(request)
		if errors.Is(err, ipvsmsg.ErrInterrupted) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			one, err := parse(m)
			if err != nil {
				return nil, err
			}
			all = append(all, one)
		}
		return all, nil
	}
	return nil, fmt.Errorf("%d times: %w", listings, ipvsmsg.ErrInterrupted)
}

// enter opens a socket for a plane that is in use: whatever hinders it is dataplane.ErrUnusable.
func enter() (*socket, error) {
	s, err := open()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", dataplane.ErrUnusable, err)
	}
	return s, nil
}
