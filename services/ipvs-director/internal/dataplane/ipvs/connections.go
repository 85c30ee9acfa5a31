package ipvs

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// connections is the table of connections of the namespace of the calling thread; IPVS has no netlink message for it.
const connections = "/proc/thread-self/net/ip_vs_conn"

// Find tells which real server the connection of a client to a VIP has; false: the kernel has no such connection. It reads
// the whole table. Any goroutine may call it.
func Find(ctx context.Context, client netip.AddrPort, vip spec.VIP) (real netip.AddrPort, found bool, err error) {
	if err := ctx.Err(); err != nil {
		return real, false, err
	}
	file, err := os.Open(connections)
	if errors.Is(err, fs.ErrNotExist) {
		return real, false, nil
	}
	if err != nil {
		return real, false, err
	}
	defer file.Close()
	if real, found, err = search(file, client, vip); err != nil {
		err = fmt.Errorf("read %s: %w", connections, err)
	}
	return real, found, err
}

// search reads lines such as "TCP 0A0A3C01 9C40 0A0A3C16 0050 C0A83C4E 1F90 ESTABLISHED 899" (ip_vs_conn_seq_show of
// net/netfilter/ipvs/ip_vs_conn.c): protocol, client, VIP, real server, state, and when it expires. IPv6 addresses are written
// as usual, but with all their zeros.
func search(table io.Reader, client netip.AddrPort, vip spec.VIP) (real netip.AddrPort, found bool, err error) {
	protocol := strings.ToUpper(vip.Protocol.String())
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 7 || words[0] != protocol {
			continue
		}
		from, ok1 := end(words[1], words[2])
		to, ok2 := end(words[3], words[4])
		at, ok3 := end(words[5], words[6])
		if ok1 && ok2 && ok3 && from == client && to == vip.AddrPort {
			return at, true, nil
		}
	}
	return real, false, lines.Err()
}

// end reads an address and a port in hexadecimal.
func end(address, port string) (netip.AddrPort, bool) {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		b, err := hex.DecodeString(address)
		if err != nil || len(b) != 4 {
			return netip.AddrPort{}, false
		}
		ip = netip.AddrFrom4([4]byte(b))
	}
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(ip, uint16(n)), err == nil
}
