package secure

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// pair returns both ends of a socket pair.
func pair(t testing.TB, typ int) (a, b *relay.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var files [2]*relay.File
	for i, fd := range fds {
		f, err := relay.NewFile(fd, fmt.Sprint("end ", i))
		if err != nil {
			t.Fatal(err)
		}
		f.OnCloseWrite(f.Shutdown)
		f.SetReadDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { f.Close() })
		files[i] = f
	}
	return files[0], files[1]
}

type end struct {
	r   *Reader
	w   *Writer
	err error
}

// shake runs the handshake at both ends of a pair.
func shake(a, b *relay.File, keyA, keyB *Key, roleA, roleB Role) (x, y end) {
	done := make(chan end)
	go func() {
		var e end
		if e.r, e.w, e.err = Stream(b, b, keyB, roleB); e.err != nil {
			b.Close()
		}
		done <- e
	}()
	if x.r, x.w, x.err = Stream(a, a, keyA, roleA); x.err != nil {
		a.Close()
	}
	return x, <-done
}

func TestStream(t *testing.T) {
	key := NewKey()
	for name, roles := range map[string][2]Role{"client and server": {Initiate, Answer}, "server and client": {Answer, Initiate}, "alike": {Initiate, Initiate}} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, unix.SOCK_STREAM)
			x, y := shake(a, b, key, key, roles[0], roles[1])
			if x.err != nil || y.err != nil {
				t.Fatal(x.err, y.err)
			}
			// Both directions at once, writes and reads of all sizes.
			sent := make([]byte, 3<<20)
			rand.NewChaCha8([32]byte{1}).Read(sent)
			got := make(chan []byte, 2)
			for i, e := range [][2]end{{x, y}, {y, x}} {
				rnd := rand.New(rand.NewPCG(1, uint64(i)))
				go func() {
					for p := sent; len(p) > 0; {
						n := min(len(p), rnd.IntN([]int{10, 2000, 70000, 600000}[rnd.IntN(4)]))
						if m, err := e[0].w.Write(p[:n]); err != nil || m != n {
							t.Errorf("write of %d: %d %v", n, m, err)
						}
						p = p[n:]
					}
					if err := e[0].w.CloseWrite(); err != nil {
						t.Error(err)
					}
				}()
				rnd2 := rand.New(rand.NewPCG(2, uint64(i)))
				go func() {
					var all []byte
					for {
						p := make([]byte, 1+rnd2.IntN([]int{10, 2000, 70000, 300000}[rnd2.IntN(4)]))
						n, err := e[1].r.Read(p)
						all = append(all, p[:n]...)
						if err != nil {
							if err != io.EOF {
								t.Error(err)
							}
							break
						}
					}
					got <- all
				}()
			}
			for range 2 {
				if all := <-got; !bytes.Equal(all, sent) {
					t.Errorf("%d of %d bytes, or others", len(all), len(sent))
				}
			}
		})
	}
}

func TestRefused(t *testing.T) {
	key, other := NewKey(), NewKey()
	for _, roles := range [][2]Role{{Initiate, Answer}, {Initiate, Initiate}} {
		a, b := pair(t, unix.SOCK_STREAM)
		x, y := shake(a, b, key, other, roles[0], roles[1])
		for _, e := range []end{x, y} {
			if e.err == nil || !strings.Contains(e.err.Error(), "has another key, or none") {
				t.Error(roles, e.err)
			}
		}
	}
	// Whoever says something else is refused at once, even if it says no more.
	hello := relay.Hello{Kind: relay.DeviceTAP, Nonce: relay.NewNonce(), Software: "x"}
	packet, err := hello.AppendPacket(nil)
	if err != nil {
		t.Fatal(err)
	}
	wrongVersion := append(appendHeader(nil, kindFirst), make([]byte, messageLen-headerLen)...)
	wrongVersion[6] = 9
	for said, want := range map[string]string{
		"GET / HTTP/1.0\r\n":        "no key: it speaks HTTP",
		"SSH-2.0-x\r\n":             "no key: it speaks SSH",
		string(packet):              "no key: it speaks the link protocol",
		"\x00":                      "another key",
		strings.Repeat("\x89", 100): "another key",
		magic + "\x01\x07" + strings.Repeat("x", 48): "another key",
		magic + "\x01\x02" + strings.Repeat("x", 48): "another key",
		magic + "\x01\x01" + strings.Repeat("x", 48): "another key",
		string(wrongVersion):                         "another version",
	} {
		for _, role := range []Role{Initiate, Answer} {
			a, b := pair(t, unix.SOCK_STREAM)
			if _, err := b.Write([]byte(said)); err != nil {
				t.Fatal(err)
			}
			_, _, err := Stream(a, a, key, role)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", said, err, want)
			}
			if role == Answer {
				a.Close()
				if n, _ := b.Read(make([]byte, 100)); n > 0 {
					t.Errorf("%q: a stranger was told %d bytes", said, n)
				}
			}
		}
	}
	// An echo.
	a, b := pair(t, unix.SOCK_STREAM)
	go io.Copy(b, b)
	if _, _, err := Stream(a, a, key, Initiate); err != ErrEcho {
		t.Error(err)
	}
}

