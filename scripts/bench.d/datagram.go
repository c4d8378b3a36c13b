package main

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/pkg/errors"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// datagrams sends through the tunnel as fast as the near kernel takes them, and counts what comes out at the far end. What the kernel or the tunnel can't carry is lost, as it is on a
// line that is too slow. Sender and receiver have a system call for many datagrams each, to leave the processors to the tunnel.
func (b *bench) datagrams(p *program, t tunnelCase) ([]figure, error) {
	sink, err := b.farUDP()
	if err != nil {
		return nil, err
	}
	var came atomic.Int64
	var bad atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer sink.Close()
	wg.Go(func() { receiveMany(sink, t.datagram, &came, &bad) })

	c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.ParseIP(p.farAddress(t)), Port: sink.LocalAddr().(*net.UDPAddr).Port})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if t.segments > 0 {
		if err := setSegment(c, t.datagram); err != nil {
			return nil, err
		}
	}
	sent := make(chan error, 1)
	go func() { sent <- sendMany(c, t.datagram, t.segments) }()
	if err := until("the first datagram", 3*time.Second, func() bool { return came.Load() > 0 }); err != nil {
		return nil, err
	}
	time.Sleep(100 * time.Millisecond) // the queues fill
	begin, count, used := time.Now(), came.Load(), b.group.cpu()
	time.Sleep(b.seconds)
	passed, got, took := time.Since(begin), float64(came.Load()-count), b.group.cpu()-used
	if n := bad.Load(); n > 0 {
		return nil, errors.Errorf("%d datagrams came with another length", n)
	}
	if got == 0 {
		return nil, errors.Errorf("%s: no datagram came any more", stalls)
	}
	c.Close()
	if err := <-sent; err != nil {
		return nil, errors.Wrap(err, "send")
	}
	figures := []figure{{perSecond, got / passed.Seconds(), true}}
	if !p.reference {
		figures = append(figures, figure{"CPU µs/datagram, both ends", took * 1e6 / got, false})
	}
	return figures, nil
}

// farUDP makes a socket in the other namespace. A socket stays in the namespace it was made in.
func (b *bench) farUDP() (*net.UDPConn, error) {
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer here.Close()
	there, err := netns.GetFromName(b.far)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	c, err := net.ListenUDP("udp4", nil)
	if back := netns.Set(here); back != nil {
		panic(back) // the thread is lost, and everything it would start
	}
	runtime.UnlockOSThread()
	if err != nil {
		return nil, err
	}
	return c, control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
}

// setSegment has the kernel cut each write into datagrams of that size, udp(7).
func setSegment(c *net.UDPConn, size int) error {
	return control(c, func(fd int) error {
		return errors.Wrap(unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, size), "UDP_SEGMENT")
	})
}

func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// A message is the kernel's struct mmsghdr.
type message struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

// messages returns n of them, each with a buffer of its own. The slice of vectors must live as long as the messages are used.
func messages(n, size int) ([]message, []unix.Iovec) {
	ms, vectors := make([]message, n), make([]unix.Iovec, n)
	for i := range ms {
		vectors[i].Base = &make([]byte, size)[0]
		vectors[i].SetLen(size)
		ms[i].header.Iov = &vectors[i]
		ms[i].header.Iovlen = 1
	}
	return ms, vectors
}

// sendMany sends until the socket is closed.
func sendMany(c *net.UDPConn, size, segments int) error {
	count := 32
	if segments > 0 {
		count, size = 1, size*segments
	}
	ms, vectors := messages(count, size)
	defer runtime.KeepAlive(vectors)
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var errno unix.Errno
		err := raw.Write(func(fd uintptr) bool {
			_, _, errno = unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&ms[0])), uintptr(len(ms)), 0, 0, 0)
			return errno != unix.EAGAIN
		})
		switch {
		case err != nil:
			return nil // closed
		case errno == 0, errno == unix.EINTR, errno == unix.ENOBUFS, errno == unix.ECONNREFUSED:
			// Full queues lose datagrams, and so does a peer that pauses.
		default:
			return errno
		}
	}
}

// receiveMany counts until the socket is closed, and apart what has another size than expected.
func receiveMany(c *net.UDPConn, size int, came, bad *atomic.Int64) {
	ms, vectors := messages(64, 2048)
	defer runtime.KeepAlive(vectors)
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	for {
		var n uintptr
		var errno unix.Errno
		if err := raw.Read(func(fd uintptr) bool {
			n, _, errno = unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&ms[0])), uintptr(len(ms)), 0, 0, 0)
			return errno != unix.EAGAIN
		}); err != nil {
			return // closed
		}
		if errno != 0 {
			continue
		}
		for i := range ms[:n] {
			if int(ms[i].length) != size {
				bad.Add(1)
			}
		}
		came.Add(int64(n))
	}
}
