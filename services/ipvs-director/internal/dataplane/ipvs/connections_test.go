package ipvs

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// What a kernel 6.1 prints, and a line that nobody does.
const table = `Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
UDP 0A0A3C01 9C40 0A0A3C16 0050 C0A83D4E 1F90 UDP             299
TCP 0A0A3C01 9C40 0A0A3C16 0050 C0A83C4E 1F90 ESTABLISHED     899
TCP 2001:0db8:0010:0000:0000:0000:0000:0001 9C42 2001:0db8:0010:0000:0000:0000:0000:0022 0050 2001:0db8:0060:0000:0000:0000:0000:0078 1F90 ESTABLISHED     899
TCP 2001:0db8:0010:0000:0000:0000:0000:0001 9C43 2001:0db8:0010:0000:0000:0000:0000:0022 0050 C0A83C4E 0050 ESTABLISHED     899
broken
`

func TestSearch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ client, vip, want string }{
		{"10.10.60.1:40000", "10.10.60.22:80", "192.168.60.78:8080"},
		{"10.10.60.1:40000", "10.10.60.22:80/udp", "192.168.61.78:8080"},
		{"10.10.60.1:40001", "10.10.60.22:80", ""},
		{"10.10.60.2:40000", "10.10.60.22:80", ""},
		{"[2001:db8:10::1]:40002", "[2001:db8:10::22]:80", "[2001:db8:60::78]:8080"},
		{"[2001:db8:10::1]:40003", "[2001:db8:10::22]:80", "192.168.60.78:80"},
		{"[2001:db8:10::1]:40003", "[2001:db8:10::22]:80/udp", ""},
	} {
		real, found, err := search(strings.NewReader(table), netip.MustParseAddrPort(c.client), spec.MustParseVIP(c.vip))
		if err != nil || found != (c.want != "") || found && real.String() != c.want {
			t.Errorf("%s to %s: got %s, %t, %v; want %q", c.client, c.vip, real, found, err, c.want)
		}
	}
}
