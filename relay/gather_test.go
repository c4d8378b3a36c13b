package relay

import (
	"crypto/rand"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mark returns SO_RCVLOWAT.
func mark(t *testing.T, f *File) int {
	t.Helper()
	n, err := unix.GetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// gathering returns a gatherer that believes a source to have been fast.
func gathering(src *File) *gatherer {
	g := newGatherer(src, new(atomic.Uint64))
	busyPipes.Add(1) // ours
	defer busyPipes.Add(-1)
	g.start()
	g.since = time.Now().Add(time.Hour)
	g.moved(gatherAfter)
	return g
}

// gathered reads as spliceIn does. send is called once there is nothing to be read.
func gathered(t *testing.T, g *gatherer, src *File, send func()) (n int) {
	t.Helper()
	var p [8]byte
	var err error
	if rerr := src.readRaw(func(fd uintptr) bool {
		if n, err = ReadNow(int(fd), p[:]); err == unix.EAGAIN {
			g.waits()
			send()
			send = func() {}
			return false
		}
		g.came(n)
		return true
	}); rerr != nil || err != nil {
		t.Fatal(rerr, err)
	}
	return n
}

// What comes before a pause is not waited for in vain, and what comes after it is not waited for.
func TestGatherEndsWithAPause(t *testing.T) {
	src, from := tcpPair(t)
	g := gathering(src)
	if got := mark(t, src); !g.on || got != gatherSize {
		t.Fatalf("SO_RCVLOWAT of a fast source is %d, want %d", got, gatherSize)
	}
	for range 2 {
		if n := gathered(t, g, src, func() { from.Write([]byte("last")) }); n != 4 {
			t.Fatalf("%d bytes came", n)
		}
	}
	if got := mark(t, src); g.on || got != 1 || g.need != 2*gatherAfter {
		t.Errorf("after a pause SO_RCVLOWAT is %d, and the next look after %d bytes", got, g.need)
	}
	g.stop()
}

// What is answered is a conversation.
func TestGatherEndsWithAnAnswer(t *testing.T) {
	src, _ := tcpPair(t)
	g := gathering(src)
	g.back.Add(1)
	g.moved(1)
	if got := mark(t, src); g.on || got != 1 || g.need != 2*gatherAfter {
		t.Errorf("after an answer SO_RCVLOWAT is %d, and the next look after %d bytes", got, g.need)
	}
}

// The end of the stream is no pause.
func TestGatherSeesTheEnd(t *testing.T) {
	src, from := tcpPair(t)
	g := gathering(src)
	defer g.stop()
	g.timer = time.NewTimer(time.Hour) // is no help
	g.armed = true
	if n := gathered(t, g, src, func() { from.Write([]byte("last")); from.Close() }); n != 4 {
		t.Errorf("%d bytes came", n)
	}
	if n := gathered(t, g, src, func() {}); n != 0 {
		t.Errorf("%d bytes came after the end", n)
	}
}

// A source that is slow, beside others or answered, or that has a mark of the user's gets none.
func TestGatherOnlyFastSources(t *testing.T) {
	for _, c := range []struct {
		name   string
		mark   int
		since  time.Duration // of the last look
		others int32
		back   uint64 // bytes the other way
	}{
		{"slow", 1, -time.Minute, 0, 0},
		{"beside others", 1, time.Hour, 1, 0},
		{"answered", 1, time.Hour, 0, 1},
		{"marked by the user", 7, time.Hour, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			src, _ := tcpPair(t)
			if err := unix.SetsockoptInt(src.fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, c.mark); err != nil {
				t.Fatal(err)
			}
			busyPipes.Add(1 + c.others)
			defer busyPipes.Add(-1 - c.others)
			var back atomic.Uint64
			g := newGatherer(src, &back)
			g.start()
			g.since = time.Now().Add(c.since)
			back.Add(c.back)
			g.moved(gatherAfter)
			if got := mark(t, src); g.on || got != c.mark {
				t.Errorf("SO_RCVLOWAT is %d, want %d", got, c.mark)
			}
			g.stop()
			if got := mark(t, src); got != c.mark {
				t.Errorf("SO_RCVLOWAT is %d in the end, want %d", got, c.mark)
			}
		})
	}
}

// dropPipes waits at the end of the test until the pipes that it has left in the pool are closed: other tests count descriptors.
func dropPipes(t *testing.T) {
	t.Helper()
	before := descriptors(t)
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); descriptors(t) > before; runtime.GC() {
			if time.Now().After(end) {
				t.Fatalf("%d descriptors before, %d after", before, descriptors(t))
			}
		}
	})
}

// Bursts, each of which the peer answers, arrive whole, be they fast or slow.
func TestGatherBursts(t *testing.T) {
	dropPipes(t)
	src, from := tcpPair(t)
	dst, to := tcpPair(t)
	start(t, streamEnd(src, 0), streamEnd(dst, 0), Config{})
	const size = gatherAfter + gatherSize/3
	data := make([]byte, 1<<20)
	rand.Read(data)
	for round := range 3 {
		sent := make(chan error, 1)
		go func() {
			for left := size; left > 0; left -= len(data) {
				if _, err := from.Write(data[:min(left, len(data))]); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		if _, err := io.CopyN(io.Discard, to, size); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if _, err := to.Write([]byte("thanks")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(from, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
	}
}
