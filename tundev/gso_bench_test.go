package tundev

import (
	"fmt"
	"io"
	"testing"
)

func BenchmarkChecksum(b *testing.B) {
	for _, n := range []int{64, 1500, 65000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			buf := testBytes(n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			var sum uint16
			for b.Loop() {
				sum += Checksum(buf)
			}
			_ = sum
		})
	}
}

// benchShapes are the packets of a bulk transfer.
var benchShapes = map[string]pktSpec{
	"tcp4": {tcpOpts: timestamps},
	"tcp6": {v6: true, tcpOpts: timestamps},
	"udp4": {udp: true},
}

func BenchmarkValidate(b *testing.B) {
	for name, s := range benchShapes {
		b.Run(name, func(b *testing.B) {
			s.payload = testBytes(44 * 1448)
			h, pkt := s.buildGSO(1448)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h.Validate(pkt, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSplit(b *testing.B) {
	for name, s := range benchShapes {
		b.Run(name, func(b *testing.B) {
			s.payload = testBytes(44 * 1448)
			h, pkt := s.buildGSO(1448)
			dst := make([]byte, 1<<17)
			var sp Splitter
			b.SetBytes(int64(len(pkt)))
			b.ReportAllocs()
			for b.Loop() {
				if err := sp.Reset(h, pkt, false); err != nil {
					b.Fatal(err)
				}
				used := 0
				for n := sp.Size(); n > 0; n = sp.Size() {
					if _, err := sp.Next(dst[used+4:]); err != nil {
						b.Fatal(err)
					}
					used += 4 + n
				}
			}
		})
	}
}

func BenchmarkComplete(b *testing.B) {
	for name, s := range benchShapes {
		b.Run(name, func(b *testing.B) {
			s.payload = testBytes(1448)
			h, pkt := s.buildGSO(0)
			b.SetBytes(int64(len(pkt)))
			b.ReportAllocs()
			for b.Loop() {
				if err := Complete(h, pkt); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCoalesce(b *testing.B) {
	for name, s := range benchShapes {
		b.Run(name, func(b *testing.B) {
			pkts := train(s, 44, 1448)
			c := NewCoalescer(false, true)
			dst := make([]byte, 1<<17)
			b.SetBytes(int64(len(pkts) * len(pkts[0])))
			b.ReportAllocs()
			for b.Loop() {
				for _, p := range pkts {
					c.Add(p)
				}
				for {
					if _, _, err := c.Next(dst); err == io.EOF {
						break
					} else if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// TestNoAllocation keeps the inner loops free of allocation, refusals included.
func TestNoAllocation(t *testing.T) {
	s := pktSpec{ethernet: true, tcpOpts: timestamps, payload: testBytes(20000)}
	h, pkt := s.buildGSO(1448)
	bad := h
	bad.CsumOffset++
	pkts := train(s, 30, 1448)
	c := NewCoalescer(true, true)
	dst := make([]byte, 1<<17)
	var sp Splitter
	if n := testing.AllocsPerRun(20, func() {
		if _, err := bad.Validate(pkt, true); err != ErrVNetCsum {
			t.Error(err)
		}
		if err := sp.Reset(h, pkt, true); err != nil {
			t.Error(err)
		}
		for sp.Size() > 0 {
			if _, err := sp.Next(dst); err != nil {
				t.Error(err)
			}
		}
		for _, p := range pkts {
			c.Add(p)
		}
		for c.Size() > 0 {
			if _, _, err := c.Next(dst); err != nil {
				t.Error(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations a round", n)
	}
}
