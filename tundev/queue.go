package tundev

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Queue is one open descriptor of a device. A device has one, or several if it was opened with MultiQueue. Reading and
// writing may go on at the same time from different goroutines.
type Queue struct {
	name    string
	file    *os.File
	conn    syscall.RawConn
	closed  atomic.Bool
	in, out batch
}

// batch is what one ReadBatch or WriteBatch needs while the runtime's poller calls back. It is kept, and step made
// once, so that a call allocates nothing.
type batch struct {
	mu    sync.Mutex // held during a call
	bufs  [][]byte
	sizes []int // reading only
	n     int   // packets done
	err   error
	step  func(fd uintptr) bool
	one   [1][]byte      // bufs of a single Write
	full  [1]unix.PollFd // writing only
}

// newQueue takes over the descriptor; it must be non-blocking and bound to its interface.
func newQueue(fd int, name string) (*Queue, error) {
	q := &Queue{name: name, file: os.NewFile(uintptr(fd), name)}
	conn, err := q.file.SyscallConn()
	if err != nil {
		_ = q.file.Close()
		return nil, errors.Wrap(err, name)
	}
	q.conn = conn
	q.in.step, q.out.step = q.in.read, q.out.write
	return q, nil
}

// Name returns the interface's name, as it was when the queue was opened.
func (q *Queue) Name() string { return q.name }

// Read waits for a packet and puts it, with its headers, into p. A packet longer than p is cut.
func (q *Queue) Read(p []byte) (int, error) {
	n, err := q.file.Read(p)
	if err != nil {
		err = q.readError(err)
	}
	return n, err
}

// Write gives one packet, with its headers, to the kernel: whole or not at all. Success does not mean that anybody
// took it. See PerPacket for errors that concern this packet only.
func (q *Queue) Write(p []byte) (int, error) {
	q.out.mu.Lock()
	defer q.out.mu.Unlock()
	q.out.one[0] = p
	_, err := q.writeAll(q.out.one[:])
	q.out.one[0] = nil
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// ReadBatch waits for a packet and then takes as many as are ready, without waiting for more: packet i fills the first
// sizes[i] bytes of bufs[i]. It returns the number of packets; sizes must be as long as bufs. A packet longer than its
// buffer is cut. An error comes with no packets: one that follows on packets is left for the next call.
func (q *Queue) ReadBatch(bufs [][]byte, sizes []int) (int, error) {
	if len(bufs) == 0 {
		return 0, nil
	}
	if len(sizes) < len(bufs) {
		return 0, errors.Errorf("read %s: %d buffers but %d sizes", q.name, len(bufs), len(sizes))
	}
	b := &q.in
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bufs, b.sizes, b.n, b.err = bufs, sizes, 0, nil
	err := q.conn.Read(b.step)
	b.bufs, b.sizes = nil, nil // they are the caller's
	if err == nil {
		err = b.err
	}
	if b.n > 0 || err == nil {
		return b.n, nil
	}
	return 0, q.readError(err)
}

// readError names what Go's poller says when a descriptor polls as an error and nothing else ("not pollable", an error
// that is not exported). A TUN/TAP descriptor does so only when its interface is gone or on its way out (tun_chr_poll
// in drivers/net/tun.c); a read at that moment may still find just nothing to read.
func (q *Queue) readError(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) || q.closed.Load() {
		return q.wrap("read", err)
	}
	return q.wrap("read", unix.EBADFD)
}

func (b *batch) read(fd uintptr) bool {
	for b.n < len(b.bufs) {
		n, err := unix.Read(int(fd), b.bufs[b.n])
		switch err {
		case nil:
			b.sizes[b.n] = n
			b.n++
		case unix.EINTR:
		case unix.EAGAIN:
			return b.n > 0
		default:
			b.err = err
			return true
		}
	}
	return true
}

// WriteBatch gives the packets to the kernel, one after another. It returns how many were taken; if that is fewer than
// len(bufs), the error is that of packet bufs[n]. After an error that concerns one packet only (see PerPacket) the
// caller goes on with bufs[n+1:]. It waits only if the device has a limited send buffer (see SetSendBuffer).
func (q *Queue) WriteBatch(bufs [][]byte) (int, error) {
	if len(bufs) == 0 {
		return 0, nil
	}
	q.out.mu.Lock()
	defer q.out.mu.Unlock()
	return q.writeAll(bufs)
}

