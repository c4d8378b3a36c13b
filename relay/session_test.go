package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// pair returns two connected sockets of the given type.
func pair(t testing.TB, typ int) (a, b *File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range []**File{&a, &b} {
		if *f, err = NewFile(fds[i], "socketpair"); err != nil {
			t.Fatal(err)
		}
		f := *f
		f.OnCloseWrite(f.Shutdown)
		t.Cleanup(func() { f.Close() })
	}
	return a, b
}

// streamEnd makes an endpoint of a stream socket.
func streamEnd(f *File, framing Framing) *Endpoint {
	return &Endpoint{Label: "stream", R: f, W: f, CanAnswer: true, Framing: framing, Close: f.Close}
}

// device makes an endpoint that looks like a network device; the test holds the kernel's end: each message is a packet.
func device(t testing.TB, traffic Traffic, pi bool) (*Endpoint, *File) {
	dev, kernel := pair(t, unix.SOCK_SEQPACKET)
	return &Endpoint{Label: "device", R: dev, W: dev, Traffic: traffic, PI: pi, MTU: 1500, Close: dev.Close}, kernel
}

// journal is a log that can be searched and waited for.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func newJournal() *journal { return &journal{more: make(chan struct{}, 1)} }

func (j *journal) log() *Log {
	return NewLog(Debug, func(l Level, s string) {
		j.mu.Lock()
		fmt.Fprintf(&j.text, "%c %s\n", l.Letter(), s)
		j.mu.Unlock()
		select {
		case j.more <- struct{}{}:
		default:
		}
	})
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) wait(t testing.TB, what string) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for !strings.Contains(j.String(), what) {
		select {
		case <-j.more:
		case <-limit:
			t.Fatalf("log never said %q:\n%s", what, j)
		}
	}
}

// running is a session in the background.
type running struct {
	*Session
	journal *journal
	cancel  context.CancelFunc
	done    chan error
}

func start(t testing.TB, left, right *Endpoint, c Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{journal: newJournal(), cancel: cancel, done: make(chan error, 1)}
	c.Log = r.journal.log()
	if !c.LeftToRight && !c.RightToLeft {
		c.LeftToRight, c.RightToLeft = true, true
	}
	if c.Linger == 0 {
		c.Linger = 500 * time.Millisecond
	}
	r.Session = NewSession(left, right, c)
	go func() { r.done <- r.Run(ctx) }()
	t.Cleanup(func() { cancel() })
	return r
}

func (r *running) stopped(t testing.TB) error {
	t.Helper()
	select {
	case err := <-r.done:
		r.done <- err
		return err
	case <-time.After(10 * time.Second):
		buf := make([]byte, 1<<16)
		t.Fatalf("the session does not end:\n%s\n%s", r.journal, buf[:runtime.Stack(buf, true)])
		return nil
	}
}

// receive reads one packet, waiting for it no longer than a test may take.
func receive(t testing.TB, f *File) []byte {
	t.Helper()
	buf := make([]byte, MaxPacket)
	f.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := f.Read(buf)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return buf[:n]
}

func write(t testing.TB, f *File, p []byte) {
	t.Helper()
	f.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := f.Write(p); err != nil {
		t.Fatalf("write: %v", err)
	}
}

// ipPacket returns an IPv4 packet of n bytes with recognisable contents.
func ipPacket(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i) + seed
	}
	copy(p, []byte{0x45, 0, byte(n >> 8), byte(n), 0, seed, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	return p
}

// frame returns an Ethernet frame of n bytes.
func frame(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i) * seed
	}
	copy(p, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45})
	return p
}

