package relay

import (
	"bytes"
	"hash/crc32"
	"reflect"
	"testing"
)

func seedHellos(f *testing.F, add func(b []byte)) {
	for _, name := range vectorNames(f) {
		b, _ := vector(f, name)
		add(b)
	}
}

// Whatever is taken for a hello can be sent, and is the same then, but for what it
// had that is not known here.
func FuzzHello(f *testing.F) {
	seedHellos(f, func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		checkHello(t, b)
		// Behind a right checksum more is reached.
		fixed := bytes.Clone(b)
		for _, form := range helloForms {
			at := len(form.head) + 12
			if !prefixMatches(fixed, form.head, form.mask) || len(fixed) < at {
				continue
			}
			if n := bodyLen(fixed[len(form.head):]); n > 0 && len(fixed) >= len(form.head)+n {
				body := fixed[len(form.head) : len(form.head)+n]
				sum := crc32.ChecksumIEEE(body[:n-4])
				copy(body[n-4:], []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
			}
		}
		checkHello(t, fixed)
	})
}

func checkHello(t *testing.T, b []byte) {
	h, n, more, err := FindHello(b)
	switch {
	case n < 0 || n > len(b) || n > MaxHello || (n > 0 && more) || (n == 0 && err != nil):
		t.Fatalf("%d of %d bytes, more %v, %v", n, len(b), more, err)
	case more && len(b) >= MaxHello:
		t.Fatalf("more than %d bytes are wanted", len(b))
	case n == 0 || err != nil:
		return
	}
	// Text grows by nothing when it is made printable.
	out, err := h.AppendPacket(nil)
	if err != nil {
		t.Fatalf("%+v cannot be sent: %v", h, err)
	}
	again, err := ParseHello(out)
	if err != nil || !reflect.DeepEqual(h, again) {
		t.Fatalf("%+v\n%+v\n%v", h, again, err)
	}
}

func FuzzScanHello(f *testing.F) {
	seedHellos(f, func(b []byte) { f.Add(b, uint8(AnyForm)); f.Add(append([]byte("\x00\x00\x88"), b...), uint8(FormTAP)) })
	f.Fuzz(func(t *testing.T, b []byte, forms uint8) {
		h, off, n, keep := ScanHello(b, nonceA, HelloForm(forms))
		if n > 0 {
			if off < 0 || off+n > len(b) || keep != 0 || !h.Acks(nonceA) {
				t.Fatalf("off %d, n %d, keep %d of %d bytes", off, n, keep, len(b))
			}
			if _, err := ParseHello(b[off : off+n]); err != nil {
				t.Fatal(err)
			}
			return
		}
		if keep < 0 || keep > len(b) || keep >= MaxHello {
			t.Fatalf("keep %d of %d bytes", keep, len(b))
		}
		// What is not kept is no part of a hello: a whole one behind it is found where
		// it begins.
		own := hello(DeviceTAP, false)
		own.Ack, own.Peer = true, nonceA
		pkt := mustPacket(t, own)
		whole := append(bytes.Clone(b[:len(b)-keep]), pkt...)
		if _, off, n, _ := ScanHello(whole, nonceA, FormTAP); HelloForm(forms)&FormTAP != 0 && (n != len(pkt) || off != len(b)-keep) {
			t.Fatalf("off %d, n %d behind %d bytes", off, n, len(b)-keep)
		}
	})
}
