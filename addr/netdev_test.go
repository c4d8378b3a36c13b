package addr

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Segments of a GSO packet that a bridge brought from a larger MTU must not leave; the MTU may have been changed meanwhile.
func TestSegmentsFitMTU(t *testing.T) {
	now := 1500
	asked := 0
	n := &netdev{mtu: 1400, deviceMTU: func() (int, error) { asked++; return now, nil }}
	if err := n.fits(1400); err != nil || asked != 0 {
		t.Errorf("1400 bytes: %v, asked %d times", err, asked)
	}
	if err := n.fits(1500); err != nil || asked != 1 || n.mtu != 1500 {
		t.Errorf("1500 bytes after the MTU grew: %v, asked %d times, MTU %d", err, asked, n.mtu)
	}
	if err := n.fits(1501); !onePacketOfDevice(err) || err.Error() != "segments of 1501 bytes, MTU 1500: "+unix.EMSGSIZE.Error() {
		t.Errorf("1501 bytes: %v", err)
	}
}
