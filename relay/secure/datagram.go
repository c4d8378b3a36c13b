package secure

import (
	"context"
	"encoding/binary"
	"os"
	"slices"
	"sync"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
)

// Theory of operation of datagrams
//
// A data packet names its session and carries its own counter, so that packets may be lost, doubled and come in any order:
//
//	 0  1  type: 0x8a data, 0x8b sign of life (no plaintext)
//	 1  3  session: the first bytes of the handshake hash
//	 4  8  counter of the sender, big-endian, from 0
//	12  .  AES-256-GCM of the plaintext; the 12 bytes in front as associated data, the counter as nonce
//
// A handshake may begin at any time, from either side: at the start, when the peer has begun anew, when nothing comes back any more, when the session is old. The initiator sends its
// first message again and again. The answering end makes a session of it at once but neither sends under it nor hands out a byte until a packet of that session has come: a recorded first
// message gets an answer and changes nothing. The session that it replaces is listened to until the next change, for packets that were on their way.
//
// Packets are read by one goroutine, which never waits for a write: what it wants said is said by a second one, keeper, which also has the clock. Two ends whose sockets are full both
// ways go on reading. An idle session wakes nobody.
const (
	packetData  = 0x8a
	packetAlive = 0x8b

	sessionIDLen = 3
	packetHead   = 1 + sessionIDLen + 8

	// Overhead is how much longer than its plaintext a packet is, in bytes.
	Overhead = packetHead + tagLen
)

// What is due when.
const (
	firstPause    = 100 * time.Millisecond // until the first message is sent again; doubles
	longestPause  = 2 * time.Second
	confirmPause  = 250 * time.Millisecond  // until the initiator says again that it has the answer
	noAnswer      = time.Second             // after this the user is told that nobody answers
	silence       = 1500 * time.Millisecond // data went out and nothing comes back: a new handshake
	aliveAfter    = 500 * time.Millisecond  // data came in and nothing goes back: a sign of life
	sessionAge    = 10 * time.Minute        // a new handshake, so that a key found later opens no more than this
	sessionLimit  = 1 << 32                 // the same, in packets
	counterLimit  = 1 << 33                 // nothing is sent under a session beyond this
	mostAnswered  = 8                       // sessions that wait for the initiator's first packet
	giveUpSilence = 30 * time.Second        // without data to send, a handshake that nobody answers is left alone
)

// session is the result of one handshake.
type session struct {
	*keys
	first     [ephemeralLen]byte // of the answering end: the key of the first message, to know it again
	reply     [messageLen]byte   // and the answer to it
	initiator bool
	counter   uint64 // of the next packet to send
	heard     bool   // a packet of the peer has come under it
	window    window
	made      time.Time
}

// Datagrams carries plaintext packets over an endpoint of datagrams, as both halves of one: one goroutine reads, any may write.
type Datagrams struct {
	r    relay.Reader
	w    relay.Writer
	key  *Key
	log  *relay.Log
	name string           // in front of messages
	one  func(error) bool // says that an error concerns one packet only, or a peer that is not there yet

	refused, strangers, failures relay.Limiter // of messages about handshakes, packets in clear text, packets of others

	in    *relay.Batch // what was read; nil during the handshake
	at    int          // the first packet of in that was not taken
	early []byte       // a packet of data that ended the handshake
	plain []byte       // for Read

	wmu    sync.Mutex   // held during a write; taken before mu
	out    []byte       // grows to the longest packet that was sent
	sealed *relay.Batch // for WriteBatch; nil before the first

	mu       sync.Mutex // guards what follows; never held during a write
	now      *session   // what is sent goes under it; nil: no handshake has ended
	before   *session   // the one before it, nil: none
	answered []*session // by us, the oldest first; nothing has come under them
	opening  *opening   // under way, nil: none
	replies  []*[messageLen]byte
	sayAlive bool
	wake     time.Time // when keeper has something to do, zero: never

	pause      time.Duration
	resend     time.Time // when the first message goes out again
	since      time.Time // when the handshake under way began
	told       bool      // that nobody answers
	unanswered time.Time // when the first data went out behind which nothing has come; zero: none
	owed       time.Time // when the first data came behind which nothing has gone; zero: none
	lastData   time.Time // when data went out
	confirmed  time.Time // when the peer was told last that we have its answer

	kick   chan struct{} // holds one element if wake has become earlier
	stop   chan struct{}
	close  sync.Once
	keeper sync.WaitGroup
}

