package addr

import (
	"io"
	"os"
	"sync"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// The options that change how an endpoint's halves read, write and end. Every opener gives its descriptors to makeEndpoint, which puts these options
// into effect, so that each address type has all of them. A half that none of them touches stays the plain *relay.File, which can splice.
var (
	optCR = declare(kindConst, Option{Name: "cr", Groups: GAPPL, Phase: PhLate,
		Doc: "lines of this address end in CR: read as LF, and LF is written as CR"})
	optCRNL = declare(kindConst, Option{Name: "crnl", Aliases: "crlf", Groups: GAPPL, Phase: PhLate,
		Doc: "lines of this address end in CR LF: CR is taken out of what is read, and LF is written as CR LF"})
	optReadBytes = declare(kindSize, Option{Name: "readbytes", Aliases: "bytes", Groups: GAPPL, Phase: PhLate,
		Doc: "end of file after that many bytes, not one more is taken from the input; 0 is no limit"})
	optIgnoreEOF = declare(kindBool, Option{Name: "ignoreeof", Aliases: "ignoreof", Groups: GAPPL, Phase: PhLate,
		Doc: "at the end of file look for more data every second, as tail -f does"})
	optEscape = declare(kindEscape, Option{Name: "escape", Groups: GAPPL, Phase: PhInit,
		Doc: "a byte with this code (0 to 255) in the input is the end of file"})
	optNullEOF = declare(kindBool, Option{Name: "null-eof", Groups: GSOCKET, Phase: PhOffset,
		Doc: "an empty datagram is the end of file"})
	optCoolWrite = declare(kindBool, Option{Name: "cool-write", Aliases: "coolwrite", Groups: GFD, Phase: PhInit,
		Doc: "a reader that went away ends the transfer with a notice, not with an error"})

	optShutNone  = declare(kindConst, Option{Name: "shut-none", Groups: GFD, Phase: PhOffset, Doc: "at the end of writing do nothing"})
	optShutDown  = declare(kindConst, Option{Name: "shut-down", Groups: GFD, Phase: PhOffset, Doc: "at the end of writing call shutdown(SHUT_WR)"})
	optShutClose = declare(kindConst, Option{Name: "shut-close", Groups: GFD, Phase: PhOffset,
		Doc: "at the end of writing close the descriptor, also for reading"})
	optShutNull = declare(kindConst, Option{Name: "shut-null", Groups: GFD, Phase: PhOffset, Doc: "at the end of writing send an empty packet"})
	optEndClose = declare(kindConst, Option{Name: "end-close", Aliases: "close", Groups: GFD, Phase: PhOffset,
		Doc: "at the end only close the descriptors: no shutdown, and a program is neither waited for nor killed"})
)

var kindEscape = kindOf[int]{"INT", need(func(s string) (int, error) {
	n, err := parseUint(s, 255)
	return int(n), err
})}

// makeEndpoint makes an endpoint of open descriptors that have gone through their phases up to CONNECTED. r and w may be the same file; one of them is nil if
// the session does not use that direction. It applies the phases LATE and LATE2 and the options above, and sets Label, Framing and Close; Traffic and
// what else the type knows are the caller's to set. closeAll releases everything and is called once, here if there is an error.
func (b *Bound) makeEndpoint(r, w *relay.File, closeAll func() error) (*relay.Endpoint, error) {
	var reader relay.Reader
	var writer relay.Writer
	if r != nil {
		reader = r
	}
	if w != nil {
		writer = w
	}
	return b.makeEndpointOf(reader, writer, r, w, closeAll)
}

// makeEndpointOf is makeEndpoint for halves that are more than a descriptor, such as a datagram socket with a fixed peer: reader and writer are the halves, r and w
// the descriptors under them.
func (b *Bound) makeEndpointOf(reader relay.Reader, writer relay.Writer, r, w *relay.File, closeAll func() error) (*relay.Endpoint, error) {
	if err := b.applyLate(r, w); err != nil {
		closeAll()
		return nil, err
	}
	ep := &relay.Endpoint{Label: b.Label(), Close: sync.OnceValue(closeAll)}
	if reader != nil {
		ep.R = b.wrapReader(reader)
		if r != nil && r == w && optShutClose.Given(b) {
			ep.R = &closedIsEOF{wrapped{ep.R}}
		}
	}
	if writer != nil {
		ep.W = b.wrapWriter(writer, w)
	}
	ep.GoneIsEnd = optCoolWrite.Or(b, false)
	optEndClose.Given(b)
	ep.CarryPackets = func() (int, error) { return 0, b.carryPackets(r, w) }
	b.packetOptions(ep)
	return ep, nil
}

// applyLate applies the last phases to each descriptor.
func (b *Bound) applyLate(files ...*relay.File) error {
	return b.applyFiles(files, PhLate, PhLate2)
}

// applyFiles applies phases to each of the files that is not nil, once.
func (b *Bound) applyFiles(files []*relay.File, phases ...Phase) error {
	for i, f := range files {
		if f == nil || i > 0 && f == files[i-1] {
			continue
		}
		if err := onFile(f, func(fd int) error { return b.applyAll(fd, phases...) }); err != nil {
			return err
		}
	}
	return nil
}

// onFile calls do with the descriptor of an open file.
func onFile(f *relay.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var derr error
	if err := raw.Control(func(fd uintptr) { derr = do(int(fd)) }); err != nil {
		return err
	}
	return derr
}

// wrapReader puts the options that concern reading around a half. What is counted and looked for (readbytes, escape) are the bytes as they came.
func (b *Bound) wrapReader(r relay.Reader) relay.Reader {
	if optNullEOF.Or(b, false) {
		r = &nullEOF{wrapped{r}}
	}
	if optIgnoreEOF.Or(b, false) {
		r = &ignoreEOF{wrapped: wrapped{r}, every: time.Second, changed: make(chan struct{}, 1)}
	}
	if n := optReadBytes.Or(b, 0); n > 0 {
		r = &readBytes{wrapped{r}, n}
	}
	if code, ok := optEscape.Get(b); ok {
		r = &escapeReader{wrapped: wrapped{r}, code: byte(code)}
	}
	switch end := b.lineEnd(); end {
	case endCR, endCRNL:
		r = &lineReader{wrapped{r}, end}
	}
	return r
}

// lineEnd says how lines of the address end.
func (b *Bound) lineEnd() lineEnd {
	switch {
	case optCRNL.Given(b):
		return endCRNL
	case optCR.Given(b):
		return endCR
	}
	return endAny
}

// wrapWriter puts the options that concern writing around a half, and settles what CloseWrite does. w is the descriptor under it.
func (b *Bound) wrapWriter(half relay.Writer, w *relay.File) relay.Writer {
	var shut func() error
	switch {
	case optShutNone.Given(b):
		shut = func() error { return nil }
	case optShutDown.Given(b) && w != nil:
		shut = w.Shutdown
	case optShutClose.Given(b) && w != nil:
		shut = func() error { return closeForAll(w) }
	case optShutNull.Given(b):
		plain := half
		shut = func() error { _, err := plain.Write(nil); return err }
	case optEndClose.Given(b):
		shut = func() error { return nil }
	}
	if end := b.lineEnd(); end != endAny {
		half = &lineWriter{Writer: half, end: end}
	}
	switch {
	case shut == nil:
	case w != nil:
		w.OnCloseWrite(shut)
	default:
		half = &shutWriter{half, shut}
	}
	return half
}

// checkHalves finds options above that contradict each other.
func (b *Bound) checkHalves() error {
	var shut string
	for _, k := range []Key[bool]{optShutNone, optShutDown, optShutClose, optShutNull} {
		if !k.Given(b) {
			continue
		}
		if shut != "" {
			return errors.Errorf("options %s and %s exclude each other", shut, k.opt.Name)
		}
		shut = k.opt.Name
	}
	if optCR.Given(b) && optCRNL.Given(b) {
		return errors.New("options cr and crnl exclude each other")
	}
	return nil
}

// closeForAll closes a file so that whoever reads its other end sees the end. The number of an inherited descriptor is not set free, where another file
// would take its place and get what is written to, say, standard output: /dev/null takes it.
func closeForAll(f *relay.File) error {
	given := f.Fd()
	inherited := false
	if err := onFile(f, func(fd int) error { inherited = fd != given; return nil }); err != nil {
		return nil // closed before
	}
	err := f.Close()
	if !inherited {
		return err
	}
	null, nerr := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if nerr != nil {
		return errors.Wrap(nerr, os.DevNull)
	}
	defer unix.Close(null)
	if nerr := unix.Dup3(null, given, 0); nerr != nil {
		return errors.Wrapf(nerr, "descriptor %d", given)
	}
	return err
}

// closedIsEOF reads from a descriptor that the writing side closes at its end.
type closedIsEOF struct{ wrapped }

// Read implements relay.Reader.
func (c *closedIsEOF) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if errors.Is(err, os.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

// shutWriter is a half with a CloseWrite of its own.
type shutWriter struct {
	relay.Writer
	shut func() error
}

// CloseWrite implements relay.Writer.
func (s *shutWriter) CloseWrite() error { return s.shut() }

// Fd returns the number of the descriptor, for messages.
func (s *shutWriter) Fd() int { return fdOf(s.Writer) }
