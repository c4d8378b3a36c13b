package relay

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Up is called once, when traffic can flow, and says how.
func TestUp(t *testing.T) {
	sides := func(left, right *Endpoint, c Config) (ups chan PeerInfo, end func()) {
		ups = make(chan PeerInfo, 8)
		c.Up = func(p PeerInfo) { ups <- p }
		c.LeftToRight, c.RightToLeft = true, true
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			Run(ctx, left, right, c)
		}()
		return ups, func() { cancel(); <-done }
	}
	for _, c := range []struct {
		name    string
		traffic Traffic // of the device, Stream: none
		over    int     // type of the socket
		framing Framing
		peer    bool // a second end with a device
		want    PeerInfo
	}{
		{"bytes", Stream, unix.SOCK_STREAM, FramingUnset, false, PeerInfo{Framing: "none"}},
		{"link", TAP, unix.SOCK_STREAM, FramingAuto, true, PeerInfo{Framing: "link", MTU: 1500, Software: Software, Framed: true}},
		{"nobody answers", TUN, unix.SOCK_STREAM, FramingAuto, false, PeerInfo{Framing: "none"}},
		{"qemu", TAP, unix.SOCK_STREAM, FramingQemu, false, PeerInfo{Framing: "qemu", Framed: true}},
		{"datagrams", TUN, unix.SOCK_DGRAM, FramingAuto, true, PeerInfo{Framing: "link", MTU: 1500, Software: Software, Framed: true}},
		{"datagrams, nobody answers", TUN, unix.SOCK_DGRAM, FramingAuto, false, PeerInfo{Framing: "none", Framed: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			near, far := pair(t, c.over)
			end := func(f *File) (dev, over *Endpoint) {
				over = streamEnd(f, c.framing)
				if c.over != unix.SOCK_STREAM {
					over.Traffic = Datagrams
				}
				over.HelloTimeout = 50 * time.Millisecond
				if c.peer {
					over.HelloTimeout = 20 * time.Second
				}
				if c.traffic == Stream {
					other, _ := pair(t, unix.SOCK_STREAM)
					return streamEnd(other, FramingUnset), over
				}
				dev, _ = device(t, c.traffic, false)
				return dev, over
			}
			dev, over := end(near)
			ups, stop := sides(dev, over, Config{})
			if c.peer {
				dev, over := end(far)
				others, stop := sides(dev, over, Config{})
				defer stop()
				if got := <-others; got != c.want {
					t.Errorf("the other end: %+v, wanted %+v", got, c.want)
				}
			}
			if got := <-ups; got != c.want {
				t.Errorf("%+v, wanted %+v", got, c.want)
			}
			stop()
			if len(ups) > 0 {
				t.Errorf("told again: %+v", <-ups)
			}
		})
	}
}
