package relay

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// The vectors of docs/link.md are files of hexadecimal bytes with comments, written by
// hand and by another program than this one. A line "# expect: ..." says what a receiver
// makes of them.
const vectorDir = "../testdata/link"

// vector returns the bytes of a file and what it expects.
func vector(t testing.TB, name string) (b []byte, expect string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(vectorDir, name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		digits, comment, _ := strings.Cut(line, "#")
		if s, ok := strings.CutPrefix(strings.TrimSpace(comment), "expect: "); ok {
			expect = s
		}
		part, err := hex.DecodeString(strings.Join(strings.Fields(digits), ""))
		if err != nil {
			t.Fatalf("%s: %q: %v", name, line, err)
		}
		b = append(b, part...)
	}
	if len(b) == 0 || expect == "" {
		t.Fatalf("%s: no bytes or no expectation", name)
	}
	return b, expect
}

func vectorNames(t testing.TB) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(vectorDir, "*.hex"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors in %s (%v)", vectorDir, err)
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".hex"))
	}
	return names
}

func TestVectorsMeetTheirExpectation(t *testing.T) {
	for _, name := range vectorNames(t) {
		t.Run(name, func(t *testing.T) {
			b, expect := vector(t, name)
			var got string
			switch {
			case strings.HasPrefix(expect, "scan "):
				_, off, n, _ := ScanHello(b, nonceA, AnyForm)
				got = fmt.Sprintf("scan %d %d", off, n)
			case strings.Contains(name, "frame"):
				got = frameVerdict(b)
			default:
				got = helloVerdict(t, b)
			}
			if got != expect {
				t.Errorf("got %s, want %s", got, expect)
			}
		})
	}
}

func frameVerdict(b []byte) string {
	var l Link
	_, _, used, err := l.NextFrame(b)
	switch {
	case err != nil:
		return "bad-frame"
	case used == 0:
		return "more"
	case used == len(b):
		return "frame"
	}
	return "trailing bytes"
}

func helloVerdict(t *testing.T, b []byte) string {
	_, n, more, ferr := FindHello(b)
	_, perr := ParseHello(b)
	if n > 0 && fmt.Sprint(ferr) != fmt.Sprint(perr) {
		t.Errorf("FindHello: %v, ParseHello: %v", ferr, perr)
	}
	var version *VersionError
	var hello *HelloError
	switch {
	case more:
		if perr != ErrNotHello {
			t.Errorf("ParseHello of a part: %v", perr)
		}
		return "more"
	case perr == nil:
		return "hello"
	case perr == ErrNotHello:
		return "not-hello"
	case errors.As(perr, &version):
		return "version"
	case errors.As(perr, &hello):
		return "bad-hello"
	}
	return perr.Error()
}

var (
	nonceA = Nonce{0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8}
	nonceB = Nonce{0xb1, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8}
	linkID = [16]byte{0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f}
)

