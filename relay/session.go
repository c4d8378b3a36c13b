package relay

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Config says how a session runs.
type Config struct {
	LeftToRight, RightToLeft bool

	BufferSize int           // -b: bytes a read takes at most from a stream, 0: the relay's own choice
	Linger     time.Duration // -t: after the end of one direction, how long the other may be idle
	Idle       time.Duration // -T: end the session after this time without traffic, 0: never
	Log        *Log
	Dump       *Dump // -v -x -r -R: sees everything that passes; nil: nobody looks

	Identity [16]byte // of the tunnel, told to the peer; zero: none
	Streams  Streams  // told to the peer: this session is one of several of one tunnel, or may be; zero: it is the only one
	// Admit is called once before the first packet moves: an error ends the session, and the peer is told. nil: everybody is welcome.
	Admit func(PeerInfo) error
	// Up is called once when traffic can flow; it must return soon.
	Up func(PeerInfo)
}

// Count is what passed in one direction.
type Count struct {
	Packets uint64 // packets, or blocks of a byte stream
	Bytes   uint64 // payload, without framing
	Lost    uint64 // packets that were not delivered; the log said why
	Way     string // how it went: "copy", "splice", "sendfile", "packets", "framed link", ...
}

// Stats are the counts of both directions. They may be read while the session runs.
type Stats struct{ LeftToRight, RightToLeft Count }

// Session joins two endpoints.
type Session struct {
	cfg         Config
	left, right *Endpoint
	ltr, rtl    *direction    // nil: not used
	link        *link         // nil: no hello is exchanged; set once, with mu held
	why         atomic.Uint32 // the CloseCode that the peer of a link is told at the end

	epoch time.Time
	last  atomic.Int64 // when data passed last, nanoseconds after epoch

	mu        sync.Mutex
	running   int         // directions that have not ended
	stopping  atomic.Bool // the halves have been interrupted; stored with mu held
	lingering bool        // one direction has ended
	timer     *time.Timer // ends an idle session
	err       error       // what ended the session, nil for a wanted end
	gone      error       // the peer of a link took no more frames; what it has said before tells whether that was an end or an accident

	admitting sync.Once
	admitErr  error

	done       func(error)    // of Start
	unfollow   func() bool    // the context of Start concerns the session no more
	unfinished atomic.Int32   // directions whose goroutines run
	programs   sync.WaitGroup // goroutines of watchProgram
	over       chan struct{}  // closed when these must end; nil: there are none
}

// direction is one half of the traffic: src is read, dst is written.
type direction struct {
	s        *Session
	name     string // "left to right"
	arrow    byte   // '>' or '<'
	number   int    // of the source, for messages: 1 left, 2 right
	src, dst *Endpoint
	way      atomic.Pointer[string]

	packets, bytes, lost atomic.Uint64
	ended                atomic.Bool // src is a program that is gone: an expired read is its end
	complaints           Limiter
	merged               func(packets, bytes int, err error) error // putMerged, made once
}

// NewSession prepares a session. It owns the endpoints from now on; Run closes them.
func NewSession(left, right *Endpoint, c Config) *Session {
	s := &Session{cfg: c, left: left, right: right, epoch: time.Now()}
	if c.LeftToRight && left.R != nil && right.W != nil {
		s.ltr = &direction{s: s, name: "left to right", arrow: '>', number: 1, src: left, dst: right}
	}
	if c.RightToLeft && right.R != nil && left.W != nil {
		s.rtl = &direction{s: s, name: "right to left", arrow: '<', number: 2, src: right, dst: left}
	}
	for _, pair := range [][2]*Endpoint{{left, right}, {right, left}} {
		if pair[0].Admit != nil {
			s.cfg.Admit = admitBoth(s.cfg.Admit, func(info PeerInfo) error { return pair[0].Admit(s, pair[1], info) })
		}
	}
	return s
}

// Run joins two endpoints until both directions have ended, ctx is cancelled, or a limit of c runs out; these are no errors. It closes both endpoints.
func Run(ctx context.Context, left, right *Endpoint, c Config) (Stats, error) {
	s := NewSession(left, right, c)
	err := s.Run(ctx)
	return s.Stats(), err
}

// Run runs the session once, to its end.
func (s *Session) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	s.Start(ctx, func(err error) { ended <- err })
	return <-ended
}

// Start begins to run the session, once, and returns. When all has ended and is closed, done is called with the session's error: by the last goroutine of the session, or by Start itself
// if nothing came to move.
//
// Each direction has a goroutine that begins here, with nothing below it on its stack: what waits there fits the smallest stack (2 KiB). On top of the calls that have opened the
// endpoints it would take two or four times as much, for as long as the session is idle.
func (s *Session) Start(ctx context.Context, done func(error)) {
	s.done = done
	moving, err := s.begin(ctx)
	if !moving {
		s.close(err)
		return
	}
	if s.running == 0 {
		s.end()
		return
	}
	s.unfinished.Store(int32(s.running))
	for _, d := range []*direction{s.ltr, s.rtl} {
		if d != nil {
			go d.main()
		}
	}
}