// NewDatagrams prepares the encryption over r and w, which stay the caller's to close, after Close. onePacket says of an error that it concerns one packet only; name stands in front
// of messages.
func NewDatagrams(r relay.Reader, w relay.Writer, onePacket func(error) bool, key *Key, log *relay.Log, name string) *Datagrams {
	d := &Datagrams{r: r, w: w, key: key, log: log, name: name,
		kick: make(chan struct{}, 1), stop: make(chan struct{})}
	d.one = func(err error) bool { return absent(err) || onePacket != nil && onePacket(err) }
	d.keeper.Go(d.keep)
	return d
}

// Close ends what goes on by itself.
func (d *Datagrams) Close() {
	d.close.Do(func() {
		close(d.stop)
		d.w.SetWriteDeadline(time.Unix(1, 0))
		d.keeper.Wait()
	})
}

// Handshake waits until the peer has shown that it holds the key. It ends with ctx, which has to interrupt the reading too.
func (d *Datagrams) Handshake(ctx context.Context, role Role) error {
	if role == Initiate {
		d.mu.Lock()
		err := d.open(time.Now())
		d.mu.Unlock()
		if err != nil {
			return err
		}
	}
	buf := make([]byte, handshakeBuffer)
	for {
		n, err := d.r.Read(buf)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case err != nil && !d.one(err):
			return errors.Wrap(err, "handshake")
		case err != nil:
			continue
		}
		data, ok, err := d.take(nil, buf[:n])
		if err != nil {
			return err
		}
		if ok {
			d.early = data
			if data == nil {
				d.early = []byte{}
			}
		}
		d.mu.Lock()
		done := d.now != nil
		d.mu.Unlock()
		if done {
			return nil
		}
	}
}

// handshakeBuffer is the size of the buffer for packets during the handshake, in bytes: who has not shown the key gets no more. A longer packet of data at its end is lost, as packets
// may be.
const handshakeBuffer = 2048

// next returns the next packet from the wire. It is valid until the call after.
func (d *Datagrams) next() ([]byte, error) {
	if d.in == nil {
		d.in = relay.NewBatch(0)
	}
	for d.at == d.in.Len() {
		d.at = 0
		d.in.Reset()
		if br, ok := d.r.(relay.BatchReader); ok {
			if err := br.ReadBatch(d.in); err != nil {
				return nil, err
			}
			continue
		}
		n, err := d.r.Read(d.in.Room())
		if err != nil {
			return nil, err
		}
		d.in.Commit(n)
	}
	d.at++
	return d.in.Packet(d.at - 1), nil
}

// Read implements relay.Reader: one packet.
func (d *Datagrams) Read(p []byte) (int, error) {
	for {
		data, ok := d.early, d.early != nil
		d.early = nil
		if !ok {
			packet, err := d.next()
			if err == nil {
				data, ok, err = d.take(d.plain[:0], packet)
			}
			if err != nil {
				return 0, err
			}
			if ok && cap(data) > cap(d.plain) {
				d.plain = data
			}
		}
		if ok {
			if len(data) > len(p) {
				return 0, errors.Errorf("packet of %d bytes is longer than the buffer", len(data))
			}
			return copy(p, data), nil
		}
	}
}

// ReadBatch implements relay.BatchReader.
func (d *Datagrams) ReadBatch(b *relay.Batch) error {
	for {
		room := b.Room()
		if room == nil || b.Len() > 0 && (d.in == nil || d.at == d.in.Len()) {
			return nil
		}
		if d.early != nil {
			b.Commit(copy(room, d.early))
			d.early = nil
			continue
		}
		p, err := d.next()
		if err != nil {
			return err
		}
		data, ok, err := d.take(room[:0], p)
		if err != nil {
			return err
		}
		if ok {
			b.Commit(len(data))
		}
	}
}

// take deals with one packet from the wire. If it holds data of the peer, they are appended to dst, which may have to grow.
func (d *Datagrams) take(dst, p []byte) (data []byte, ok bool, err error) {
	if kind, good, herr := header(p); good && len(p) == messageLen && herr == nil {
		return nil, false, d.message(kind, p)
	} else if herr != nil {
		d.say(&d.strangers, "%s: %s", d.name, herr)
		return nil, false, nil
	}
	if len(p) < Overhead || p[0] != packetData && p[0] != packetAlive {
		d.say(&d.strangers, "%s: passing over a packet: %s", d.name, foreign(p))
		return nil, false, nil
	}
	d.mu.Lock()
	s := d.session([sessionIDLen]byte(p[1:]))
	d.mu.Unlock()
	counter := binary.BigEndian.Uint64(p[1+sessionIDLen:])
	if s == nil || !s.window.fresh(counter) { // of a session that is over, or a replay
		return nil, false, nil
	}
	data, err = s.receive.open(dst, counter, p[packetHead:], p[:packetHead])
	if err != nil {
		d.say(&d.failures, "%s: passing over packets that are not authentic", d.name)
		return nil, false, nil
	}
	s.window.mark(counter)
	isData := p[0] == packetData
	if data == nil {
		data = dst
	}
	d.came(s, isData)
	return data, isData, nil
}

