package relay

import (
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// File is a descriptor as the half, or both halves, of an endpoint. It waits in the runtime's poller, never in a blocking system call, as far as the kernel
// can poll the descriptor; regular files never wait.
//
// A File made by NewFile owns its descriptor and closes it. One made by BorrowFile was inherited: its O_NONBLOCK flag, which other
// processes share, stays as it was, and Close leaves the descriptor open.
type File struct {
	*os.File
	raw   syscall.RawConn
	fd    int
	kind  uint32   // S_IFMT bits, 0 if unknown
	given int      // the number the user knows it by
	waits bool     // its system calls may block: a borrowed descriptor without O_NONBLOCK
	watch *os.File // of a borrowed descriptor that may block: an epoll instance that becomes readable when fd does; nil for regular files
	space *os.File // of a borrowed socket that may block: the same for writing
	turn  *os.File // of a borrowed terminal: see readInTurn
	shut  func() error
	path  *pathWatch // nil: nothing to look at; the writer's

	closed  atomic.Bool
	now     bool                     // it never waits, whatever others do that hold it too, nor is there a disk behind it: see ReadNow
	in, out atomic.Pointer[transfer] // of such a descriptor; nil until the first Read or Write
}

// transfer is one Read or Write under way, as the poller calls back: kept, so that a call allocates nothing.
type transfer struct {
	mu   sync.Mutex // held during a call
	p    []byte
	n    int
	err  error
	step func(fd uintptr) bool
}

func (t *transfer) read(fd uintptr) bool {
	t.n, t.err = ReadNow(int(fd), t.p)
	return t.err != unix.EAGAIN
}

func (t *transfer) write(fd uintptr) bool {
	for {
		var n int
		n, t.err = WriteNow(int(fd), t.p[t.n:]) // also if p is empty: of a packet socket, an empty packet
		if t.n += n; t.n == len(t.p) || t.err != nil {
			return t.err != unix.EAGAIN
		}
	}
}

// readNow is Read.
func (f *File) readNow(p []byte) (int, error) {
	t := f.in.Load()
	if t == nil {
		t = &transfer{}
		t.step = t.read
		if !f.in.CompareAndSwap(nil, t) {
			t = f.in.Load()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p, t.n, t.err = p, 0, nil
	err := f.raw.Read(t.step)
	t.p = nil
	switch {
	case err != nil:
		return 0, f.pollError(err)
	case t.n == 0 && t.err == nil && len(p) > 0:
		return 0, io.EOF
	}
	return t.n, t.err
}

// writeNow is Write.
func (f *File) writeNow(p []byte) (int, error) {
	t := f.out.Load()
	if t == nil {
		t = &transfer{}
		t.step = t.write
		if !f.out.CompareAndSwap(nil, t) {
			t = f.out.Load()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p, t.n, t.err = p, 0, nil
	err := f.raw.Write(t.step)
	t.p = nil
	f.wrote(t.n)
	if err != nil {
		return t.n, f.pollError(err)
	}
	return t.n, t.err
}

// pollError is the error of a raw call that was not made or had to wait. Of a closed file that is a value of Go's own that is not exported.
func (f *File) pollError(err error) error {
	if f.closed.Load() {
		return os.ErrClosed
	}
	return bare(err)
}

// NewFile takes over an open descriptor and sets it non-blocking. Shutting the writing side does nothing until OnCloseWrite says otherwise.
func NewFile(fd int, name string) (*File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, errors.Wrapf(err, "descriptor %d", fd)
	}
	return newFile(fd, name, fileType(fd))
}

// NewSocket is NewFile for a socket that is non-blocking from its beginning (SOCK_NONBLOCK): there is nothing to be found out.
func NewSocket(fd int, name string) (*File, error) { return newFile(fd, name, unix.S_IFSOCK) }

func newFile(fd int, name string, kind uint32) (*File, error) {
	f := os.NewFile(uintptr(fd), name)
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, errors.Wrap(err, name)
	}
	return &File{File: f, raw: raw, fd: fd, given: fd, kind: kind, now: kind == unix.S_IFSOCK || kind == unix.S_IFIFO}, nil
}

// BorrowFile makes a half of an inherited descriptor, such as standard input, without changing what other holders of it see.
func BorrowFile(fd int, name string) (*File, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, errors.Wrapf(err, "descriptor %d", fd)
	}
	f := &File{given: fd, waits: flags&unix.O_NONBLOCK == 0}
	dup := -1
	if f.waits {
		if dup = reopenPipe(fd, flags); dup >= 0 {
			f.waits, f.now = false, true
		}
	}
	if dup < 0 {
		// A duplicate, so that no finalizer and no Close ever touches the number that was handed to us.
		if dup, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err != nil {
			return nil, errors.Wrapf(err, "descriptor %d", fd)
		}
	}
	if f.waits && flags&unix.O_ACCMODE != unix.O_WRONLY {
		if f.watch, err = watch(dup, unix.EPOLLIN); err != nil {
			unix.Close(dup)
			return nil, errors.Wrapf(err, "descriptor %d", fd)
		}
	}
	if f.waits && fileType(dup) == unix.S_IFSOCK {
		f.space, err = watch(dup, unix.EPOLLOUT)
	} else if f.watch != nil {
		f.turn, err = newTurn(dup)
	}
	if err != nil {
		if f.watch != nil {
			f.watch.Close()
		}
		unix.Close(dup)
		return nil, errors.Wrapf(err, "descriptor %d", fd)
	}
	f.fd = dup
	f.File = os.NewFile(uintptr(dup), name)
	if f.raw, err = f.File.SyscallConn(); err != nil {
		f.Close()
		return nil, errors.Wrap(err, name)
	}
	f.kind = fileType(dup)
	return f, nil
}

// reopenPipe opens an inherited pipe a second time, with flags of its own, so that writing to it can be interrupted too. It returns -1 if fd is no pipe, or if that
// can't be done: /proc is not mounted, or the pipe was made by another user.
func reopenPipe(fd, flags int) int {
	if fileType(fd) != unix.S_IFIFO {
		return -1
	}
	again, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), flags&unix.O_ACCMODE|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return again
}

// watch returns an epoll instance that becomes readable on these events of fd, itself non-blocking and so fit for the runtime's poller; nil if fd never waits (a regular file).
func watch(fd int, events uint32) (*os.File, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, errors.Wrap(err, "epoll_create1")
	}
	err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
	if err == nil {
		err = unix.SetNonblock(ep, true)
	}
	if err != nil {
		unix.Close(ep)
		if err == unix.EPERM {
			return nil, nil
		}
		return nil, errors.Wrap(err, "epoll_ctl")
	}
	return os.NewFile(uintptr(ep), "epoll"), nil
}

