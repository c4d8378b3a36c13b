package relay

import (
	"fmt"
	"testing"
)

// benchSizes are a small packet, a full one of Ethernet, and one of the kernel's GSO packets.
var benchSizes = []int{64, 1500, 65000}

func BenchmarkAppend(b *testing.B) { benchFramers(b, benchAppend) }
func BenchmarkNext(b *testing.B)   { benchFramers(b, benchNext) }

func benchFramers(b *testing.B, bench func(b *testing.B, f Framer, pkt []byte)) {
	for _, name := range []string{"link", "u16", "qemu", "slip", "none"} {
		for _, n := range benchSizes {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(n))
				bench(b, newFramers()[name], ip4(n))
			})
		}
	}
}

func benchAppend(b *testing.B, f Framer, pkt []byte) {
	buf := make([]byte, 0, f.MaxFrame())
	for b.Loop() {
		if _, err := f.Append(buf, pkt); err != nil {
			b.Fatal(err)
		}
	}
}

// benchNext takes one packet out of a buffer that holds several, as after a read.
func benchNext(b *testing.B, f Framer, pkt []byte) {
	var stream []byte
	for len(stream) < 65536 {
		stream = mustAppend(b, f, stream, pkt)
	}
	src := stream
	for b.Loop() {
		pkt, used, err := f.Next(src)
		if err != nil || used == 0 || pkt == nil {
			b.Fatal(used, err)
		}
		if src = src[used:]; len(src) <= 1 {
			src = stream
		}
	}
}

func BenchmarkPutHead(b *testing.B) {
	b.ReportAllocs()
	f := HeadFramer(&Link{})
	head := make([]byte, f.HeadLen())
	for b.Loop() {
		if err := f.PutHead(head, 1500); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScanHello looks through what one read of a bulk transfer brings.
func BenchmarkScanHello(b *testing.B) {
	stream := make([]byte, 0, 1<<16)
	for len(stream)+1514 < cap(stream) {
		stream = append(stream, unhex(b, "020000000002 020000000001 0800")...)
		stream = append(stream, ip4(1500)...)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		if _, _, n, _ := ScanHello(stream, nonceA, FormTAP); n != 0 {
			b.Fatal("found one")
		}
	}
}

func BenchmarkParseNoHello(b *testing.B) {
	pkt := ip4(1500)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseHello(pkt); err != ErrNotHello {
			b.Fatal(err)
		}
	}
}

// No packet costs an allocation, nor does noise on a serial line.
func TestPacketsAllocateNothing(t *testing.T) {
	for name, f := range newFramers() {
		pkt := ip4(200)
		stream := mustAppend(t, f, nil, pkt)
		dst := make([]byte, 0, f.MaxFrame())
		n := testing.AllocsPerRun(100, func() {
			if _, err := f.Append(dst, pkt); err != nil {
				t.Fatal(err)
			}
			if p, _, err := f.Next(stream); p == nil || err != nil {
				t.Fatal(err)
			}
			if _, err := ParseHello(pkt); err != ErrNotHello {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	slip, noise := NewSLIP(0), []byte("\xc0ab\xdbc\xc0")
	if n := testing.AllocsPerRun(100, func() { slip.Next(noise) }); n != 0 {
		t.Errorf("slip, damaged packets: %v allocations", n)
	}
}
