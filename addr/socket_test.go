package addr

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

const testTimeout = 3 * time.Second

// host is what a test knows of the program it stands for.
type host struct {
	t   *testing.T
	env *Env
	ctx context.Context

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and made anew with each line
}

// newHost also checks, at the end of the test, that no descriptor and no goroutine is left.
func newHost(t *testing.T) *host {
	t.Helper()
	checkLeaks(t)
	ctx, cancel := context.WithTimeout(t.Context(), 6*testTimeout)
	t.Cleanup(cancel)
	h := &host{t: t, ctx: ctx, more: make(chan struct{})}
	log := relay.NewLog(relay.Debug, func(l relay.Level, s string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.lines = append(h.lines, string(l.Letter())+" "+s)
		close(h.more)
		h.more = make(chan struct{})
	})
	h.env = &Env{Log: log, Program: "tunsplice", ResolveIP: '4', ListenIP: '4', Linger: 500 * time.Millisecond}
	return h
}

// waitLog waits for a log line that holds text and returns it.
func (h *host) waitLog(text string) string {
	h.t.Helper()
	timeout := time.After(testTimeout)
	for seen := 0; ; {
		h.mu.Lock()
		lines, more := h.lines, h.more
		h.mu.Unlock()
		for ; seen < len(lines); seen++ {
			if strings.Contains(lines[seen], text) {
				return lines[seen]
			}
		}
		select {
		case <-more:
		case <-timeout:
			h.t.Fatalf("no log line with %q in:\n%s", text, strings.Join(lines, "\n"))
		}
	}
}

// mustBind binds an address that the test believes to be right.
func mustBind(t *testing.T, text string, mode Mode) *Address {
	t.Helper()
	spec, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Bind(spec, BindConfig{Mode: mode})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// source opens an address; it is closed at the end of the test at the latest.
func (h *host) source(text string, mode Mode) Source {
	h.t.Helper()
	src, err := mustBind(h.t, text, mode).Open(h.ctx, h.env)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { src.Close() })
	return src
}

// next waits for an endpoint; it is closed at the end of the test at the latest.
func (h *host) next(src Source) *relay.Endpoint {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.ctx, testTimeout)
	defer cancel()
	ep, err := src.Next(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { ep.Close() })
	for _, half := range []any{ep.R, ep.W} {
		if r, ok := half.(relay.Reader); ok {
			r.SetReadDeadline(time.Now().Add(testTimeout))
		}
	}
	return ep
}

func (h *host) open(text string, mode Mode) *relay.Endpoint {
	h.t.Helper()
	return h.next(h.source(text, mode))
}

// checkLeaks compares descriptors and goroutines at the end of the test with those now.
func checkLeaks(t *testing.T) {
	t.Helper()
	count := func() (fds, goroutines int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), runtime.NumGoroutine()
	}
	// The runtime's poller and the like open descriptors of their own at first use.
	if f, err := os.Open("/dev/null"); err == nil {
		f.Close()
	}
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	fds, goroutines := count()
	t.Cleanup(func() {
		deadline := time.Now().Add(testTimeout)
		for {
			runtime.GC() // pipes of the splice pool are closed when they are collected
			f, g := count()
			if f <= fds && g <= goroutines {
				return
			}
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<16)
				t.Errorf("%d descriptors before, %d after; %d goroutines before, %d after\n%s", fds, f, goroutines, g, buf[:runtime.Stack(buf, true)])
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// readAll reads until the end.
func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	p, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// readOne returns what one Read returns.
func readOne(t *testing.T, r relay.Reader) string {
	t.Helper()
	buf := make([]byte, relay.MaxPacket)
	n, err := r.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func writeText(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

// peer is a plain socat.
type peer struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	stdout bytes.Buffer
	stderr lockedBuffer
	done   chan struct{}
	err    error
}

type lockedBuffer struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{}
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
	return l.buf.Write(p)
}

// wait returns once text has been written.
func (l *lockedBuffer) wait(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(testTimeout)
	for {
		l.mu.Lock()
		have := strings.Contains(l.buf.String(), text)
		if l.more == nil {
			l.more = make(chan struct{})
		}
		more := l.more
		l.mu.Unlock()
		if have {
			return
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("socat did not say %q:\n%s", text, l.String())
		}
	}
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// plainSocat starts plain socat, the foreign peer and oracle. It is killed at the end of the test.
func plainSocat(t *testing.T, args ...string) *peer {
	t.Helper()
	path, err := exec.LookPath("socat")
	if err != nil {
		t.Skip("plain socat is not installed")
	}
	p := &peer{t: t, cmd: exec.Command(path, append([]string{"-dd", "-t0.3"}, args...)...), done: make(chan struct{})}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// end closes socat's input, waits for its end and returns its output.
func (p *peer) end() string {
	p.t.Helper()
	p.in.Close()
	select {
	case <-p.done:
	case <-time.After(testTimeout):
		p.t.Fatalf("socat does not end:\n%s", p.stderr.String())
	}
	if p.err != nil {
		p.t.Fatalf("socat: %v\n%s", p.err, p.stderr.String())
	}
	return p.stdout.String()
}

// freePort returns a port that is free on all loopback addresses for a stream ("tcp") or for datagrams ("udp").
func freePort(t *testing.T, network string) string {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return strconv.Itoa(c.LocalAddr().(*net.UDPAddr).Port)
	}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// newNetns makes a network namespace with loopback up and returns its name.
func newNetns(t *testing.T) string {
	t.Helper()
	needRoot(t)
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip(8) is not installed")
	}
	name := fmt.Sprintf("tsock%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)
	ip := func(args ...string) error {
		out, err := exec.Command("ip", args...).CombinedOutput()
		return errors.Wrapf(err, "ip %s: %s", strings.Join(args, " "), out)
	}
	if err := ip("netns", "add", name); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { ip("netns", "del", name) })
	if err := ip("-n", name, "link", "set", "lo", "up"); err != nil {
		t.Fatal(err)
	}
	return name
}

// tempSocket returns a path for a socket. The name of the test, which t.TempDir takes over, may be too long and hold commas.
func tempSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// getInt reads a socket option of an endpoint.
func getInt(t *testing.T, ep *relay.Endpoint, level, opt int) int {
	t.Helper()
	var v int
	file := fileOf(ep)
	if err := onFile(file, func(fd int) (err error) { v, err = unix.GetsockoptInt(fd, level, opt); return err }); err != nil {
		t.Fatal(err)
	}
	return v
}

// fileOf returns the descriptor under an endpoint.
func fileOf(ep *relay.Endpoint) *relay.File {
	for _, half := range []any{ep.R, ep.W} {
		switch f := half.(type) {
		case *relay.File:
			return f
		case *packetSocket:
			return f.file
		}
	}
	return nil
}