// writeAll is called with out.mu held.
func (q *Queue) writeAll(bufs [][]byte) (int, error) {
	b := &q.out
	b.bufs, b.n, b.err = bufs, 0, nil
	err := q.conn.Write(b.step)
	b.bufs = nil
	if err == nil {
		err = b.err
	}
	if err != nil {
		return b.n, q.wrap("write", err)
	}
	return b.n, nil
}

func (b *batch) write(fd uintptr) bool {
	for b.n < len(b.bufs) {
		_, err := unix.Write(int(fd), b.bufs[b.n])
		switch err {
		case nil:
			b.n++
		case unix.EINTR:
		case unix.EAGAIN:
			if !b.writable(fd) {
				return false
			}
		default:
			b.err = err
			return true
		}
	}
	return true
}

// writable asks the device whether its send buffer has room. If not, the asking is what makes the kernel announce room
// later: tun_sock_write_space wakes nobody unless tun_chr_poll has found the buffer full before, and an edge-triggered
// epoll, such as the runtime's, never looks again by itself.
func (b *batch) writable(fd uintptr) bool {
	b.full[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}
	n, err := unix.Poll(b.full[:], 0)
	return n > 0 || err != nil // an error comes again from write, where it is told
}

// wrap makes an error of the batch calls look as one of os.File does.
func (q *Queue) wrap(op string, err error) error {
	var done *os.PathError
	if errors.As(err, &done) {
		return err
	}
	// the poller has an error of its own for this, which os.File translates but SyscallConn does not
	if q.closed.Load() {
		err = os.ErrClosed
	}
	return &os.PathError{Op: op, Path: q.name, Err: err}
}

// SyscallConn gives the descriptor, which is non-blocking and stays the queue's. Its Read may fail with Go's error "not
// pollable" where Read and ReadBatch would say that the device is gone.
func (q *Queue) SyscallConn() (syscall.RawConn, error) { return q.file.SyscallConn() }

// SetReadDeadline makes reads fail with os.ErrDeadlineExceeded from t on; the zero time takes that back.
func (q *Queue) SetReadDeadline(t time.Time) error { return q.file.SetReadDeadline(t) }

// SetWriteDeadline is the same for writes.
func (q *Queue) SetWriteDeadline(t time.Time) error { return q.file.SetWriteDeadline(t) }

// Close closes the descriptor, once; whoever waits in Read or Write gets os.ErrClosed. With the last queue the
// interface goes, unless it is persistent.
func (q *Queue) Close() error {
	q.closed.Store(true)
	return q.file.Close()
}

// SetOffload is Device.SetOffload, which all queues share, for a device that has the virtio-net header.
func (q *Queue) SetOffload(flags int) error {
	// netlink knows no such thing, and no privilege is needed
	return q.set(unix.TUNSETOFFLOAD, flags, "set offload")
}

// SetCarrier says whether the cable is plugged in, so to speak (Linux 5.0). Without carrier the interface takes no
// packets and routing daemons look elsewhere. Open always leaves it on.
func (q *Queue) SetCarrier(on bool) error {
	value := 0
	if on {
		value = 1
	}
	return q.setPointed(unix.TUNSETCARRIER, value, "set carrier")
}

// control runs a system call on the descriptor and gives its error.
func (q *Queue) control(fn func(fd int) error) error {
	var inner error
	if err := q.conn.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return q.wrap("ioctl", err)
	}
	return inner
}

// set runs an ioctl whose argument is the number itself.
func (q *Queue) set(req uint, value int, what string) error {
	return q.op(what, q.control(func(fd int) error { return unix.IoctlSetInt(fd, req, value) }))
}

// setPointed runs an ioctl whose argument is the address of a 32 bit number.
func (q *Queue) setPointed(req uint, value int, what string) error {
	return q.op(what, q.control(func(fd int) error { return unix.IoctlSetPointerInt(fd, req, value) }))
}

func (q *Queue) op(what string, err error) error {
	if err == nil {
		return nil
	}
	return newError(q.name+": "+what, err, "")
}
