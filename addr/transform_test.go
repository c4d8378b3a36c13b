package addr

import (
	"bytes"
	"io"
	"math/rand"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/pkg/errors"
)

// pieces is a half that gives its data in pieces of random sizes.
type pieces struct {
	data  []byte
	sizes *rand.Rand
	last  time.Time
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := min(len(p.data), len(b), 1+p.sizes.Intn(5))
	copy(b, p.data[:n])
	p.data = p.data[n:]
	return n, nil
}
func (p *pieces) SetReadDeadline(t time.Time) error { p.last = t; return nil }

// sink is a half that keeps what is written; short makes it take that many bytes in all.
type sink struct {
	bytes.Buffer
	short int
}

func (s *sink) Write(p []byte) (int, error) {
	if s.short > 0 && s.Len()+len(p) > s.short {
		n, _ := s.Buffer.Write(p[:s.short-s.Len()])
		return n, io.ErrShortWrite
	}
	return s.Buffer.Write(p)
}
func (s *sink) SetWriteDeadline(time.Time) error { return nil }
func (s *sink) CloseWrite() error                { return nil }

func FuzzLineEnds(f *testing.F) {
	f.Add([]byte("a\rb\r\nc\r\r\nd\n\re\r"), int64(1), true)
	f.Add([]byte("\r\r\r"), int64(2), true)
	f.Add([]byte("\n\n"), int64(3), false)
	f.Fuzz(func(t *testing.T, data []byte, seed int64, crnl bool) {
		end, readModel, writeModel := endCR, strings.NewReplacer("\r", "\n"), strings.NewReplacer("\n", "\r")
		if crnl {
			end, readModel, writeModel = endCRNL, strings.NewReplacer("\r", ""), strings.NewReplacer("\n", "\r\n")
		}
		src := &pieces{data: bytes.Clone(data), sizes: rand.New(rand.NewSource(seed))}
		got, err := io.ReadAll(&lineReader{wrapped{src}, end})
		if err != nil || string(got) != readModel.Replace(string(data)) {
			t.Errorf("read %q as %q, %v", data, got, err)
		}
		dst := &sink{}
		w := &lineWriter{Writer: dst, end: end}
		src = &pieces{data: bytes.Clone(data), sizes: src.sizes}
		n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{src}, make([]byte, 7))
		if err != nil || n != int64(len(data)) || dst.String() != writeModel.Replace(string(data)) {
			t.Errorf("wrote %q as %q, %d, %v", data, dst.String(), n, err)
		}
	})
}

func TestLineWriterShort(t *testing.T) {
	for short, want := range []int{1: 1, 2: 1, 3: 2, 4: 3, 5: 3} {
		if short == 0 {
			continue
		}
		w := &lineWriter{Writer: &sink{short: short}, end: endCRNL}
		if n, err := w.Write([]byte("a\nb\nc\n")); n != want || err != io.ErrShortWrite {
			t.Errorf("of %d bytes: %d, %v; want %d", short, n, err, want)
		}
	}
}

func TestReadBytes(t *testing.T) {
	src := &pieces{data: []byte("123456789"), sizes: rand.New(rand.NewSource(1))}
	got, err := io.ReadAll(&readBytes{wrapped{src}, 4})
	if string(got) != "1234" || err != nil || string(src.data) != "56789" {
		t.Errorf("%q, %v; left %q", got, err, src.data)
	}
}

func TestEscape(t *testing.T) {
	for _, c := range []struct{ in, out string }{{"abc\x1ddef", "abc"}, {"\x1d", ""}, {"abc", "abc"}, {"", ""}} {
		src := struct {
			io.Reader
			*pieces
		}{iotest.DataErrReader(strings.NewReader(c.in)), nil}
		got, err := io.ReadAll(&escapeReader{wrapped: wrapped{deadlineless{src.Reader}}, code: 29})
		if string(got) != c.out || err != nil {
			t.Errorf("%q: %q, %v", c.in, got, err)
		}
	}
}

type deadlineless struct{ io.Reader }

func (deadlineless) SetReadDeadline(time.Time) error { return nil }

func TestIgnoreEOFReadsOn(t *testing.T) {
	src := &pieces{sizes: rand.New(rand.NewSource(1))}
	e := &ignoreEOF{wrapped: wrapped{src}, every: time.Millisecond, changed: make(chan struct{}, 1)}
	e.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := e.Read(make([]byte, 9)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d, %v", n, err)
	}
	if src.last.IsZero() {
		t.Error("the deadline did not reach the half inside")
	}
	e.SetReadDeadline(time.Time{})
	src.data = []byte("more")
	if n, err := e.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	// A deadline that comes while the half pauses ends the pause.
	e.every, src.data = time.Hour, nil
	done := make(chan error)
	go func() { _, err := e.Read(make([]byte, 9)); done <- err }()
	e.SetReadDeadline(time.Unix(1, 0))
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
}
