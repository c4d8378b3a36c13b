package secure

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tunsplice/relay"

	"golang.org/x/sys/unix"
)

// lines is a log that a test looks into.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) log() *relay.Log {
	return relay.NewLog(relay.Debug, func(level relay.Level, s string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		fmt.Fprintf(&l.text, "%c %s\n", level.Letter(), s)
	})
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// wire is a writing half that a test can look into and hold packets on.
type wire struct {
	*relay.File
	mu   sync.Mutex
	sent [][]byte
	pass func(n int, p []byte) [][]byte // what goes in place of packet n; nil: itself
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	n := len(w.sent)
	w.sent = append(w.sent, bytes.Clone(p))
	packets := [][]byte{p}
	if w.pass != nil {
		packets = w.pass(n, p)
	}
	w.mu.Unlock()
	for _, p := range packets {
		if _, err := w.File.Write(p); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (w *wire) all() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sent)
}

type dgram struct {
	*Datagrams
	wire *wire
	log  lines
}

// newDgram makes one end.
func newDgram(t *testing.T, f *relay.File, key *Key, pass func(n int, p []byte) [][]byte) *dgram {
	e := &dgram{wire: &wire{File: f, pass: pass}}
	e.Datagrams = NewDatagrams(f, e.wire, nil, key, e.log.log(), "end")
	t.Cleanup(e.Close)
	return e
}

// meet runs the handshake at both ends.
func meet(t *testing.T, a, b *dgram, roleA, roleB Role) {
	t.Helper()
	done := make(chan error)
	go func() { done <- b.Handshake(t.Context(), roleB) }()
	if err := a.Handshake(t.Context(), roleA); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// say sends one packet and looks that it arrives.
func say(t *testing.T, from, to *dgram, text string) {
	t.Helper()
	if _, err := from.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	hear(t, to, text)
}

func hear(t *testing.T, e *dgram, text string) {
	t.Helper()
	buf := make([]byte, relay.MaxPacket)
	n, err := e.Read(buf)
	if err != nil || string(buf[:n]) != text {
		t.Fatalf("%q %v, want %q\n%s", buf[:min(n, 100)], err, text, &e.log)
	}
}

func TestDatagrams(t *testing.T) {
	key := NewKey()
	for name, c := range map[string]struct {
		roles [2]Role
		pass  func(n int, p []byte) [][]byte
	}{
		"plain":  {[2]Role{Initiate, Answer}, nil},
		"alike":  {[2]Role{Initiate, Initiate}, nil},
		"lossy":  {[2]Role{Initiate, Answer}, func(n int, p []byte) [][]byte { return [][]byte{p}[:min(n%3, 1)] }},
		"double": {[2]Role{Initiate, Initiate}, func(n int, p []byte) [][]byte { return [][]byte{p, p} }},
	} {
		t.Run(name, func(t *testing.T) {
			fa, fb := pair(t, unix.SOCK_DGRAM)
			a, b := newDgram(t, fa, key, c.pass), newDgram(t, fb, key, c.pass)
			meet(t, a, b, c.roles[0], c.roles[1])
			for _, e := range []*dgram{a, b} {
				e.wire.mu.Lock()
				if name == "lossy" {
					e.wire.pass = nil
				}
				e.wire.mu.Unlock()
			}
			long := strings.Repeat("x", 60000)
			for _, text := range []string{"hello", "", long, "", "bye"} {
				say(t, a, b, text)
				say(t, b, a, text)
			}
		})
	}
}

func TestDatagramsReplayedAndAltered(t *testing.T) {
	key := NewKey()
	fa, fb := pair(t, unix.SOCK_DGRAM)
	a, b := newDgram(t, fa, key, nil), newDgram(t, fb, key, nil)
	meet(t, a, b, Initiate, Answer)
	for i := range 5 {
		say(t, a, b, fmt.Sprint(i))
	}
	recorded := a.wire.all()
	for _, p := range recorded { // all of it again, in front of a packet that is new
		fa.Write(p)
	}
	say(t, a, b, "new")
	// Out of order, and with a bit flipped each.
	a.wire.mu.Lock()
	a.wire.pass = func(int, []byte) [][]byte { return nil }
	a.wire.mu.Unlock()
	for _, text := range []string{"one", "two", "three"} {
		a.Write([]byte(text))
	}
	all := a.wire.all()
	var held [][]byte
	for _, p := range all {
		if p[0] == packetData {
			held = append(held, p)
		}
	}
	held = held[len(held)-3:]
	for off := range held[0] {
		bad := bytes.Clone(held[0])
		bad[off] ^= 0x10
		fa.Write(bad)
		if off%4 == 0 { // the queue of a socket pair is short
			drain(b)
		}
	}
	go func() {
		for _, i := range []int{2, 0, 1, 0} {
			fa.Write(held[i])
		}
	}()
	for _, text := range []string{"three", "one", "two"} {
		hear(t, b, text)
	}
	// What was recorded at the other end is nothing to a fresh one.
	fc, fd := pair(t, unix.SOCK_DGRAM)
	c := newDgram(t, fc, key, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	context.AfterFunc(ctx, func() { fc.SetReadDeadline(time.Unix(1, 0)) })
	go func() {
		for _, p := range recorded {
			fd.Write(p)
		}
	}()
	if err := c.Handshake(ctx, Answer); err != context.DeadlineExceeded {
		t.Error(err)
	}
}

// drain reads what waits at an end, all of which must be refused.
func drain(e *dgram) {
	e.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	e.Read(make([]byte, relay.MaxPacket))
	e.SetReadDeadline(time.Now().Add(20 * time.Second))
}

// TestDatagramsAnew has one end begin anew while the other goes on, from either side; and the first message of the session before played again.
func TestDatagramsAnew(t *testing.T) {
	key := NewKey()
	for _, roles := range [][2]Role{{Initiate, Answer}, {Answer, Initiate}} {
		fa, fb := pair(t, unix.SOCK_DGRAM)
		a, b := newDgram(t, fa, key, nil), newDgram(t, fb, key, nil)
		meet(t, a, b, roles[0], roles[1])
		say(t, a, b, "x")
		say(t, b, a, "y")
		a.Close()
		fa.SetWriteDeadline(time.Time{})
		again := newDgram(t, fa, key, nil)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { // b goes on to send and read
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				b.Write([]byte("still there"))
				drain(b)
				time.Sleep(5 * time.Millisecond)
			}
		})
		began := time.Now()
		if err := again.Handshake(t.Context(), roles[0]); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 4*time.Second || roles[0] == Initiate && took > time.Second {
			t.Errorf("roles %v: a new session took %s", roles, took)
		}
		hear(t, again, "still there")
		close(stop)
		wg.Wait()
		for _, p := range a.wire.all() {
			fa.Write(p)
			drain(b)
		}
		if _, err := again.Write([]byte("z")); err != nil {
			t.Fatal(err)
		}
		hear(t, b, "z")
		if roles[0] == Initiate && !strings.Contains(b.log.String(), "a new session under the key") {
			t.Error(b.log.String())
		}
	}
}

