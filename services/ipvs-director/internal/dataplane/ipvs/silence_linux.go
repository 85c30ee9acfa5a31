package ipvs

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// A service that gets another scheduler has none until every processor has seen that (ip_vs_edit_service of
// net/netfilter/ipvs/ip_vs_ctl.c), some hundredths of a second. A connection that comes meanwhile is refused, as if nobody
// took any: with the ICMP message that a port cannot be reached. Without that message the client hears nothing and asks
// again a second later. So the node's ICMP messages that something cannot be reached wait for that long; those that tell the
// MTU of a path go on. It is the limit of their rate that is raised, in ms, so that nothing is lost when the director dies in
// between but refusals; the next one finds the value and sets it back.
const (
	silent = "86399000" // about a day; no other value is read as ours. All HZ divide it, as ICMPv6 counts in jiffies
	usual  = "1000"     // the kernel's default
)

// limits are the limits of both families (Documentation/networking/ip-sysctl.rst).
var limits = []string{"/proc/sys/net/ipv4/icmp_ratelimit", "/proc/sys/net/ipv6/icmp/ratelimit"}

// silently runs f while the node refuses nothing. Where /proc/sys cannot be written, as in most containers, it refuses.
func silently(f func() error) error {
	was := map[string]string{}
	for _, path := range limits {
		text, err := os.ReadFile(path)
		if err == nil && os.WriteFile(path, []byte(silent), 0o644) == nil {
			if was[path] = strings.TrimSpace(string(text)); was[path] == silent {
				was[path] = usual
			}
		}
	}
	err := f()
	for _, path := range limits { // in one order, so that a test can tell what each call has done
		text, raised := was[path]
		if !raised {
			continue
		}
		if failed := os.WriteFile(path, []byte(text), 0o644); failed != nil {
			err = errors.Join(err, fmt.Errorf("let the node refuse again: %w", failed))
		}
	}
	return err
}

// speak sets back what a director that died in between has left.
func speak() error {
	for _, path := range limits {
		if text, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(text)) != silent {
			continue
		}
		if err := os.WriteFile(path, []byte(usual), 0o644); err != nil {
			return fmt.Errorf("let the node refuse again: %w", err)
		}
	}
	return nil
}
