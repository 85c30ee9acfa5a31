package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The addresses are the tutorial's.
const (
	vip       = "192.168.60.78"
	router    = 53
	prefix    = "twotier-bench-" // of the namespaces
	startMost = 30 * time.Second
)

// machine is a namespace with one card.
type machine struct {
	name, mac string
}

// network is two machines, a witness, and the switch between them.
type network struct {
	machines [2]machine
	witness  machine
	made     []string
}

// sh runs a program and returns what it printed.
func sh(words ...string) (string, error) {
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// in runs a program on a machine.
func (m machine) in(words ...string) (string, error) {
	return sh(append([]string{"ip", "netns", "exec", m.name}, words...)...)
}

func openNetwork() (n *network, err error) {
	n = &network{}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	hub := fmt.Sprintf("%s%d-hub", prefix, os.Getpid())
	if err := n.namespace(hub); err != nil {
		return n, err
	}
	// The timers of a bridge would learn and wait; here it only forwards.
	if _, err := sh("ip", "-n", hub, "link", "add", "switch", "up", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"); err != nil {
		return n, err
	}
	for i, address := range []string{"192.168.60.22/24", "192.168.60.128/24", "192.168.60.1/24"} {
		m := machine{name: fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), i)}
		if err := n.namespace(m.name); err != nil {
			return n, err
		}
		port := fmt.Sprintf("port%d", i)
		for _, words := range [][]string{
			{"ip", "-n", m.name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", hub},
			{"ip", "-n", hub, "link", "set", port, "master", "switch", "up"},
			{"ip", "-n", m.name, "link", "set", "lo", "up"},
			{"ip", "-n", m.name, "address", "add", address, "dev", "eth0"},
			{"ip", "-n", m.name, "link", "set", "eth0", "up"},
		} {
			if _, err := sh(words...); err != nil {
				return n, err
			}
		}
		text, err := sh("ip", "-n", m.name, "-o", "link", "show", "dev", "eth0")
		if err != nil {
			return n, err
		}
		_, rest, _ := strings.Cut(text, "link/ether ")
		m.mac, _, _ = strings.Cut(rest, " ")
		if i < 2 {
			n.machines[i] = m
		} else {
			n.witness = m
		}
	}
	return n, nil
}

func (n *network) namespace(name string) error {
	if _, err := sh("ip", "netns", "add", name); err != nil {
		return err
	}
	n.made = append(n.made, name)
	return nil
}

// close takes the namespaces away.
func (n *network) close() (err error) {
	for _, name := range n.made {
		_, e := sh("ip", "netns", "del", name)
		err = errors.Join(err, e)
	}
	return err
}

// lose cuts the first machine off without its noticing: the cable carries, but leads nowhere.
func (n *network) lose() error {
	_, err := sh("ip", "-n", n.made[0], "link", "set", "port0", "nomaster")
	return err
}

// find puts it back.
func (n *network) find() error {
	_, err := sh("ip", "-n", n.made[0], "link", "set", "port0", "master", "switch")
	return err
}

// inside runs f on a thread that is in the namespace of the machine.
func (m machine) inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never let go: the thread ends with the goroutine
		file, err := os.Open("/run/netns/" + m.name)
		if err == nil {
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
			err = errors.Join(err, file.Close())
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// process is a program on a machine.
type process struct {
	command *exec.Cmd
	out     bytes.Buffer
	exited  chan struct{}
}

func (m machine) start(words ...string) (*process, error) {
	p := &process{command: exec.Command("ip", append([]string{"netns", "exec", m.name}, words...)...), exited: make(chan struct{})}
	p.command.Stdout, p.command.Stderr = &p.out, &p.out
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.exited)
		_ = p.command.Wait() // how it ended is of no interest
	}()
	return p, nil
}

// end asks it to end, and makes it after a while.
func (p *process) end() error {
	_ = p.command.Process.Signal(syscall.SIGTERM) // gone is as good
	select {
	case <-p.exited:
		return nil
	case <-time.After(10 * time.Second):
		_ = p.command.Process.Kill()
		<-p.exited
		return errors.New("a program did not end when it was asked to")
	}
}

// card is the witness's own, in its namespace.
func card() (*net.Interface, error) { return net.InterfaceByName("eth0") }
