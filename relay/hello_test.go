package relay

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func hello(kind DeviceKind, pi bool) Hello {
	return Hello{Kind: kind, PI: pi, MTU: 1500, Caps: CapVNet | CapTSO4, Nonce: nonceB, Software: "test"}
}

// allForms is a hello in each of its four forms.
func allForms() []Hello {
	return []Hello{hello(DeviceTUN, false), hello(DeviceTUN, true), hello(DeviceTAP, false), hello(DeviceTAP, true)}
}

func mustPacket(t testing.TB, h Hello) []byte {
	t.Helper()
	b, err := h.AppendPacket(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHelloIsAWholePacket(t *testing.T) {
	for _, h := range allForms() {
		h.Ack, h.Peer, h.Refuse = true, nonceA, true
		h.Software, h.Reason = strings.Repeat("s", MaxHelloSoftware), strings.Repeat("r", MaxHelloReason)
		b := mustPacket(t, h)
		if len(b) > MaxHello || len(b) < 60 {
			t.Errorf("%d bytes", len(b))
		}
		if h.PI {
			b = b[piLen:]
		}
		if h.Kind == DeviceTAP {
			if b[6]&3 != 2 {
				t.Errorf("source %x is not a local station's", b[6:12])
			}
			continue
		}
		pkt, used, err := RawIP{}.Next(b)
		if len(pkt) != len(b) || used != len(b) || err != nil || ipv4Checksum(b[:20]) != 0 {
			t.Errorf("not an IPv4 packet: used %d of %d, %v", used, len(b), err)
		}
	}
}

func TestHelloAnyCutIsNoHello(t *testing.T) {
	for _, h := range allForms() {
		b := mustPacket(t, h)
		for n := range b {
			if _, err := ParseHello(b[:n]); err != ErrNotHello {
				t.Fatalf("%d of %d bytes: %v", n, len(b), err)
			}
			if _, used, more, err := FindHello(b[:n]); used != 0 || !more || err != nil {
				t.Fatalf("%d of %d bytes: used %d, more %v, %v", n, len(b), used, more, err)
			}
		}
		if _, err := ParseHello(append(bytes.Clone(b), 0)); err != ErrNotHello {
			t.Errorf("with a byte behind: %v", err)
		}
		got, used, more, err := FindHello(append(bytes.Clone(b), "frames"...))
		if used != len(b) || more || err != nil || !reflect.DeepEqual(got, h) {
			t.Errorf("in a stream: %+v, %d, %v, %v", got, used, more, err)
		}
	}
}

// No single wrong bit goes unnoticed, but for those of a source address, which
// nobody looks at, and of PI, which may have been stripped.
func TestHelloAnyWrongBitIsNoHello(t *testing.T) {
	for _, h := range allForms() {
		b := mustPacket(t, h)
		for bit := range len(b) * 8 {
			at := bit / 8
			if h.Kind == DeviceTAP && at >= b4(h.PI)+6 && at < b4(h.PI)+12 {
				continue
			}
			b[at] ^= 1 << (bit % 8)
			if _, err := ParseHello(b); err != ErrNotHello {
				t.Errorf("%s: byte %d: %v", h.Kind, at, err)
			}
			b[at] ^= 1 << (bit % 8)
		}
	}
}

func b4(pi bool) int {
	if pi {
		return piLen
	}
	return 0
}

// A stream re-split by IP headers hands out packets without their packet
// information; the hello still says how the peer sends.
func TestHelloWithPIStripped(t *testing.T) {
	h, err := ParseHello(mustPacket(t, hello(DeviceTUN, true))[piLen:])
	if err != nil || !h.PI {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestHelloErrorsAreWords(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"bad-hello-version", "the peer speaks version 2 of the link protocol, and only version 1 is spoken here"},
		{"bad-hello-need", "features of the link protocol that are not known here (bits 0x04)"},
		{"bad-hello-kind", "hello: unknown device kind 9"},
		{"bad-hello-swapped", "hello: a hello of a tun device in a packet of a tap device"},
		{"bad-hello-field", "hello: a field reaches beyond the end"},
		{"bad-hello-streams", "hello: stream number 4 of a link of 4, counted from 0"},
		{"bad-hello-control", "hello: its control field is not one control frame"},
	} {
		b, _ := vector(t, c.name)
		if _, err := ParseHello(b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	b, _ := vector(t, "bad-hello-version")
	var ve *VersionError
	if _, err := ParseHello(b); !errors.As(err, &ve) || ve.Peer != 2 {
		t.Errorf("%v", err)
	}
}

func TestHelloThatBreaksTheRulesIsNotSent(t *testing.T) {
	for _, c := range []struct {
		say  string
		edit func(*Hello)
	}{
		{"unknown device kind 0", func(h *Hello) { h.Kind = 0 }},
		{"the nonce is zero", func(h *Hello) { h.Nonce = Nonce{} }},
		{"acknowledges a nonce of zero", func(h *Hello) { h.Peer = Nonce{} }},
		{"does not acknowledge", func(h *Hello) { h.Ack = false }},
		{"without acknowledging", func(h *Hello) { h.Ack, h.Peer, h.Switch = false, Nonce{}, true }},
		{"and refuses", func(h *Hello) { h.Switch, h.Refuse = true, true }},
		{"software name of 65 bytes", func(h *Hello) { h.Software = strings.Repeat("s", 65) }},
		{"reason of 201 bytes", func(h *Hello) { h.Reason = strings.Repeat("r", 201) }},
		{"control frame of 256 bytes", func(h *Hello) { h.Control = make([]byte, 256) }},
		{"not one control frame", func(h *Hello) { h.Control = []byte{0, 0, 0, 1, 1} }},
		{"not one control frame", func(h *Hello) { h.Control = append(AppendMTU(nil, 1500), 0) }},
		{"longer than 488", func(h *Hello) {
			h.Control, _ = AppendClose(nil, CloseRefused, strings.Repeat("t", MaxCloseText))
			h.Software, h.Reason = strings.Repeat("s", 64), strings.Repeat("r", 200)
		}},
	} {
		h := hello(DeviceTAP, false)
		h.Ack, h.Peer = true, nonceA
		c.edit(&h)
		dst, err := h.AppendPacket([]byte("before"))
		if err == nil || !strings.Contains(err.Error(), c.say) || string(dst) != "before" {
			t.Errorf("want %q: %v, %q", c.say, err, dst)
		}
	}
}

func TestScanHello(t *testing.T) {
	other := Nonce{1}
	for _, h := range allForms() {
		h.Ack, h.Switch, h.Peer = true, true, nonceA
		ours := mustPacket(t, h)
		h.Peer = other
		nested := mustPacket(t, h)
		h.Ack, h.Switch, h.Peer = false, false, Nonce{}
		plain := mustPacket(t, h)
		frame := bytes.Repeat([]byte{0x55}, 100)

		stream := bytes.Join([][]byte{frame, nested, plain, helloMagic[:], ours[:len(ours)-1], frame, ours, frame}, nil)
		want := len(stream) - len(frame) - len(ours)
		for _, forms := range []HelloForm{AnyForm, h.Form()} {
			got, off, n, _ := ScanHello(stream, nonceA, forms)
			if off != want || n != len(ours) || !got.Acks(nonceA) || !got.Switch {
				t.Errorf("%s, pi %v: %d+%d, want %d+%d", h.Kind, h.PI, off, n, want, len(ours))
			}
		}
		if _, _, n, _ := ScanHello(stream, Nonce{9}, AnyForm); n != 0 {
			t.Errorf("a hello to somebody else was found")
		}
		// Wherever the stream is cut, keep holds on to what has come of it.
		for cut := 1; cut < len(ours); cut++ {
			part := append(bytes.Clone(frame), ours[:cut]...)
			if _, _, n, keep := ScanHello(part, nonceA, h.Form()); n != 0 || keep != cut {
				t.Fatalf("%s, pi %v: cut after %d: n %d, keep %d", h.Kind, h.PI, cut, n, keep)
			}
		}
		if _, _, n, keep := ScanHello(frame, nonceA, AnyForm); n != 0 || keep != 0 {
			t.Errorf("no hello: n %d, keep %d", n, keep)
		}
	}
	// A damaged one is passed over, and what was kept is let go.
	h := hello(DeviceTAP, false)
	h.Ack, h.Peer = true, nonceA
	b := mustPacket(t, h)
	b[30] ^= 1
	if _, _, n, keep := ScanHello(b, nonceA, AnyForm); n != 0 || keep != 0 {
		t.Errorf("damaged: n %d, keep %d", n, keep)
	}
}

func TestNewNonce(t *testing.T) {
	a, b := NewNonce(), NewNonce()
	if a == (Nonce{}) || a == b {
		t.Errorf("%x %x", a, b)
	}
}
