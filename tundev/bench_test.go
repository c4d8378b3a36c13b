package tundev

import (
	"testing"

	"golang.org/x/sys/unix"
)

const batchSize = 64

func BenchmarkWriteBatch(b *testing.B) {
	needDevices(b)
	d := mustOpen(b, Config{NetNS: newNS(b), Kind: TAP, FlagsSet: unix.IFF_UP})
	frame := append([]byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x88\xb5"), make([]byte, 1400)...)
	bufs := make([][]byte, batchSize)
	for i := range bufs {
		bufs[i] = frame
	}
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += batchSize {
		if _, err := d.WriteBatch(bufs[:min(batchSize, b.N-n)]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadBatch(b *testing.B) {
	needDevices(b)
	d, c := talker(b, Config{})
	bufs, sizes := make([][]byte, batchSize), make([]int, batchSize)
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	payload := make([]byte, 1400)
	b.ReportAllocs()
	b.ResetTimer()
	b.StopTimer()
	for n := 0; n < b.N; {
		for range min(batchSize, b.N-n) {
			if _, err := c.Write(payload); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		got, err := d.ReadBatch(bufs, sizes)
		b.StopTimer()
		if err != nil {
			b.Fatal(err)
		}
		n += got
	}
}

// TestBatchAllocs: the batch calls and the plain ones allocate nothing.
func TestBatchAllocs(t *testing.T) {
	needDevices(t)
	d, c := talker(t, Config{})
	bufs, sizes := [][]byte{make([]byte, 2048), make([]byte, 2048)}, make([]int, 2)
	payload := make([]byte, 100)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := c.Write(payload); err != nil {
			t.Fatal(err)
		}
		n, err := d.ReadBatch(bufs, sizes)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.WriteBatch(bufs[:n]); err == nil {
			_, err = d.Write(bufs[0][:sizes[0]])
			if err != nil && !PerPacket(err) {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
