package relay

import (
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Bytes from stream to stream. An idle direction holds no buffer: it is taken from a pool once data are there and given back after they are written. A source that fills
// the buffer twice in a row is a bulk transfer; if it is a socket and the other side takes splice(2), the bytes then go through a
// pooled pipe and never enter the program. When the transfer turns into small talk again, so does the way.
// A regular file goes by sendfile(2).
//
// A TCP socket that takes a bulk transfer keeps little that has not left yet (TCP_NOTSENT_LOWAT), for files nothing is done. Chosen by trial, see docs/performance.md: a transfer alone gains a sixth
// by a short queue, as the data stay in the caches, and pays with wake-ups; where several go on at once the wake-ups cost more than that brings, and the queue is longer.
const (
	shortQueue = 256 << 10 // bytes not sent yet at which such a socket takes more (TCP_NOTSENT_LOWAT)
	longQueue  = 2 << 20   // the same where others are busy too, or while the source gathers (gather.go)
	otherQueue = -1        // not ours to change: the user's, or that of no TCP socket
	copySize   = 64 << 10  // bytes a read takes
	pipeSize   = 256 << 10 // of the pipes that splice goes through, unless the source gathers: 64 KiB is a quarter slower, more brings nothing
	smallReads = 16        // that many short moves in a row end splicing
)

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// copyStream moves bytes until src ends.
func (d *direction) copyStream() error {
	src, srcFile := d.src.R.(*File)
	dst, dstFile := d.dst.W.(*File)
	seen := d.s.cfg.Dump != nil || d.s.cfg.BufferSize > 0
	m := &mover{d: d, src: src, dst: dst, size: copySize}
	if d.s.cfg.BufferSize > 0 {
		m.size = d.s.cfg.BufferSize
	}
	if !srcFile {
		d.setWay("copy")
		return m.copyPlain()
	}
	kind := src.kind
	if kind == unix.S_IFREG && dstFile && dst.space == nil && !seen {
		done, err := m.sendFile()
		if done || err != nil {
			return err
		}
	}
	// splice(2) out of our pipe, which does not wait, does not wait either; so the destination must be one that the poller can wait for.
	m.maySplice = kind == unix.S_IFSOCK && dstFile && !dst.waits && !seen
	d.setWay("copy")
	for {
		bulk, err := m.copyUntilBulk()
		if !bulk {
			return err
		}
		small, err := m.splice()
		if !small {
			return err
		}
		d.setWay("copy")
	}
}

// keepQueueShort sets TCP_NOTSENT_LOWAT of a TCP destination, unless the user has. Others have no such thing: then nothing happens.
func (m *mover) keepQueueShort() {
	if m.queue != 0 || m.dst == nil {
		return
	}
	m.queue = otherQueue
	if n, err := unix.GetsockoptInt(m.dst.fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); err == nil && n == 0 {
		m.setQueue(shortQueue)
	}
}

// growPipe gives the pipe of a bulk transfer the size of ours, unless it is larger: 64 KiB, the default, costs standard input a tenth. Beyond the user's pipe quota it stays as it is.
func (f *File) growPipe() {
	if f == nil || f.kind != unix.S_IFIFO {
		return
	}
	if n, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETPIPE_SZ, 0); err == nil && n < pipeSize {
		unix.FcntlInt(uintptr(f.fd), unix.F_SETPIPE_SZ, pipeSize)
	}
}

// setQueue sets TCP_NOTSENT_LOWAT: a hint, without it the transfer is right as well.
func (m *mover) setQueue(bytes int) {
	m.queue = bytes
	unix.SetsockoptInt(m.dst.fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes)
}

// fileType returns the S_IFMT bits of a descriptor, 0 if unknown.
func fileType(fd int) uint32 {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0
	}
	return st.Mode & unix.S_IFMT
}

// mover is the state of one stream direction.
type mover struct {
	d         *direction
	src, dst  *File // nil where the half is no plain descriptor
	size      int
	maySplice bool
	queue     int  // TCP_NOTSENT_LOWAT of dst, as set by us; 0: not yet; or otherQueue
	crowded   bool // others were busy too

	buf  []byte // taken while it holds data
	n    int    // result of the last raw call
	err  error
	left int // bytes in pipe

	pipe   *splicePipe
	gather *gatherer // nil: has not spliced yet
}