// recording notes what goes through it.
type recording struct {
	*relay.File
	sent bytes.Buffer
}

func (r *recording) Write(p []byte) (int, error) { r.sent.Write(p); return r.File.Write(p) }

// TestReplay plays what both ends of a session said to fresh ones.
func TestReplay(t *testing.T) {
	key := NewKey()
	a, b := pair(t, unix.SOCK_STREAM)
	ra, rb := &recording{File: a}, &recording{File: b}
	done := make(chan error)
	go func() {
		r, w, err := Stream(rb, rb, key, Answer)
		if err == nil {
			_, err = io.Copy(w, r)
		}
		done <- err
	}()
	r, w, err := Stream(ra, ra, key, Initiate)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "secret")
	io.ReadFull(r, make([]byte, 6))
	w.CloseWrite()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, role := range []Role{Answer, Initiate} {
		for _, said := range [][]byte{ra.sent.Bytes(), rb.sent.Bytes()} {
			a, b := pair(t, unix.SOCK_STREAM)
			b.Write(said)
			r, _, err := Stream(a, a, key, role)
			if err == nil {
				n, rerr := r.Read(make([]byte, 10))
				t.Errorf("role %d took a recording: %d bytes, %v", role, n, rerr)
			}
		}
	}
}

// sealed returns a reader over records made of the writes, and what lies on the wire.
func sealed(t *testing.T, writes ...int) (wire []byte, open func(wire []byte) *Reader) {
	t.Helper()
	var key [32]byte
	s := recordState{g: newGCM(key)}
	for _, n := range writes {
		wire = s.seal(wire, recordData, make([]byte, n))
	}
	wire = s.seal(wire, recordEnd, []byte{endOfData})
	return wire, func(wire []byte) *Reader {
		return &Reader{r: memory{bytes.NewReader(wire)}, state: recordState{g: newGCM(key)}}
	}
}

// memory is a half that never waits.
type memory struct{ io.Reader }

func (memory) SetReadDeadline(time.Time) error { return nil }

func TestTampered(t *testing.T) {
	wire, open := sealed(t, 5, 0, 70, 1)
	if got, err := io.ReadAll(open(wire)); err != nil || len(got) != 76 {
		t.Fatal(len(got), err)
	}
	borders := []int{0, 5, 5, 75, 76, 76} // how much is delivered before record i
	record := func(off int) (i int) {
		for at := 0; ; i++ {
			n, err := recordLen(wire[at:])
			if err != nil {
				t.Fatal(err)
			}
			if at += n; off < at {
				return i
			}
		}
	}
	for off := range wire {
		for bit := range 8 {
			bad := bytes.Clone(wire)
			bad[off] ^= 1 << bit
			got, err := io.ReadAll(open(bad))
			if err == nil || len(got) > borders[record(off)] {
				t.Fatalf("bit %d of byte %d: %d bytes, %v", bit, off, len(got), err)
			}
		}
	}
	for n := range wire {
		got, err := io.ReadAll(open(wire[:n]))
		if err != errCutOff || len(got) > borders[record(n)] {
			t.Fatalf("cut after %d bytes: %d bytes, %v", n, len(got), err)
		}
	}
	// Records doubled, left out, exchanged.
	first, second := wire[:25], wire[25:45]
	for _, bad := range [][]byte{bytes.Join([][]byte{first, wire}, nil), wire[25:], bytes.Join([][]byte{second, first, wire[45:]}, nil)} {
		if _, err := io.ReadAll(open(bad)); err == nil {
			t.Error("records in a wrong order are taken")
		}
	}
}