// Fd returns the number the descriptor was opened or inherited with, for messages and for calls before anything is moved. Unlike os.File's own Fd it leaves the
// descriptor's mode alone.
func (f *File) Fd() int { return f.given }

// SyscallConn returns the descriptor for raw system calls.
func (f *File) SyscallConn() (syscall.RawConn, error) { return f.raw, nil }

// readRaw runs do until it says true, waiting until the descriptor is readable each time it says false.
func (f *File) readRaw(do func(fd uintptr) bool) error {
	var err error
	switch {
	case f.watch == nil:
		err = f.raw.Read(do)
	case f.turn != nil:
		err = f.readInTurn(do)
	default:
		err = f.whenReady(f.watch, do)
	}
	if err != nil {
		return f.pollError(err)
	}
	return nil
}

// whenReady is readRaw for a descriptor that the runtime's poller does not know, by way of the epoll instance over it.
func (f *File) whenReady(watch *os.File, do func(fd uintptr) bool) error {
	wc, err := watch.SyscallConn()
	if err != nil {
		return err
	}
	var ev [1]unix.EpollEvent
	return wc.Read(func(ep uintptr) bool {
		n, err := unix.EpollWait(int(ep), ev[:], 0)
		return (n > 0 || err != nil && err != unix.EINTR) && do(uintptr(f.fd))
	})
}

