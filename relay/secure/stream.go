package secure

import (
	"io"
	"sync"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Sizes in bytes.
const (
	writeSize = 256<<10 + 4*(recordHead+tagLen) // the records of one Write of 256 KiB
	readSize  = 256 << 10
	idleSize  = 4 << 10 // of the read buffer until a stream proves busy, so that many idle ones cost little
)

var (
	writeBuffers = sync.Pool{New: func() any { return new([writeSize]byte) }}
	readBuffers  = sync.Pool{New: func() any { return new([readSize]byte) }}
)

// Stream shakes hands over a byte stream and returns halves that carry plaintext. It waits in r and w, whose deadlines interrupt it. r and w stay the caller's to close; call
// Writer.Finish before.
func Stream(r relay.Reader, w relay.Writer, key *Key, role Role) (*Reader, *Writer, error) {
	var o *opening
	var buf [messageLen]byte
	if role == Initiate {
		var err error
		if o, err = newOpening(key, prologueStream); err != nil {
			return nil, nil, err
		}
		if _, err := w.Write(o.message[:]); err != nil {
			return nil, nil, handshakeError(err, true)
		}
	}
	kind, err := readMessage(r, &buf, o != nil)
	if err != nil {
		return nil, nil, err
	}
	if kind == kindFirst && o != nil {
		loses, err := o.loses(buf[:])
		switch {
		case err != nil:
			return nil, nil, err
		case loses:
			o = nil
		default: // the peer sees that too, and answers ours
			if err := checkFirst(key, prologueStream, buf[:]); err != nil {
				return nil, nil, err
			}
			if kind, err = readMessage(r, &buf, true); err != nil {
				return nil, nil, err
			}
		}
	}
	switch {
	case o != nil && kind == kindAnswer:
		k, err := o.finish(buf[:])
		if err != nil {
			return nil, nil, err
		}
		rd, wr := newHalves(r, w, k)
		if _, err := wr.Write(nil); err != nil {
			return nil, nil, handshakeError(err, true)
		}
		return rd, wr, nil
	case o == nil && kind == kindFirst:
		reply, k, err := answer(key, prologueStream, buf[:])
		if err != nil {
			return nil, nil, err
		}
		if _, err := w.Write(reply[:]); err != nil {
			return nil, nil, handshakeError(err, true)
		}
		rd, wr := newHalves(r, w, k)
		return rd, wr, rd.confirm()
	}
	return nil, nil, ErrKey
}

func newHalves(r relay.Reader, w relay.Writer, k *keys) (*Reader, *Writer) {
	return &Reader{r: r, state: recordState{g: k.receive}}, &Writer{w: w, state: recordState{g: k.send}}
}

// readMessage reads one handshake message into buf, and not a byte more. What cannot become one is refused at once.
func readMessage(r io.Reader, buf *[messageLen]byte, spoken bool) (kind byte, err error) {
	for n := 0; n < messageLen; {
		got, err := r.Read(buf[n:])
		n += got
		if got > 0 {
			var ok bool
			switch kind, ok, err = header(buf[:n]); {
			case err != nil:
				return 0, err
			case !ok:
				return 0, foreign(buf[:n])
			}
			continue
		}
		if err != nil {
			return 0, handshakeError(err, spoken || n > 0)
		}
	}
	return kind, nil
}

// foreign is the error of a peer that sends something else in place of a handshake.
func foreign(first []byte) error {
	if len(first) >= len(magic) && string(first[:len(magic)]) == magic {
		return ErrKey
	}
	if _, n, more, _ := relay.FindHello(first); n > 0 || more && len(first) > 20 {
		return errors.New("the peer has no key: it speaks the link protocol in clear text")
	}
	if speaks := relay.Foreign(first, 0); speaks != "" {
		return errors.Errorf("the peer has no key: it speaks %s", speaks)
	}
	return ErrKey
}

// handshakeError puts the end of a connection into words; spoken says that one of both sides had said something.
func handshakeError(err error, spoken bool) error {
	gone := err == io.EOF || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
	switch {
	case gone && spoken:
		return errors.New("the peer closed the connection during the handshake: it has another key, or none")
	case gone:
		return errors.New("the peer closed the connection without a word")
	}
	return errors.Wrap(err, "handshake")
}

// Reader is the readable half: Read returns the peer's data. It ends with io.EOF only where the peer has said so under the key; with relay.ErrBrokenOff if the peer has broken off;
// else with a *RecordError or an error that says that the stream was cut off.
type Reader struct {
	r     relay.Reader
	state recordState
	err   error // ended the stream

	first   [idleSize]byte
	buf     []byte // holds what was read; nil: nothing yet
	large   *[readSize]byte
	at, end int    // of what was read and not decrypted
	plain   []byte // decrypted, in buf, and not returned yet
}

// confirm reads the first record of the initiator, which is empty.
func (r *Reader) confirm() error {
	var record [recordHead + tagLen]byte
	if _, err := io.ReadFull(r.r, record[:]); err != nil {
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		return handshakeError(err, true)
	}
	n, err := recordLen(record[:])
	if err == nil && n == len(record) && record[0] == recordData {
		_, err = r.state.open(nil, record[:])
	} else {
		err = ErrKey
	}
	if err != nil {
		return ErrKey
	}
	return nil
}

// Read implements relay.Reader.
func (r *Reader) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if len(r.plain) > 0 {
			m := copy(p[n:], r.plain)
			r.plain = r.plain[m:]
			n += m
		}
		if n == len(p) && n > 0 {
			return n, nil
		}
		length, err := 0, r.err
		if err == nil {
			length, err = recordLen(r.buf[r.at:r.end])
		}
		switch {
		case err == nil && length > 0 && length <= r.end-r.at:
			m, err := r.record(p[n:], r.buf[r.at:r.at+length])
			r.at += length
			r.err = err
			n += m
			continue
		case n > 0: // what is there goes first; the error, if any, comes with the next call
			return n, nil
		case err != nil:
			r.err = err
			r.release()
			return 0, err
		}
		if err := r.fill(length); err != nil {
			return 0, err
		}
	}
}