// session finds the session of a packet, nil if it is unknown. d.mu is held.
func (d *Datagrams) session(id [sessionIDLen]byte) *session {
	if d.now != nil && d.now.id == id {
		return d.now
	}
	for _, s := range d.answered {
		if s.id == id {
			return s
		}
	}
	if d.before != nil && d.before.id == id {
		return d.before
	}
	return nil
}

// came notes that an authentic packet has come under s.
func (d *Datagrams) came(s *session, data bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unanswered = time.Time{}
	if !s.heard {
		s.heard = true
		if s != d.now && s != d.before { // answered by us
			d.replace(s)
			d.sayAlive = true
			d.arm(s.made)
			return
		}
	}
	if data && d.owed.IsZero() {
		d.owed = time.Now()
		d.arm(d.owed.Add(aliveAfter))
	}
}

// replace makes s the session that is sent under. d.mu is held.
func (d *Datagrams) replace(s *session) {
	d.before, d.now, d.opening, d.answered, d.told = d.now, s, nil, nil, false
	s.made = time.Now()
	if d.before == nil {
		d.log.Infof("%s: the peer has the key", d.name)
	} else {
		d.log.Infof("%s: a new session under the key", d.name)
	}
}

// message deals with a handshake message.
func (d *Datagrams) message(kind byte, p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if kind == kindAnswer {
		if d.opening == nil {
			return nil // a second answer
		}
		k, err := d.opening.finish(p)
		if err != nil {
			d.say(&d.refused, "%s: an answer to the handshake is not authentic: %s", d.name, err)
			return nil
		}
		d.replace(&session{keys: k, initiator: true})
		d.unanswered, d.sayAlive = d.now.made, true
		d.arm(d.now.made)
		return nil
	}
	for _, s := range append(slices.Clip(d.answered), d.now, d.before) {
		if s == nil || s.initiator || s.first != [ephemeralLen]byte(p[headerLen:]) {
			continue
		}
		if s != d.now && s != d.before { // our answer was lost or late
			d.reply(&s.reply)
		}
		return nil
	}
	if d.opening != nil {
		switch loses, err := d.opening.loses(p); {
		case err != nil && d.now == nil:
			return err
		case err != nil || !loses:
			return nil // the peer answers our message
		}
		// Ours stays open all the same: this one may be a recording.
	}
	reply, k, err := answer(d.key, prologueDatagrams, p)
	if err != nil {
		d.say(&d.refused, "%s: a handshake is refused: %s", d.name, err)
		return nil
	}
	s := &session{keys: k, reply: reply}
	copy(s.first[:], p[headerLen:])
	if len(d.answered) == mostAnswered {
		d.answered = slices.Delete(d.answered, 0, 1)
	}
	d.answered = append(d.answered, s)
	d.reply(&s.reply)
	return nil
}

// reply has keeper send an answer. One of a peer that makes us answer faster than we can is dropped: the peer asks again. d.mu is held.
func (d *Datagrams) reply(message *[messageLen]byte) {
	if len(d.replies) < mostAnswered {
		d.replies = append(d.replies, message)
		d.arm(time.Now())
	}
}

// open begins a handshake. d.mu is held.
func (d *Datagrams) open(t time.Time) error {
	o, err := newOpening(d.key, prologueDatagrams)
	if err != nil {
		return err
	}
	d.opening, d.pause, d.since, d.resend = o, 0, t, t
	d.arm(t)
	return nil
}

// SetReadDeadline and SetWriteDeadline implement relay.Reader and relay.Writer.
func (d *Datagrams) SetReadDeadline(t time.Time) error  { return d.r.SetReadDeadline(t) }
func (d *Datagrams) SetWriteDeadline(t time.Time) error { return d.w.SetWriteDeadline(t) }

// CloseWrite implements relay.Writer.
func (d *Datagrams) CloseWrite() error { return d.w.CloseWrite() }

// Fd returns the number of the descriptor, for messages; -1 if there is none.
func (d *Datagrams) Fd() int { return fdOf(d.r) }

// say logs a message at a limited rate.
func (d *Datagrams) say(l *relay.Limiter, format string, args ...any) {
	if ok, held := l.Allow(); ok {
		if held > 0 {
			format += " (and %d more since the last such message)"
			args = append(args, held)
		}
		d.log.Warnf(format, args...)
	}
}
