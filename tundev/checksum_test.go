package tundev

import "testing"

func TestChecksum(t *testing.T) {
	// The example of RFC 1071, section 3: its sum is ddf2.
	if got := Checksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); got != ^uint16(0xddf2) {
		t.Errorf("RFC 1071 example: %04x, want %04x", got, ^uint16(0xddf2))
	}
	buf := testBytes(600)
	for from := range 9 {
		for n := range 400 {
			b := buf[from : from+n]
			if got, want := Checksum(b), ^slowSum(b); got != want {
				t.Fatalf("%d bytes from %d: %04x, want %04x", n, from, got, want)
			}
		}
	}
	ones := make([]byte, 65535)
	for i := range ones {
		ones[i] = 0xff
	}
	for _, n := range []int{2, 8, 64, 66, 4096, 65534, 65535} { // every addition carries
		if got, want := Checksum(ones[:n]), ^slowSum(ones[:n]); got != want {
			t.Errorf("%d bytes of ff: %04x, want %04x", n, got, want)
		}
	}
}

func TestAddSum16(t *testing.T) {
	b := testBytes(40)
	for _, v := range []uint16{0, 1, 0x1234, 0xff00, 0xffff} {
		want := slowSum(append(append([]byte{}, b...), byte(v>>8), byte(v)))
		if got := foldSum(addSum16(addSum(0, b), v)); got != want {
			t.Errorf("with %04x: %04x, want %04x", v, got, want)
		}
		// The sum may stand at its upper end already.
		if got, want := foldSum(addSum16(^uint64(0), v)), slowSum([]byte{0xff, 0xff, byte(v >> 8), byte(v)}); got != want {
			t.Errorf("ffff with %04x: %04x, want %04x", v, got, want)
		}
	}
}