func (m *mover) take() {
	if m.size == copySize {
		m.buf = copyBuffers.Get().(*[copySize]byte)[:]
	} else if m.buf == nil {
		m.buf = make([]byte, m.size)
	}
}

func (m *mover) give() {
	if m.size == copySize && m.buf != nil {
		copyBuffers.Put((*[copySize]byte)(m.buf))
		m.buf = nil
	}
}

// copyPlain copies between halves that are no plain descriptors.
func (m *mover) copyPlain() error {
	m.take()
	defer m.give()
	for {
		if m.d.s.stopping.Load() {
			return os.ErrDeadlineExceeded
		}
		n, err := m.d.src.R.Read(m.buf)
		if n > 0 {
			if werr := m.deliver(m.buf[:n]); werr != nil {
				return werr
			}
		}
		if err != nil {
			return m.d.readError(err)
		}
	}
}

// deliver writes a block.
func (m *mover) deliver(p []byte) error {
	m.d.s.cfg.Dump.see(m.d, p)
	n, err := m.d.dst.W.Write(p)
	if n > 0 {
		m.d.took(n)
	}
	if err != nil {
		return m.d.writeError(err)
	}
	return nil
}

// copyUntilBulk copies until the end (false) or until the source fills the buffer twice in a row (true).
func (m *mover) copyUntilBulk() (bulk bool, err error) {
	read := m.readBuffer
	full := 0
	for {
		if m.d.s.stopping.Load() { // two files never wait, and so have no deadlines
			return false, os.ErrDeadlineExceeded
		}
		if err := m.src.readRaw(read); err != nil {
			return false, m.d.readError(err)
		}
		if m.err != nil {
			return false, m.d.readError(m.err)
		}
		err := m.deliver(m.buf[:m.n])
		filled := m.n == len(m.buf)
		m.give()
		if err != nil {
			return false, err
		}
		if !filled {
			full = 0
		} else if full++; full == 2 {
			m.keepQueueShort()
			m.src.growPipe()
			m.dst.growPipe()
			if m.maySplice {
				return true, nil
			}
		}
	}
}

// readBuffer takes a buffer and fills it, or gives it back if there is nothing yet.
func (m *mover) readBuffer(fd uintptr) bool {
	m.take()
	if m.src.now {
		m.n, m.err = ReadNow(int(fd), m.buf)
	} else {
		m.n, m.err = ignoringEINTR(func() (int, error) { return unix.Read(int(fd), m.buf) })
	}
	switch {
	case m.err == unix.EAGAIN:
		m.give()
		return false
	case m.err == nil && m.n == 0:
		m.err = io.EOF
	}
	if m.err != nil {
		m.give()
	}
	return true
}

// splicePipe is a pipe that data pass through on their way between two descriptors; empty while it is in the pool.
type splicePipe struct {
	r, w int
	size int // as asked for
}

var splicePipes = sync.Pool{New: func() any { return newSplicePipe() }}

var busyPipes atomic.Int32 // that are not in the pool: transfers that move data at this moment

// newSplicePipe returns nil if the process has no descriptors left: copying goes on without.
func newSplicePipe() *splicePipe {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // beyond the user's pipe quota it stays at 64 KiB
	p := &splicePipe{fds[0], fds[1], pipeSize}
	// The pool forgets pipes at its own time; so does whoever drops one with data in it.
	runtime.AddCleanup(p, func(fds [2]int) { unix.Close(fds[0]); unix.Close(fds[1]) }, fds)
	return p
}

// grow makes a pipe larger, as far as the user's pipe quota goes.
func (p *splicePipe) grow(size int) {
	if p.size < size {
		p.size = size
		unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, size)
	}
}

// splice moves data inside the kernel until the end (false), or until the moves become small or splice turns out to be impossible (true).
func (m *mover) splice() (small bool, err error) {
	defer m.dropPipe()
	if m.gather == nil {
		m.gather = newGatherer(m.src, m.d.back())
	}
	m.gather.start()
	defer m.gather.stop()
	in, out := m.spliceIn, m.spliceOut
	for short := 0; short < smallReads; {
		if err := m.src.readRaw(in); err != nil {
			return false, m.d.readError(err)
		}
		switch {
		case m.err == unix.EINVAL || m.err == unix.ENOSYS || m.err == errNoPipe:
			m.maySplice = false
			return true, nil
		case m.err != nil:
			return false, m.d.readError(m.err)
		}
		n := m.n
		m.adjust(n)
		for m.left = n; m.left > 0; {
			if err := m.dst.raw.Write(out); err != nil {
				return false, m.d.writeError(bare(err))
			}
			if m.err == unix.EINVAL {
				m.maySplice = false
				return true, m.emptyPipe()
			}
			if m.err != nil {
				return false, m.d.writeError(m.err)
			}
			m.left -= m.n
		}
		m.d.setWay("splice")
		m.d.took(n)
		m.dst.wrote(n)
		if n < copySize/8 {
			short++
		} else {
			short = 0
		}
	}
	return true, nil
}