// main is the goroutine of a direction. The last of them ends the session.
func (d *direction) main() {
	d.s.ended(d, d.run())
	if d.s.unfinished.Add(-1) == 0 {
		d.s.end()
	}
}

// begin does all that comes before data move; moving says whether any will.
func (s *Session) begin(ctx context.Context) (moving bool, err error) {
	if err := s.prepare(); err != nil {
		return false, err
	}
	if s.stopping.Load() {
		return false, s.err
	}
	if s.cfg.Log.Enabled(Notice) {
		s.cfg.Log.Noticef("starting data transfer loop with FDs %s and %s", s.left.fds(), s.right.fds())
	}
	s.touch()
	if s.link == nil {
		if err := s.admitPlain(); err != nil {
			return false, err
		}
	} else {
		s.link.greet() // before anything of the peer is heard, so that its hello comes first
	}
	s.unfollow = context.AfterFunc(ctx, s.interrupt)
	if s.cfg.Idle > 0 {
		s.mu.Lock()
		s.timer = time.AfterFunc(s.cfg.Idle, s.checkIdle)
		s.mu.Unlock()
	}
	for _, e := range []*Endpoint{s.left, s.right} {
		if e.Ended != nil {
			if s.over == nil {
				s.over = make(chan struct{})
			}
			s.programs.Go(func() { s.watchProgram(e, s.over) })
		}
	}
	return true, nil
}

// end comes after both directions.
func (s *Session) end() {
	if s.link != nil {
		s.link.quit()
	}
	s.mu.Lock()
	if s.timer != nil {
		s.timer.Stop()
	}
	err := s.err
	if err == nil {
		err = s.gone
	}
	s.mu.Unlock()
	for _, d := range []*direction{s.ltr, s.rtl} {
		if d != nil {
			d.lostSilently()
		}
	}
	if s.over != nil {
		close(s.over)
		s.programs.Wait()
	}
	s.unfollow()
	s.setCarrier(false)
	s.close(err)
}

// close closes both endpoints and tells who waits.
func (s *Session) close(err error) {
	// The far side of a pipeline ends after the near one: close the reader of data last, so that a program sees its end of file first.
	for _, e := range []*Endpoint{s.left, s.right} {
		if cerr := e.close(); cerr != nil && err == nil {
			err = errors.Wrap(cerr, e.Label)
		}
	}
	s.done(err)
}

// prepare settles how the two endpoints meet, before anything moves.
func (s *Session) prepare() error {
	for _, d := range []*direction{s.ltr, s.rtl} {
		if d != nil {
			s.running++
		}
	}
	return s.prepareFraming()
}

// touch notes that data passed.
func (s *Session) touch() { s.last.Store(int64(time.Since(s.epoch))) }

// ended takes the end of a direction: nil for the end of its data.
func (s *Session) ended(d *direction, err error) {
	framed := s.link.carries(d)
	s.mu.Lock()
	s.running--
	stopping := s.stopping.Load()
	switch {
	case err == nil, stopping && errors.Is(err, os.ErrDeadlineExceeded):
		err = nil
	case d.dst.GoneIsEnd && errors.Is(err, errGone):
		s.cfg.Log.Noticef("%v", err)
		err = nil
	case framed && !stopping && s.running > 0 && errors.Is(err, errGone):
		s.gone, err = err, nil
	case stopping:
		s.cfg.Log.Infof("%s: %v", d.name, err)
		err = nil
	default:
		if s.err == nil {
			s.err = err
		}
	}
	others := s.running
	s.mu.Unlock()
	if err != nil {
		s.interrupt()
		return
	}
	if stopping {
		return
	}
	s.cfg.Log.Noticef("socket %d (fd %d) is at EOF", d.number, fdOf(d.src.R))
	if err := d.closeWrite(); err != nil {
		s.cfg.Log.Infof("%s: %v", d.dst.Label, err)
	}
	if others > 0 {
		s.touch()
		s.mu.Lock()
		s.lingering = true
		if s.timer != nil {
			s.timer.Stop()
		}
		s.timer = time.AfterFunc(s.limit(), s.checkIdle)
		s.mu.Unlock()
	}
}

// limit is how long the session may be idle. s.mu is held.
func (s *Session) limit() time.Duration {
	if s.lingering && (s.cfg.Idle == 0 || s.cfg.Linger < s.cfg.Idle) {
		return s.cfg.Linger
	}
	return s.cfg.Idle
}

// checkIdle runs when the session may have been idle long enough.
func (s *Session) checkIdle() {
	s.mu.Lock()
	limit := s.limit()
	idle := time.Since(s.epoch) - time.Duration(s.last.Load())
	if left := limit - idle; left > 0 && !s.stopping.Load() {
		s.timer.Reset(left)
		s.mu.Unlock()
		return
	}
	lingering := s.lingering
	s.mu.Unlock()
	if !lingering {
		s.cfg.Log.Noticef("inactivity timeout triggered")
	}
	s.interrupt()
}

