package main

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// census asks the network every millisecond who has an address, by an ARP probe (RFC 5227, section 2.1.1). Each question
// bears a number, as the hardware address that is to be answered, so that an answer counts for the moment of its question
// however late it is read.
type census struct {
	file  *os.File
	index int
	own   net.HardwareAddr
	vip   netip.Addr
	done  chan struct{}
	wait  sync.WaitGroup

	mu      sync.Mutex // protects what follows
	answers []map[string]bool
	asked   []time.Time // when each question was asked
}

// census begins to count. from is the machine that asks.
func (m *machine) census(t *testing.T, device, vip string) *census {
	t.Helper()
	c := &census{vip: netip.MustParseAddr(vip), done: make(chan struct{})}
	m.Do(t, func() {
		card, err := net.InterfaceByName(device)
		if err != nil {
			t.Fatal(err)
		}
		c.index, c.own = card.Index, card.HardwareAddr
		protocol := uint16(unix.ETH_P_ARP&0xff)<<8 | uint16(unix.ETH_P_ARP>>8)
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(protocol))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: card.Index}); err != nil {
			t.Fatal(err)
		}
		c.file = os.NewFile(uintptr(fd), "census")
	})
	c.wait.Go(c.ask)
	c.wait.Go(c.listen)
	t.Cleanup(c.stop)
	return c
}

func (c *census) stop() {
	select {
	case <-c.done:
	default:
		close(c.done)
		_ = c.file.Close() // ends the goroutines
		c.wait.Wait()
	}
}

func (c *census) ask() {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	vip := c.vip.As4()
	for {
		c.mu.Lock()
		number := uint32(len(c.answers))
		c.answers, c.asked = append(c.answers, nil), append(c.asked, time.Now())
		c.mu.Unlock()
		frame := slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, c.own, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0x77},
			binary.BigEndian.AppendUint32(nil, number), make([]byte, 4), make([]byte, 6), vip[:])
		if _, err := c.file.Write(frame); err != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-c.done:
			return
		}
	}
}

func (c *census) listen() {
	b := make([]byte, 2048)
	vip := c.vip.As4()
	for {
		n, err := c.file.Read(b)
		if err != nil {
			return
		}
		if n < 42 || b[21] != 2 || [4]byte(b[28:32]) != vip || b[32] != 2 || b[33] != 0x77 {
			continue
		}
		number := binary.BigEndian.Uint32(b[34:])
		c.mu.Lock()
		if int(number) < len(c.answers) {
			if c.answers[number] == nil {
				c.answers[number] = map[string]bool{}
			}
			c.answers[number][net.HardwareAddr(b[22:28]).String()] = true
		}
		c.mu.Unlock()
	}
}

// mark is the number of the next question.
func (c *census) mark() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.answers)
}

// tally is how many questions were answered by how many owners.
type tally struct {
	asked, nobody, one, two int
	// lastTwo is how many questions after the beginning two answered for the last time.
	lastTwo int
}

func (t tally) String() string {
	return fmt.Sprintf("asked %d times: nobody %d, one %d, two %d (last after %d)", t.asked, t.nobody, t.one, t.two, t.lastTwo)
}

// count counts from a mark on.
func (c *census) count(since int) tally { return c.between(since, c.mark()) }

// await waits until only that owner has answered the last hundred questions.
func (c *census) await(t *testing.T, owner string) {
	t.Helper()
	awaitThat(t, "only "+owner+" answers for "+c.vip.String(), func() string {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.answers) < 120 {
			return "no answers yet"
		}
		for _, owners := range c.answers[len(c.answers)-110 : len(c.answers)-10] {
			if len(owners) != 1 || !owners[owner] {
				return fmt.Sprintf("%v", owners)
			}
		}
		return ""
	})
}

// between counts from a mark up to another.
func (c *census) between(since, until int) (t tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, owners := range c.answers[since:until] {
		t.asked++
		switch len(owners) {
		case 0:
			t.nobody++
		case 1:
			t.one++
		default:
			t.two++
			t.lastTwo = n
		}
	}
	return t
}

// doubles are the questions from a mark on that two have answered, by their number.
func (c *census) doubles(since int) (all []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, owners := range c.answers[since:] {
		if len(owners) > 1 {
			all = append(all, since+n)
		}
	}
	return all
}

// at is the number of the first question that was asked after that moment.
func (c *census) at(moment time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, _ := slices.BinarySearchFunc(c.asked, moment, time.Time.Compare)
	return n
}

// answered counts the questions from a mark up to another that an owner has answered.
func (c *census) answered(owner string, since, until int) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, owners := range c.answers[since:until] {
		if owners[owner] {
			n++
		}
	}
	return n
}

// split counts the questions from a mark up to another at whose moment one machine alone had this address and another
// machine alone that of the other census: in all, and the most without a pause. who tells whose an Ethernet address is.
func (c *census) split(other *census, since, until int, who map[string]string) (all, longest int) {
	mine, at := c.part(since, until)
	theirs, times := other.part(0, other.mark())
	alone := func(owners map[string]bool) string {
		if len(owners) != 1 {
			return ""
		}
		for owner := range owners {
			return who[owner]
		}
		return ""
	}
	run := 0
	for n, owners := range mine {
		next, _ := slices.BinarySearchFunc(times, at[n], time.Time.Compare)
		if next == len(times) {
			break
		}
		here, there := alone(owners), alone(theirs[next])
		if here == "" || there == "" || here == there {
			run = 0
			continue
		}
		all, run = all+1, run+1
		longest = max(longest, run)
	}
	return all, longest
}

// part copies the answers from a mark up to another, and when they were asked for.
func (c *census) part(since, until int) (answers []map[string]bool, at []time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, owners := range c.answers[since:until] {
		answers = append(answers, maps.Clone(owners))
	}
	return answers, slices.Clone(c.asked[since:until])
}