// TestDatagramsSilence looks that an idle session says nothing and wakes nobody, and that one of which nothing comes back is made anew.
func TestDatagramsSilence(t *testing.T) {
	key := NewKey()
	fa, fb := pair(t, unix.SOCK_DGRAM)
	a, b := newDgram(t, fa, key, nil), newDgram(t, fb, key, nil)
	meet(t, a, b, Initiate, Answer)
	say(t, a, b, "x")
	var wg sync.WaitGroup
	wg.Go(func() { a.Read(make([]byte, 10)) }) // b's sign of life answers a
	until(t, func() bool {
		for _, e := range []*dgram{a, b} {
			e.mu.Lock()
			awake := !e.wake.IsZero()
			e.mu.Unlock()
			if awake {
				return false
			}
		}
		return true
	})
	if n := len(a.wire.all()); n != 3 {
		t.Errorf("%d packets were sent, wanted the first message, its confirmation and one of data", n)
	}
	b.wire.mu.Lock()
	b.wire.pass = func(int, []byte) [][]byte { return nil } // the way back is dead
	b.wire.mu.Unlock()
	wg.Go(func() { b.Read(make([]byte, 10)); drain(b) })
	a.Write([]byte("y"))
	until(t, func() bool { return strings.Contains(a.log.String(), "nothing comes back, beginning a new handshake") })
	until(t, func() bool { return strings.Contains(a.log.String(), "no answer to the handshake so far") })
	fa.SetReadDeadline(time.Unix(1, 0))
	wg.Wait()
}

// until waits for a condition.
func until(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never")
		}
	}
}

