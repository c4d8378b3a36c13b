package relay

import (
	"crypto/rand"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// tcpPair returns two connected TCP sockets: ours, as a relay holds it, and the peer's.
func tcpPair(t testing.TB) (*File, net.Conn) {
	t.Helper()
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // the sockets of that protocol have no such options
	l, err := plain.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if cerr := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 3) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	f, err := NewFile(fd, "tcp")
	if err != nil {
		t.Fatal(err)
	}
	f.OnCloseWrite(f.Shutdown)
	t.Cleanup(func() { f.Close() })
	return f, peer
}

// A bulk transfer has TCP_NOTSENT_LOWAT of its destination set, higher where others are busy too, small talk has not, and a value of the user's stays.
func TestBulkKeepsTheQueueShort(t *testing.T) {
	lowat := func(f *File) int {
		t.Helper()
		n, err := unix.GetsockoptInt(f.fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, c := range []struct {
		name       string
		size       int // bytes sent
		user, want int
		others     int32 // transfers that are busy too
	}{
		{"bulk", 8 << 20, 0, shortQueue, 0},
		{"bulk beside others", 8 << 20, 0, longQueue, 1},
		{"small talk", 100, 0, 0, 0},
		{"chosen by the user", 8 << 20, 300000, 300000, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			busyPipes.Add(c.others)
			defer busyPipes.Add(-c.others)
			src, from := tcpPair(t)
			dst, to := tcpPair(t)
			if got := lowat(dst); got != 0 {
				t.Fatalf("a new socket has TCP_NOTSENT_LOWAT %d", got)
			}
			if c.user > 0 {
				if err := unix.SetsockoptInt(dst.fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, c.user); err != nil {
					t.Fatal(err)
				}
			}
			closing := make(chan int, 1) // what the relay has left behind in the end
			right := streamEnd(dst, 0)
			right.Close = func() error { closing <- lowat(dst); return dst.Close() }
			data := make([]byte, c.size)
			rand.Read(data)
			sent := make(chan error, 1)
			go func() { _, err := from.Write(data); sent <- err }()
			r := start(t, streamEnd(src, 0), right, Config{LeftToRight: true})
			got := make([]byte, c.size)
			if _, err := io.ReadFull(to, got); err != nil {
				t.Fatal(err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			from.Close()
			if err := r.stopped(t); err != nil {
				t.Fatal(err)
			}
			if string(got) != string(data) {
				t.Error("other bytes arrived than were sent")
			}
			if n := <-closing; n != c.want {
				t.Errorf("TCP_NOTSENT_LOWAT is %d, want %d", n, c.want)
			}
		})
	}
}

// The pipes of a bulk transfer get the size of ours.
func TestBulkGrowsPipes(t *testing.T) {
	pipe := func() (r, w *File) {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		for i, f := range []**File{&r, &w} {
			var err error
			if *f, err = NewFile(fds[i], "pipe"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { (*f).Close() })
		}
		return r, w
	}
	src, from := pipe()
	to, dst := pipe()
	data := make([]byte, 4*copySize)
	rand.Read(data)
	go from.Write(data)
	start(t, streamEnd(src, 0), streamEnd(dst, 0), Config{LeftToRight: true})
	got := make([]byte, len(data))
	if _, err := io.ReadFull(to, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != string(data) {
		t.Error("other bytes arrived than were sent")
	}
	for name, f := range map[string]*File{"source": from, "destination": to} {
		if n, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETPIPE_SZ, 0); err != nil || n != pipeSize {
			t.Errorf("the pipe of the %s has %d bytes (%v), want %d", name, n, err, pipeSize)
		}
	}
}