func TestStreamBothWaysEndsAfterBothEnds(t *testing.T) {
	la, lb := pair(t, unix.SOCK_STREAM)
	ra, rb := pair(t, unix.SOCK_STREAM)
	r := start(t, streamEnd(lb, 0), streamEnd(ra, 0), Config{Linger: time.Minute})
	var wg sync.WaitGroup
	transfer := func(from, to *File, size int) {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		want := sha256.Sum256(data)
		wg.Add(2)
		go func() {
			defer wg.Done()
			for p := data; len(p) > 0; {
				n := min(len(p), 1+rand.IntN(300000))
				if _, err := from.Write(p[:n]); err != nil {
					t.Error(err)
					return
				}
				p = p[n:]
			}
			from.CloseWrite()
		}()
		go func() {
			defer wg.Done()
			got, err := io.ReadAll(to)
			if err != nil || sha256.Sum256(got) != want {
				t.Errorf("%d of %d bytes arrived, or others: %v", len(got), size, err)
			}
		}()
	}
	transfer(la, rb, 32<<20)
	transfer(rb, la, 8<<20)
	wg.Wait()
	if err := r.stopped(t); err != nil {
		t.Fatal(err)
	}
	s := r.Stats()
	if s.LeftToRight.Bytes != 32<<20 || s.RightToLeft.Bytes != 8<<20 {
		t.Errorf("statistics: %+v", s)
	}
	if !strings.Contains(r.journal.String(), "left to right: splice") {
		t.Errorf("a bulk transfer between sockets did not go by splice:\n%s", r.journal)
	}
}

func TestLingerIsIdleTime(t *testing.T) {
	la, lb := pair(t, unix.SOCK_STREAM)
	ra, rb := pair(t, unix.SOCK_STREAM)
	r := start(t, streamEnd(lb, 0), streamEnd(ra, 0), Config{Linger: 300 * time.Millisecond})
	la.CloseWrite()
	receiveEOF(t, rb)
	began := time.Now()
	// The other direction stays alive as long as something comes within the time.
	for range 5 {
		write(t, rb, []byte("x"))
		receive(t, la)
		time.Sleep(100 * time.Millisecond) // the passing of time is what is tested
	}
	if err := r.stopped(t); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("ended after %v although data flowed", took)
	}
}

func receiveEOF(t testing.TB, f *File) {
	t.Helper()
	f.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := f.Read(make([]byte, 10)); err != io.EOF {
		t.Fatalf("read %d bytes, %v, not the end", n, err)
	}
}

func TestIdleTimeout(t *testing.T) {
	_, lb := pair(t, unix.SOCK_STREAM)
	ra, _ := pair(t, unix.SOCK_STREAM)
	r := start(t, streamEnd(lb, 0), streamEnd(ra, 0), Config{Idle: 50 * time.Millisecond})
	if err := r.stopped(t); err != nil {
		t.Fatal(err)
	}
	r.journal.wait(t, "N inactivity timeout triggered")
}

func TestWriteToGonePeerIsAnError(t *testing.T) {
	la, lb := pair(t, unix.SOCK_STREAM)
	ra, rb := pair(t, unix.SOCK_STREAM)
	r := start(t, streamEnd(lb, 0), streamEnd(ra, 0), Config{LeftToRight: true})
	rb.Close()
	la.Write([]byte("x"))
	la.Write([]byte("x"))
	if err := r.stopped(t); !errors.Is(err, unix.EPIPE) {
		t.Errorf("error %v, want EPIPE", err)
	}
}

func TestFileGoesBySendfile(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789"), 1<<17)
	f.Write(data)
	f.Seek(0, 0)
	fd, _ := unix.Dup(int(f.Fd()))
	src, err := NewFile(fd, "file")
	if err != nil {
		t.Fatal(err)
	}
	ra, rb := pair(t, unix.SOCK_STREAM)
	r := start(t, &Endpoint{Label: "file", R: src, Close: src.Close}, streamEnd(ra, 0), Config{LeftToRight: true})
	got, err := io.ReadAll(rb)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes arrived, %v", len(got), err)
	}
	if err := r.stopped(t); err != nil {
		t.Fatal(err)
	}
	r.journal.wait(t, "sendfile")
}

func TestBorrowedFileKeepsItsMode(t *testing.T) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	in, err := BorrowFile(p[0], "pipe")
	if err != nil {
		t.Fatal(err)
	}
	in.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a silent pipe: %v", err)
	}
	in.SetReadDeadline(time.Time{})
	unix.Write(p[1], []byte("hello"))
	if got := receive(t, in); string(got) != "hello" {
		t.Errorf("read %q", got)
	}
	if fl, _ := unix.FcntlInt(uintptr(p[0]), unix.F_GETFL, 0); fl&unix.O_NONBLOCK != 0 {
		t.Error("the inherited descriptor was made non-blocking")
	}
	in.Close()
	if _, err := unix.FcntlInt(uintptr(p[0]), unix.F_GETFL, 0); err != nil {
		t.Error("the inherited descriptor was closed")
	}
}
