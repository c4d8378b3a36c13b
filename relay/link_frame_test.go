package relay

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestLinkNextKeepsToItsType(t *testing.T) {
	var l Link
	src, err := l.Append(nil, []byte("packet"))
	if err != nil {
		t.Fatal(err)
	}
	src = AppendPing(src, 1)
	pkt, used, err := l.Next(src)
	if string(pkt) != "packet" || used != 10 || err != nil {
		t.Fatalf("%q, %d, %v", pkt, used, err)
	}
	pkt, used, err = l.Next(src[used:])
	if pkt != nil || used != 12 || err != nil {
		t.Fatalf("control: %q, %d, %v", pkt, used, err)
	}
	if _, _, err = (&Link{Send: FramePacketVNet}).Next(src); err == nil {
		t.Error("a packet without virtio-net header passed for one with")
	}
}

func TestLinkErrorsNameTheType(t *testing.T) {
	for _, c := range []struct{ name, say string }{
		{"bad-frame-empty", "the body of a packet frame has 0 bytes, not 1 to 65664"},
		{"bad-frame-oversize", "has 65665 bytes"},
		{"bad-frame-vnet", "virtio-net header frame has 10 bytes, not 11 to"},
		{"bad-frame-data", "a data frame of type 0x02 was not agreed on"},
		{"bad-frame-must", "type 0x80 must be understood"},
		{"bad-frame-control", "ping control frame has 1025 bytes, more than 1024"},
	} {
		b, _ := vector(t, c.name)
		var l Link
		_, _, _, err := l.NextFrame(b)
		var fe *FrameError
		if !errors.As(err, &fe) || fe.Resync || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v; want %q", c.name, err, c.say)
		}
	}
}

func TestControlBodies(t *testing.T) {
	if _, err := AppendClose(nil, CloseNormal, strings.Repeat("x", MaxCloseText+1)); err == nil {
		t.Error("an overlong reason was cut or sent")
	}
	if _, _, err := ParseClose(make([]byte, 1+MaxCloseText+1)); err == nil {
		t.Error("an overlong reason was taken")
	}
	if _, _, err := ParseClose(nil); err == nil {
		t.Error("a close without code was taken")
	}
	if _, text, _ := ParseClose([]byte("\x01a\x1b]0;x\x07\u202eb\xff")); text != "a?]0;x??b?" {
		t.Errorf("text %q", text)
	}
	if c := CloseCode(77).String(); c != "code 77" {
		t.Errorf("%s", c)
	}
	for _, n := range []int{0, 3, 7, 47} {
		if _, err := ParseStats(make([]byte, n)); err == nil {
			t.Errorf("statistics of %d bytes were taken", n)
		}
		if _, err := ParsePing(make([]byte, n)); err == nil && n < 8 {
			t.Errorf("a ping of %d bytes was taken", n)
		}
	}
	for _, bad := range []string{"", "\x00\x00\x00", "\x00\x00\x00\x43", "\x00\x01\x00\x81", "\xff\xff\xff\xff"} {
		if mtu, err := ParseMTU([]byte(bad)); err == nil {
			t.Errorf("mtu % x was taken as %d", bad, mtu)
		}
	}
	// A longer ping comes back whole.
	ping := append(AppendPing(nil, 9)[LinkHeadLen:], "more"...)
	if pong := AppendPong(nil, ping); !bytes.Equal(pong[LinkHeadLen:], ping) || pong[3] != 12 {
		t.Errorf("% x", pong)
	}
}