// Read reads what is there, at most len(p) bytes: of a packet descriptor one packet.
func (f *File) Read(p []byte) (n int, err error) {
	switch {
	case f.now:
		return f.readNow(p)
	case f.watch != nil:
		return f.readWatched(p)
	}
	n, err = f.File.Read(p)
	return n, bare(err)
}

// readWatched is Read for a borrowed descriptor that may block. It is apart because its results live on the heap, which would cost every Read two allocations.
func (f *File) readWatched(p []byte) (n int, err error) {
	werr := f.readRaw(func(fd uintptr) bool {
		n, err = ignoringEINTR(func() (int, error) { return unix.Read(int(fd), p) })
		return err != unix.EAGAIN
	})
	switch {
	case werr != nil:
		return 0, bare(werr)
	case err != nil:
		return 0, err
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write writes all of p.
func (f *File) Write(p []byte) (int, error) {
	if f.space != nil {
		return f.send(p)
	}
	if f.now {
		return f.writeNow(p)
	}
	n, err := f.File.Write(p)
	return n, bare(err)
}

// send is Write for a borrowed socket: as each call says for itself that it must not wait, the flags of the socket do not matter.
func (f *File) send(p []byte) (sent int, err error) {
	for first := true; first || sent < len(p) && err == nil; first = false {
		n := 0
		werr := f.whenReady(f.space, func(fd uintptr) bool {
			n, err = ignoringEINTR(func() (int, error) {
				return unix.SendmsgN(int(fd), p[sent:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			})
			return err != unix.EAGAIN
		})
		if werr != nil {
			return sent, bare(werr)
		}
		sent += max(n, 0)
	}
	return sent, err
}

// SetReadDeadline implements Reader. Descriptors that never wait have no deadline.
func (f *File) SetReadDeadline(t time.Time) error {
	if f.turn != nil {
		if err := f.turn.SetReadDeadline(t); err != nil {
			return noDeadlineIsFine(err)
		}
	}
	if f.watch != nil {
		return f.watch.SetReadDeadline(t)
	}
	return noDeadlineIsFine(f.File.SetReadDeadline(t))
}

// SetWriteDeadline implements Writer.
func (f *File) SetWriteDeadline(t time.Time) error {
	if f.space != nil {
		return noDeadlineIsFine(f.space.SetReadDeadline(t))
	}
	return noDeadlineIsFine(f.File.SetWriteDeadline(t))
}

// OnCloseWrite sets what CloseWrite does.
func (f *File) OnCloseWrite(do func() error) { f.shut = do }

// CloseWrite tells the other side that no more will come, as set by OnCloseWrite; nothing if unset.
func (f *File) CloseWrite() error {
	if f.shut == nil {
		return nil
	}
	return f.shut()
}

// Close releases the descriptor, or what was added to an inherited one.
func (f *File) Close() error {
	f.closed.Store(true)
	if f.watch != nil {
		f.watch.Close()
	}
	if f.space != nil {
		f.space.Close()
	}
	if f.turn != nil {
		f.turn.Close()
	}
	err := f.File.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return bare(err)
}

// Shutdown is an OnCloseWrite action for sockets: shutdown(SHUT_WR). A peer that is gone already is no error.
func (f *File) Shutdown() error {
	var err error
	if cerr := f.raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) }); cerr != nil {
		return nil // closed before
	}
	if err == unix.ENOTCONN {
		return nil
	}
	return errors.Wrap(err, "shutdown")
}

func noDeadlineIsFine(err error) error {
	if errors.Is(err, os.ErrNoDeadline) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// bare takes the operation and file name off an os.PathError: the caller knows a better name.
func bare(err error) error {
	if err == nil {
		return nil // before the variables below, which cost an allocation each
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	var se *os.SyscallError
	if errors.As(err, &se) {
		return se.Err
	}
	return err
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
