package ipvs

import (
	"net/netip"
	"strings"
	"testing"
)

// What a kernel 6.1 prints.
const table = `Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0A0A3C01 9C40 0A0A3C16 0050 C0A83C4E 1F90 ESTABLISHED     899
UDP 0A0A3C01 9C41 0A0A3C16 0050 C0A83C4E 1F90 UDP             299
TCP 20010DB8000000000000000000000001 9C42 20010DB8000000000000000000000002 0050 20010DB8000000000000000000000003 1F90 ESTABLISHED     899
broken
`

func TestSearch(t *testing.T) {
	t.Parallel()
	vip := netip.MustParseAddrPort("10.10.60.22:80")
	for client, want := range map[string]string{"10.10.60.1:40000": "192.168.60.78:8080", "10.10.60.1:40001": "", "10.10.60.2:40000": ""} {
		real, found, err := search(strings.NewReader(table), netip.MustParseAddrPort(client), vip)
		if err != nil || found != (want != "") || found && real.String() != want {
			t.Errorf("%s: got %s, %t, %v; want %q", client, real, found, err, want)
		}
	}
}