func TestBrokenOff(t *testing.T) {
	key := NewKey()
	for _, how := range []string{"end", "finish", "cut"} {
		a, b := pair(t, unix.SOCK_STREAM)
		x, y := shake(a, b, key, key, Initiate, Answer)
		if x.err != nil || y.err != nil {
			t.Fatal(x.err, y.err)
		}
		io.WriteString(x.w, "data")
		var want error
		switch how {
		case "end":
			x.w.CloseWrite()
			x.w.Finish()
		case "finish":
			x.w.Finish()
			want = relay.ErrBrokenOff
		case "cut":
			want = errCutOff
		}
		a.Close()
		got, err := io.ReadAll(y.r)
		if string(got) != "data" || err != want {
			t.Errorf("%s: %q %v", how, got, err)
		}
	}
}

// TestRekey passes so much that the keys change, and goes on.
func TestRekey(t *testing.T) {
	var key [32]byte
	out, in := recordState{g: newGCM(key)}, recordState{g: newGCM(key)}
	before := out.g
	plain, room := []byte("x"), make([]byte, 0, 10)
	for range rekeyRecords + 2 {
		record := out.seal(room[:0:cap(room)], recordData, plain)
		got, err := in.open(record[recordHead:recordHead], record)
		if err != nil || string(got) != "x" {
			t.Fatal(out.number, err)
		}
	}
	if out.g == before || out.records != 2 {
		t.Error("the key has not changed")
	}
	out.bytes, in.bytes = rekeyBytes-1, rekeyBytes-1
	before = out.g
	for range 2 {
		record := out.seal(nil, recordData, plain)
		if _, err := in.open(nil, record); err != nil {
			t.Fatal(err)
		}
	}
	if out.g == before || before.key != ([32]byte{}) {
		t.Error("the key has not changed, or the old one is still there")
	}
}

// TestGatheredWrites looks that a large write leaves in few.
func TestGatheredWrites(t *testing.T) {
	var c counting
	w := &Writer{w: &c, state: recordState{g: newGCM([32]byte{})}}
	if n, err := w.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil {
		t.Fatal(n, err)
	}
	if c.writes != 4 || c.bytes != 1<<20+16*(recordHead+tagLen) {
		t.Errorf("%d writes, %d bytes", c.writes, c.bytes)
	}
}

// counting takes everything and counts.
type counting struct{ writes, bytes int }

func (c *counting) Write(p []byte) (int, error)      { c.writes++; c.bytes += len(p); return len(p), nil }
func (*counting) SetWriteDeadline(t time.Time) error { return nil }
func (*counting) CloseWrite() error                  { return nil }

func TestWriteErrorsStay(t *testing.T) {
	a, b := pair(t, unix.SOCK_STREAM)
	w := &Writer{w: a, state: recordState{g: newGCM([32]byte{})}}
	a.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	var err error
	for err == nil {
		_, err = w.Write(make([]byte, 1<<20))
	}
	w.Finish()
	a.SetWriteDeadline(time.Time{})
	if _, again := w.Write([]byte("x")); again != err || errors.Is(err, net.ErrClosed) {
		t.Error(err, again)
	}
	b.Close()
}

func FuzzRecords(f *testing.F) {
	var key [32]byte
	s := recordState{g: newGCM(key)}
	wire := s.seal(s.seal(nil, recordData, []byte("hello")), recordEnd, []byte{endBroken})
	f.Add(wire)
	f.Add(wire[:7])
	f.Add([]byte("GET / HTTP/1.0\r\n\r\n"))
	f.Add(binary.BigEndian.AppendUint32(nil, maxPlain+tagLen))
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := &Reader{r: memory{bytes.NewReader(wire)}, state: recordState{g: newGCM(key)}}
		got, err := io.ReadAll(r)
		if len(got) > len(wire) || err == nil && !bytes.HasPrefix(wire, []byte{0}) && wire[0] != recordEnd {
			t.Fatalf("%d bytes of %d, %v", len(got), len(wire), err)
		}
	})
}

// BenchmarkRecords seals and opens, bytes a second of each end together.
func BenchmarkRecords(b *testing.B) {
	for _, size := range []int{100, 1400, 64 << 10, 256 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			var key [32]byte
			var through bytes.Buffer
			w := &Writer{w: into{&through}, state: recordState{g: newGCM(key)}}
			r := &Reader{r: memory{&through}, state: recordState{g: newGCM(key)}}
			in, out := make([]byte, size), make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.Write(in); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(r, out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// into is a writing half over memory.
type into struct{ io.Writer }

func (into) SetWriteDeadline(time.Time) error { return nil }
func (into) CloseWrite() error                { return nil }