// record takes one whole record: its data go to p if they fit, else they stay in place, as plain.
func (r *Reader) record(p, record []byte) (n int, err error) {
	size := len(record) - recordHead - tagLen
	if record[0] == recordData && size <= len(p) {
		_, err := r.state.open(p[:0], record)
		if err != nil {
			return 0, err
		}
		return size, nil
	}
	plain, err := r.state.open(record[recordHead:recordHead], record)
	switch {
	case err != nil:
		return 0, err
	case record[0] == recordData:
		r.plain = plain
		return 0, nil
	case len(plain) == 1 && plain[0] == endOfData:
		return 0, io.EOF
	}
	return 0, relay.ErrBrokenOff
}

// fill reads more. length is that of the record that has begun, 0 if unknown. No plaintext is left in the buffer.
func (r *Reader) fill(length int) error {
	if r.buf == nil {
		r.buf = r.first[:]
	}
	if r.at == r.end {
		r.at, r.end = 0, 0
	}
	busy := r.end == len(r.buf) || length > len(r.buf)
	switch {
	case r.large == nil && busy:
		r.large = readBuffers.Get().(*[readSize]byte)
		r.end = copy(r.large[:], r.buf[r.at:r.end])
		r.at, r.buf = 0, r.large[:]
	case r.at > 0 && (length == 0 || r.at+length > len(r.buf) || len(r.buf)-r.end < len(r.buf)/2):
		r.end = copy(r.buf, r.buf[r.at:r.end])
		r.at = 0
	}
	n, err := r.r.Read(r.buf[r.end:])
	r.end += n
	switch {
	case n > 0:
		return nil
	case err == io.EOF, errors.Is(err, unix.ECONNRESET):
		r.err = errCutOff
		r.release()
		return r.err
	}
	return err
}

// release gives the large buffer back at the end of the stream.
func (r *Reader) release() {
	if r.large != nil && len(r.plain) == 0 {
		readBuffers.Put(r.large)
		r.large, r.buf, r.at, r.end = nil, nil, 0, 0
	}
}

// SetReadDeadline implements relay.Reader.
func (r *Reader) SetReadDeadline(t time.Time) error { return r.r.SetReadDeadline(t) }

// Fd returns the number of the descriptor, for messages; -1 if there is none.
func (r *Reader) Fd() int { return fdOf(r.r) }

func fdOf(half any) int {
	if f, ok := half.(interface{ Fd() int }); ok {
		return f.Fd()
	}
	return -1
}

// Writer is the writable half. It may be used by several goroutines.
type Writer struct {
	w     relay.Writer
	mu    sync.Mutex // held during a write
	state recordState
	ended bool  // the end was sent
	err   error // of a write: the stream can't go on behind half a record
}

// Write implements relay.Writer. All its records leave in as few writes as fit 256 KiB each.
func (w *Writer) Write(p []byte) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.err != nil:
		return 0, w.err
	case w.ended:
		return 0, errors.New("write after the end of data")
	}
	buf := writeBuffers.Get().(*[writeSize]byte)
	defer writeBuffers.Put(buf)
	for first := true; first || n < len(p); first = false {
		out, m := buf[:0], n
		for again := true; again || m < len(p) && len(out)+maxRecord <= len(buf); again = false {
			size := min(len(p)-m, maxPlain)
			out = w.state.seal(out, recordData, p[m:m+size])
			m += size
		}
		if _, err := w.w.Write(out); err != nil {
			w.err = err
			return n, err
		}
		n = m
	}
	return n, nil
}

// end sends the record that ends the direction, once.
func (w *Writer) end(why byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || w.err != nil {
		return nil
	}
	w.ended = true
	var record [recordHead + 1 + tagLen]byte
	_, w.err = w.w.Write(w.state.seal(record[:0], recordEnd, []byte{why}))
	return w.err
}

// CloseWrite implements relay.Writer: the peer gets the end of file.
func (w *Writer) CloseWrite() error {
	err := w.end(endOfData)
	if cerr := w.w.CloseWrite(); err == nil {
		err = cerr
	}
	return err
}

// finishTime is how long Finish waits for a peer that takes nothing.
const finishTime = 50 * time.Millisecond

// Finish tells the peer, if CloseWrite has not been called, that the data break off here. To be called before the stream is closed; it does not wait for a peer that does not read.
func (w *Writer) Finish() {
	if w.w.SetWriteDeadline(time.Now().Add(finishTime)) == nil {
		w.end(endBroken) // a peer that is gone needs to be told nothing
	}
}

// SetWriteDeadline implements relay.Writer. A Write that it interrupts is the last one.
func (w *Writer) SetWriteDeadline(t time.Time) error { return w.w.SetWriteDeadline(t) }

// Fd returns the number of the descriptor, for messages; -1 if there is none.
func (w *Writer) Fd() int { return fdOf(w.w) }