// back returns the count of bytes of the other direction, nil if there is none.
func (d *direction) back() *atomic.Uint64 {
	switch {
	case d != d.s.ltr && d.s.ltr != nil:
		return &d.s.ltr.bytes
	case d != d.s.rtl && d.s.rtl != nil:
		return &d.s.rtl.bytes
	}
	return nil
}

// adjust suits the way to the transfer, of which n bytes have just come.
func (m *mover) adjust(n int) {
	if m.queue == otherQueue {
		return
	}
	m.gather.moved(n)
	m.crowded = m.crowded || busyPipes.Load() > 1
	want := shortQueue
	if m.crowded || m.gather.on {
		want = longQueue
	}
	if want != m.queue {
		m.setQueue(want)
	}
}

var errNoPipe = errors.New("no pipe to be had")

func (m *mover) spliceIn(fd uintptr) bool {
	if m.pipe == nil {
		if m.pipe = splicePipes.Get().(*splicePipe); m.pipe == nil {
			m.err = errNoPipe
			return true
		}
		busyPipes.Add(1)
	}
	if m.gather.on {
		m.pipe.grow(gatherSize)
	}
	m.n, m.err = m.spliceSome(int(fd), m.pipe.w, gatherSize)
	switch {
	case m.err == unix.EAGAIN:
		m.gather.waits()
		m.dropPipe() // an idle session holds no pipe
		return false
	case m.err == nil && m.n == 0:
		m.err = io.EOF
	}
	m.gather.came(m.n)
	return true
}

func (m *mover) spliceOut(fd uintptr) bool {
	m.n, m.err = m.spliceSome(m.pipe.r, int(fd), m.left)
	return m.err != unix.EAGAIN
}

// spliceSome moves at most size bytes between a descriptor and the pipe.
func (m *mover) spliceSome(from, to, size int) (int, error) {
	if m.src.now && m.dst.now {
		return spliceNow(from, to, size)
	}
	n, err := ignoringEINTR(func() (int, error) {
		n, err := unix.Splice(from, nil, to, nil, size, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		return int(n), err
	})
	return max(n, 0), err
}

// emptyPipe writes by hand what a destination without splice left in the pipe.
func (m *mover) emptyPipe() error {
	buf := make([]byte, m.left)
	for m.left > 0 {
		n, err := ignoringEINTR(func() (int, error) { return unix.Read(m.pipe.r, buf[:m.left]) })
		if err != nil {
			return m.d.readError(err)
		}
		m.left -= n
		if err := m.deliver(buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// dropPipe gives the pipe back, or closes it if data are left in it.
func (m *mover) dropPipe() {
	if m.pipe == nil {
		return
	}
	busyPipes.Add(-1)
	if m.left == 0 {
		splicePipes.Put(m.pipe)
	}
	m.pipe = nil // a pipe with data in it is closed when it is collected
}

// sendFile moves a regular file to any descriptor. done is false if the destination does not take sendfile and nothing was moved.
func (m *mover) sendFile() (done bool, err error) {
	send := func(fd uintptr) bool {
		m.n, m.err = ignoringEINTR(func() (int, error) { return unix.Sendfile(int(fd), m.src.fd, nil, 1<<20) })
		return m.err != unix.EAGAIN
	}
	for moved := false; ; moved = true {
		if m.d.s.stopping.Load() {
			return true, os.ErrDeadlineExceeded
		}
		if err := m.dst.raw.Write(send); err != nil {
			return true, m.d.writeError(bare(err))
		}
		switch {
		case !moved && (m.err == unix.EINVAL || m.err == unix.ENOSYS || m.n == 0):
			return false, nil // a file in /proc says 0 too: reading decides
		case m.err != nil:
			return true, m.d.writeError(m.err)
		case m.n == 0:
			return true, nil
		}
		m.d.setWay("sendfile")
		m.d.took(m.n)
		m.dst.wrote(m.n)
	}
}
