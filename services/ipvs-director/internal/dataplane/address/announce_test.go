package address

import (
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
)

func TestAnnouncement(t *testing.T) {
	t.Parallel()
	mac := net.HardwareAddr{0x02, 0x42, 0x0a, 0x0a, 0x3c, 0x15}
	for operation, want := range map[uint16]string{
		// hardware, protocol, lengths, operation, sender's card and address, target's card and address
		arpRequest: "0001" + "0800" + "0604" + "0001" + "02420a0a3c15" + "0a0a3c16" + "000000000000" + "0a0a3c16",
		arpReply:   "0001" + "0800" + "0604" + "0002" + "02420a0a3c15" + "0a0a3c16" + "02420a0a3c15" + "0a0a3c16",
	} {
		if got := hex.EncodeToString(announcement(operation, mac, netip.MustParseAddr("10.10.60.22"))); got != want {
			t.Errorf("operation %d: got %s, want %s", operation, got, want)
		}
	}
}
