package relay

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A program on this host that pours into a TCP connection without a pause wakes the relay 20 000 times a second, nearly for each segment, and waking costs more than moving what has come. So a source
// that has been that fast for a while wakes us once a mebibyte waits (SO_RCVLOWAT), which then goes through a pipe that holds it (docs/performance.md). The end of the stream wakes us at
// once all the same. What comes before a pause would not: then a timer takes the mark back, at which the kernel wakes us for whatever waits (Linux 4.17). So the last bytes before a pause may
// come a millisecond or two late. In a conversation they do not: the mark is set only after gatherAfter alone, without a pause and without a byte the other way, twice as many after each pause.
const (
	gatherSize  = 1 << 20          // bytes that are to wait, and the size of the pipe; the destination's queue is longQueue meanwhile
	gatherAfter = 64 << 20         // bytes that come without a pause before the mark is set
	gatherRate  = 2 << 30          // bytes a second that they come at, or more: gatherSize then takes half of gatherPause
	gatherPause = time.Millisecond // without gatherSize is a pause; the runtime's timers are no finer
)

// gatherer has a source gather bytes. All but mu and mark belong to the goroutine that moves data.
type gatherer struct {
	src   *File
	back  *atomic.Uint64 // bytes that went the other way
	heard uint64         // of them, at the last look
	never bool           // it is no TCP socket of ours alone, or the user has set a mark
	on    bool           // the source gathers, as far as we know: the timer may have taken the mark back
	need  int            // bytes from one look to the next
	left  int            // bytes until the next look
	since time.Time      // of the last look
	timer *time.Timer
	armed bool // the timer runs, as we wait for data

	mu   sync.Mutex
	mark bool // SO_RCVLOWAT is set
}

// newGatherer is for the source of one direction; back counts the bytes of the other one, nil if there is none.
func newGatherer(src *File, back *atomic.Uint64) *gatherer {
	return &gatherer{src: src, back: back, need: gatherAfter, never: !src.now || src.kind != unix.S_IFSOCK || !canGather(src)}
}

// start begins to count.
func (g *gatherer) start() {
	g.left, g.since = g.need, time.Now()
	if g.back != nil {
		g.heard = g.back.Load()
	}
}

// answered says whether anything has gone the other way since the last look.
func (g *gatherer) answered() bool { return g.back != nil && g.back.Load() != g.heard }

// paused takes the mark back and asks for more until the next time.
func (g *gatherer) paused() {
	g.stop()
	g.need *= 2
	g.start()
}

// canGather says whether a socket is one of TCP without a mark of the user's.
func canGather(f *File) bool {
	proto, low := 0, 0
	f.raw.Control(func(fd uintptr) {
		proto, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL)
		low, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT)
	})
	return proto == unix.IPPROTO_TCP && low == 1
}

// moved takes note of n bytes.
func (g *gatherer) moved(n int) {
	if g.never {
		return
	}
	if busyPipes.Load() > 1 {
		if g.on {
			g.stop()
		}
		g.left = g.need // the next look counts the time with others too, and so finds it slow
		return
	}
	if g.on && g.answered() {
		g.paused()
		return
	}
	if g.left -= n; g.left > 0 {
		return
	}
	fast := time.Since(g.since).Seconds()*gatherRate < float64(g.need)
	on := fast && !g.answered()
	g.start()
	if on != g.on {
		g.on = on
		g.setMark(on)
	}
}

// setMark sets the mark or takes it back. That it can't be set is no reason to end the transfer.
func (g *gatherer) setMark(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if on == g.mark {
		return
	}
	g.mark = on
	size := 1 // the system's own
	if on {
		size = gatherSize
	}
	g.src.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, size) })
}

// waits is called when there is nothing, or too little, to be read.
func (g *gatherer) waits() {
	if g.armed || !g.on {
		return
	}
	g.armed = true
	if g.timer == nil {
		g.timer = time.AfterFunc(gatherPause, func() { g.setMark(false) })
	} else {
		g.timer.Reset(gatherPause)
	}
}

// came is called when n bytes were read. What waited for the mark and was less than it came before a pause: the timer ended the wait, or the kernel for want of room.
func (g *gatherer) came(n int) {
	if !g.armed {
		return
	}
	g.armed = false
	if !g.timer.Stop() || n < gatherSize {
		g.paused()
	}
}

// stop takes the mark back.
func (g *gatherer) stop() {
	if g.timer != nil {
		g.timer.Stop()
	}
	g.armed, g.on = false, false
	g.setMark(false)
}