func TestDatagramsStrangers(t *testing.T) {
	key, other := NewKey(), NewKey()
	fa, fb := pair(t, unix.SOCK_DGRAM)
	a, b := newDgram(t, fa, key, nil), newDgram(t, fb, other, nil)
	ctx, cancel := context.WithCancel(t.Context())
	context.AfterFunc(ctx, func() { fa.SetReadDeadline(time.Unix(1, 0)); fb.SetReadDeadline(time.Unix(1, 0)) })
	done := make(chan error)
	for _, e := range []*dgram{a, b} {
		go func() { done <- e.Handshake(ctx, []Role{Initiate, Answer}[len(done)]) }()
	}
	fb.Write([]byte("GET / HTTP/1.0\r\n"))
	for end := time.Now().Add(10 * time.Second); !strings.Contains(a.log.String(), "no answer to the handshake so far") || !strings.Contains(a.log.String(), "it speaks HTTP"); {
		if time.Now().After(end) {
			t.Fatalf("%s\n%s", &a.log, &b.log)
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	for range 2 {
		if err := <-done; err != context.Canceled {
			t.Error(err)
		}
	}
	if log := b.log.String(); !strings.Contains(log, "another key, or none") {
		t.Error(log)
	}
}

func TestDatagramsBatch(t *testing.T) {
	key := NewKey()
	fa, fb := pair(t, unix.SOCK_DGRAM)
	a, b := newDgram(t, fa, key, nil), newDgram(t, fb, key, nil)
	meet(t, a, b, Initiate, Answer)
	rnd := rand.New(rand.NewPCG(1, 1))
	go func() {
		for i := range 300 {
			if _, err := a.Write(bytes.Repeat([]byte{byte(i)}, 1+i+rnd.IntN(3))[:1+i]); err != nil {
				t.Error(err)
			}
		}
	}()
	batch := relay.NewBatch(4)
	for i := 0; i < 300; {
		batch.Reset()
		if err := b.ReadBatch(batch); err != nil {
			t.Fatal(err)
		}
		for j := range batch.Len() {
			if p := batch.Packet(j); len(p) != 1+i || p[0] != byte(i) {
				t.Fatalf("packet %d: %d bytes", i, len(p))
			}
			i++
		}
	}
}

// trainWire is a wire that takes at most three packets at once, and refuses one of a certain length.
type trainWire struct {
	*wire
	refuse int
	most   int // packets of one call
}

func (w *trainWire) WriteBatch(b *relay.Batch, first int) (int, error) {
	n := 0
	for ; n < 3 && first+n < b.Len(); n++ {
		p := b.Packet(first + n)
		if len(p) == w.refuse+Overhead {
			return n, unix.EMSGSIZE
		}
		if _, err := w.Write(p); err != nil {
			return n, err
		}
	}
	w.most = max(w.most, n)
	return n, nil
}

// Packets that leave together arrive as they were, but for the one that is refused: the caller hears of it and goes on behind it. No counter is used twice.
func TestDatagramsWriteBatch(t *testing.T) {
	key := NewKey()
	fa, fb := pair(t, unix.SOCK_DGRAM)
	const refused = 77
	w := &trainWire{wire: &wire{File: fa}, refuse: refused}
	a := &dgram{wire: w.wire}
	a.Datagrams = NewDatagrams(fa, w, nil, key, a.log.log(), "end")
	t.Cleanup(a.Close)
	b := newDgram(t, fb, key, nil)
	meet(t, a, b, Initiate, Answer)
	out := relay.NewBatch(0)
	sizes := []int{100, 100, 0, 1400, refused, 60, relay.MaxPacket - Overhead, 10, 10}
	for i, n := range sizes {
		copy(out.Room(), bytes.Repeat([]byte{byte(i)}, n))
		out.Commit(n)
	}
	lost := 0
	for i := 0; i < out.Len(); {
		n, err := a.WriteBatch(out, i)
		if i += n; err != nil {
			if err != unix.EMSGSIZE || sizes[i] != refused {
				t.Fatalf("packet %d: %v", i, err)
			}
			lost++
			i++
		}
	}
	if lost != 1 || w.most != 3 {
		t.Errorf("%d packets refused, %d at once", lost, w.most)
	}
	for i, n := range sizes {
		if n != refused {
			hear(t, b, string(bytes.Repeat([]byte{byte(i)}, n)))
		}
	}
	counters := map[uint64]bool{}
	for _, p := range a.wire.all() {
		if p[0] == packetData {
			counter := binary.BigEndian.Uint64(p[1+sessionIDLen:])
			if counters[counter] {
				t.Errorf("counter %d twice", counter)
			}
			counters[counter] = true
		}
	}
}

// TestDatagramsFull lets both ends write until their sockets are full, and looks that they go on reading.
func TestDatagramsFull(t *testing.T) {
	key := NewKey()
	fa, fb := pair(t, unix.SOCK_DGRAM)
	a, b := newDgram(t, fa, key, nil), newDgram(t, fb, key, nil)
	meet(t, a, b, Initiate, Answer)
	var wg sync.WaitGroup
	for _, e := range []*dgram{a, b} {
		wg.Go(func() {
			for range 20000 {
				if _, err := e.Write([]byte("some data")); err != nil {
					t.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			buf := make([]byte, 100)
			for range 20000 {
				if _, err := e.Read(buf); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func FuzzDatagram(f *testing.F) {
	key := &Key{1}
	o, err := newOpening(key, prologueDatagrams)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(o.message[:])
	f.Add([]byte{})
	f.Add(append([]byte{packetData}, make([]byte, Overhead)...))
	f.Fuzz(func(t *testing.T, p []byte) {
		d := &Datagrams{key: key, kick: make(chan struct{}, 1)}
		data, ok, err := d.take(nil, p)
		if ok || len(data) > 0 || err != nil || d.now != nil {
			t.Fatalf("%x: %d bytes, %v %v", p, len(data), ok, err)
		}
		CheckFirst(key, p)
	})
}

func BenchmarkDatagrams(b *testing.B) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	var key [32]byte
	var ends [2]*Datagrams
	for i, fd := range fds {
		f, err := relay.NewFile(fd, "end")
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		ends[i] = NewDatagrams(f, f, nil, NewKey(), nil, "end")
		ends[i].now = &session{keys: &keys{send: newGCM(key), receive: newGCM(key)}, heard: true}
		defer ends[i].Close()
	}
	in, out := make([]byte, 1400), make([]byte, relay.MaxPacket)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ends[0].Write(in); err != nil {
			b.Fatal(err)
		}
		if _, err := ends[1].Read(out); err != nil && err != os.ErrDeadlineExceeded {
			b.Fatal(err)
		}
	}
}