// interrupt ends all waiting; the directions return soon after.
func (s *Session) interrupt() {
	s.mu.Lock()
	already, link := s.stopping.Swap(true), s.link
	s.mu.Unlock()
	if already {
		return
	}
	past := time.Unix(1, 0)
	for _, e := range []*Endpoint{s.left, s.right} {
		if e.R != nil {
			e.R.SetReadDeadline(past)
		}
		switch {
		case e.W == nil:
		case link != nil && link.stream == e: // a frame that is cut leaves no way to say anything after it
			e.W.SetWriteDeadline(time.Now().Add(lastWord))
		default:
			e.W.SetWriteDeadline(past)
		}
	}
	if link != nil {
		link.stop()
	}
}

// peerClosed ends the session because the peer of its link said so.
func (s *Session) peerClosed() {
	s.mu.Lock()
	s.gone = nil
	s.mu.Unlock()
	s.interrupt()
}

// fail ends the session with an error from outside the two pumps.
func (s *Session) fail(err error) {
	s.mu.Lock()
	if s.err == nil && !s.stopping.Load() {
		s.err = err
	}
	s.mu.Unlock()
	s.interrupt()
}

// Label names the session by its endpoints.
func (s *Session) Label() string { return s.left.Label + " " + s.right.Label }

// Stats returns what passed so far.
func (s *Session) Stats() Stats {
	return Stats{s.ltr.count(), s.rtl.count()}
}

func (d *direction) count() Count {
	if d == nil {
		return Count{}
	}
	c := Count{Packets: d.packets.Load(), Bytes: d.bytes.Load(), Lost: d.lost.Load()}
	if w := d.way.Load(); w != nil {
		c.Way = *w
	}
	return c
}

// took counts n bytes that were delivered in one piece.
func (d *direction) took(n int) {
	d.packets.Add(1)
	d.bytes.Add(uint64(n))
	d.s.touch()
}

// setWay notes how data travel, for the statistics.
func (d *direction) setWay(way string) {
	if w := d.way.Load(); w == nil || *w != way {
		now := way // a copy, so that a call that changes nothing allocates nothing
		d.way.Store(&now)
		d.s.cfg.Log.Infof("%s: %s", d.name, way)
	}
}

// readError and writeError name the endpoint in an error of the transfer.
func (d *direction) readError(err error) error {
	switch {
	case err == io.EOF, d.ended.Load() && errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case d.dst.IsDevice() && errors.Is(err, ErrBrokenOff):
		d.s.cfg.Log.Noticef("%s: %v", d.src.Label, err)
		d.s.interrupt() // nobody reads what would go the other way
		return nil
	case d.src.Ended != nil && errors.Is(err, unix.ECONNRESET):
		return nil // after all that it wrote: a program that ended without reading all its input
	case d.src.W != nil && d.src.GoneIsEnd && errors.Is(err, unix.ECONNRESET):
		// What we wrote reached a peer that was gone. Which of our halves hears of it is chance.
		d.s.cfg.Log.Noticef("%s: read: %v", d.src.Label, err)
		return nil
	}
	d.s.deviceFailed(d.src, err)
	return errors.Wrapf(err, "%s: read", d.src.Label)
}

func (d *direction) writeError(err error) error {
	if isGone(err) {
		err = goneError{err}
	}
	d.s.deviceFailed(d.dst, err)
	return errors.Wrapf(err, "%s: write", d.dst.Label)
}

// deviceFailed notes what the peer of a link is to be told if it was the device that failed.
func (s *Session) deviceFailed(e *Endpoint, err error) {
	if e.IsDevice() && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, os.ErrClosed) {
		s.why.CompareAndSwap(uint32(CloseNormal), uint32(CloseDevice))
	}
}

// closeWrite tells dst that no more will come.
func (d *direction) closeWrite() error {
	if l := d.s.link; l != nil && d.dst == l.stream {
		l.finish()
	}
	return d.dst.W.CloseWrite()
}

// run moves data from src to dst until the end.
func (d *direction) run() error {
	switch {
	case d.src.Traffic == Stream && d.dst.Traffic == Stream:
		return d.copyStream()
	case d.src.Traffic != Stream && d.dst.Traffic != Stream:
		return d.copyPackets()
	case d.dst.Traffic == Stream:
		return d.framePackets()
	}
	return d.deframePackets()
}

// fds lists the descriptors of an endpoint as socat's log does: "[3,3]".
func (e *Endpoint) fds() string { return fmt.Sprintf("[%d,%d]", fdOf(e.R), fdOf(e.W)) }

// fdOf returns the descriptor of a half, -1 if it has none.
func fdOf(half any) int {
	if f, ok := half.(interface{ Fd() int }); ok {
		return f.Fd()
	}
	return -1
}

// isGone says that a descriptor's other side has closed it.
func isGone(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
}

// errGone is the kind of a write error that says that the far side is gone. A read error of the same number is no such thing.
var errGone = errors.New("far side is gone")

type goneError struct{ error }

func (g goneError) Is(target error) bool { return target == errGone }
func (g goneError) Unwrap() error        { return g.error }