// What the hello vectors say. With same, we make the very same bytes of it.
func TestHelloVectors(t *testing.T) {
	caps := CapVNet | CapHeartbeat | CapClose
	const software = "tunsplice 0.1"
	for _, v := range []struct {
		name string
		want Hello
		same bool
	}{
		{"hello-tun", Hello{Kind: DeviceTUN, MTU: 1500, Caps: caps, Nonce: nonceA, Software: software}, true},
		{"hello-tap", Hello{Kind: DeviceTAP, MTU: 1500, Caps: caps, Nonce: nonceA, Software: software}, true},
		{"hello-tun-pi", Hello{Kind: DeviceTUN, PI: true, MTU: 1500, Caps: caps, Nonce: nonceA, Software: software}, true},
		{"hello-tap-pi", Hello{Kind: DeviceTAP, PI: true, MTU: 1500, Caps: caps, Nonce: nonceA, Software: software}, true},
		{"hello-minimal", Hello{Kind: DeviceTAP, Nonce: nonceA}, true},
		{"hello-ack", Hello{Kind: DeviceTAP, Ack: true, MTU: 1500, Caps: caps, Nonce: nonceB, Peer: nonceA, Link: linkID}, true},
		{"hello-switch", Hello{Kind: DeviceTAP, Ack: true, Switch: true, MTU: 1500, Caps: caps, Nonce: nonceB, Peer: nonceA, Link: linkID}, true},
		{"hello-refuse", Hello{Kind: DeviceTUN, Ack: true, Refuse: true, MTU: 1500, Caps: caps, Nonce: nonceB, Peer: nonceA, Reason: "this end is tun, yours is tap"}, true},
		{"hello-unknown", Hello{Kind: DeviceTAP, MTU: 1500, Caps: caps | 0xff000000, Nonce: nonceA, Software: software}, false},
		{"hello-control", Hello{Kind: DeviceTUN, Ack: true, MTU: 1500, Caps: caps, Nonce: nonceB, Peer: nonceA, Control: AppendPing(nil, 0x0102030405060708)}, true},
		{"hello-streams", Hello{Kind: DeviceTAP, MTU: 1500, Caps: caps | CapStreams, Nonce: nonceA, Streams: Streams{Name: Nonce{0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8}, Number: 1, Count: 4}}, true},
		{"hello-text", Hello{Kind: DeviceTUN, Ack: true, Refuse: true, MTU: 1500, Caps: caps, Nonce: nonceB, Peer: nonceA, Reason: "no?[2J ?ä"}, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			b, _ := vector(t, v.name)
			h, err := ParseHello(b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(h, v.want) {
				t.Errorf("got  %+v\nwant %+v", h, v.want)
			}
			made, err := v.want.AppendPacket([]byte("in front"))
			if err != nil {
				t.Fatal(err)
			}
			if made, _ = bytes.CutPrefix(made, []byte("in front")); v.same && !bytes.Equal(made, b) {
				t.Errorf("made % x\nwant % x", made, b)
			}
		})
	}
}

// What the frame vectors say, made and read.
func TestFrameVectors(t *testing.T) {
	body := func(name string, want FrameType) []byte {
		b, _ := vector(t, name)
		var l Link
		typ, body, used, err := l.NextFrame(b)
		if err != nil || typ != want || used != len(b) {
			t.Fatalf("%s: type %s, used %d, %v", name, typ, used, err)
		}
		return body
	}
	same := func(name string, made []byte) {
		if b, _ := vector(t, name); !bytes.Equal(made, b) {
			t.Errorf("%s: made % x, want % x", name, made, b)
		}
	}

	pkt := body("frame-packet", FramePacket)
	made, err := new(Link).Append(nil, pkt)
	if err != nil {
		t.Fatal(err)
	}
	same("frame-packet", made)

	pkt = body("frame-vnet", FramePacketVNet)
	if made, err = (&Link{Send: FramePacketVNet}).Append(nil, pkt); err != nil {
		t.Fatal(err)
	}
	same("frame-vnet", made)

	ping := body("frame-ping", FramePing)
	if stamp, err := ParsePing(ping); err != nil || stamp != 0x0102030405060708 {
		t.Errorf("ping: %x, %v", stamp, err)
	}
	same("frame-ping", AppendPing(nil, 0x0102030405060708))
	same("frame-pong", AppendPong(nil, ping))

	if mtu, err := ParseMTU(body("frame-mtu", FrameMTU)); err != nil || mtu != 9000 {
		t.Errorf("mtu: %d, %v", mtu, err)
	}
	same("frame-mtu", AppendMTU(nil, 9000))

	want := LinkStats{1, 2, 3, 4, 5, 6}
	if s, err := ParseStats(body("frame-stats", FrameStats)); err != nil || s != want {
		t.Errorf("statistics: %+v, %v", s, err)
	}
	same("frame-stats", AppendStats(nil, want))

	code, text, err := ParseClose(body("frame-close", FrameClose))
	if err != nil || code != CloseDevice || text != "tap0 was deleted" {
		t.Errorf("close: %s, %q, %v", code, text, err)
	}
	made, err = AppendClose(nil, CloseDevice, "tap0 was deleted")
	if err != nil {
		t.Fatal(err)
	}
	same("frame-close", made)
}
