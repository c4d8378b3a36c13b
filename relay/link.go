package relay

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// The talk between the two ends of a tunnel (docs/link.md).
//
// The session calls greet, which sends the first hello. The direction from the device to the stream calls begin, which waits until it is decided how packets go. Meanwhile they stand in the
// device's own queue, where the kernel bounds them. The direction from the stream to the device calls receive, which reads hellos and frames and passes what it
// hears to heard. Nothing in receive ever waits for the stream to take something: what has to be said is said by a goroutine, talk, so that two ends that both
// write a lot can't wait for each other.
//
//	wire to the peer:    hello, [unframed packets], hello with SWITCH, frames
//	waiting --(a hello acknowledges ours)--> framed
//	waiting --(hello-timeout, or the peer sends something else)--> unframed --(a hello acknowledges ours)--> framed
type link struct {
	s       *Session
	dev     *Endpoint // the device
	stream  *Endpoint // what the packets travel over
	must    bool      // framing=link: the link protocol or nothing
	timeout time.Duration
	own     Hello
	log     *Log

	say     chan saying
	ended   chan struct{} // closed when the session is being interrupted
	once    sync.Once
	talking sync.WaitGroup

	decided chan struct{} // closed once packets may be sent
	decide  sync.Once

	mu     sync.Mutex             // held while something is written to the stream
	framed bool                   // what we send is framed
	torn   bool                   // a write has failed, maybe within a frame: nothing more can be said
	closed bool                   // the peer has been told of the end
	reason atomic.Pointer[string] // what it is told beside the code; nil: nothing
	vnet   bool                   // the peer takes packets with virtio-net headers

	// Of the receiving direction.
	peer     Hello       // the last hello of the peer
	met      bool        // there was one
	acked    atomic.Bool // it has heard ours
	hellos   int
	switched bool // what we receive is framed
	looked   bool // the first bytes of a peer that sends no hello have been looked at
	warned   bool

	beat      heartbeat
	peerCaps  atomic.Uint32         // Caps, once control frames can be sent
	peerNonce atomic.Pointer[Nonce] // the same, of datagrams
}

// saying is something for the goroutine talk to write.
type saying struct {
	hello *Hello
	frame []byte // of a stream; over datagrams the control of the hello
	then  func() // called after it was written, with mu held
}

// mostHellos bounds how many hellos of one peer are listened to.
const mostHellos = 16

// prepareFraming decides how packets travel, and makes the link if hellos are exchanged.
func (s *Session) prepareFraming() error {
	for _, pair := range [][2]*Endpoint{{s.left, s.right}, {s.right, s.left}} {
		dev, over := pair[0], pair[1]
		if over.IsDevice() || over.Framing != FramingUnset && dev.Traffic == Stream {
			if over.Framing != FramingUnset && over.Framing != FramingNone {
				return errors.Errorf("%s: framing=%s frames packets, but %s carries none: it belongs to the byte stream that a TUN, TAP or INTERFACE address is joined to",
					over.Label, over.Framing, dev.Label)
			}
			continue
		}
		if dev.Traffic == Stream {
			continue
		}
		both := s.ltr != nil && s.rtl != nil
		switch over.Framing {
		case FramingUnset:
			over.Framing = FramingNone
			if dev.IsDevice() && both && over.CanAnswer {
				over.Framing = FramingAuto
			}
		case FramingAuto:
			if !dev.IsDevice() || !both {
				over.Framing = FramingNone
			}
		case FramingLink:
			if !dev.IsDevice() || !both {
				return errors.Errorf("%s: framing=link needs a TUN, TAP or INTERFACE address on the other side and both directions", over.Label)
			}
		case FramingU16, FramingQemu, FramingSlip:
			if over.Traffic != Stream {
				return errors.Errorf("%s: framing=%s is for byte streams; datagrams keep their borders by themselves", over.Label, over.Framing)
			}
			if dev.PI {
				s.cfg.Log.Warnf("%s: packets have packet information in front, which most that speak framing=%s do not expect: option iff-no-pi leaves it out", dev.Label, over.Framing)
			}
		}
		if over.Framing == FramingAuto || over.Framing == FramingLink {
			l := newLink(s, dev, over)
			s.mu.Lock()
			s.link = l
			s.mu.Unlock()
		}
		if err := s.carryPackets(dev, over); err != nil {
			return err
		}
		if over.Traffic == Stream && dev.IsDevice() {
			s.cfg.Log.Infof("packets of %s travel over %s with framing=%s", dev.Label, over.Label, over.Framing)
		}
	}
	return nil
}

// carryPackets tells an endpoint what packets of a device will travel over it.
func (s *Session) carryPackets(dev, over *Endpoint) error {
	if !dev.IsDevice() || over.CarryPackets == nil {
		return nil
	}
	longest := dev.MTU
	if dev.Traffic == TAP {
		longest += etherLen
	}
	if dev.PI {
		longest += piLen
	}
	whole, err := over.CarryPackets()
	if err != nil {
		return errors.Wrap(err, over.Label)
	}
	if whole > 0 && longest > whole && dev.MTU > 0 {
		s.cfg.Log.Warnf("%s: packets of %s with its MTU of %d do not fit into a datagram of this path and go in fragments, which is slow and which some networks drop: mtu=%d on the device avoids it",
			over.Label, dev.Label, dev.MTU, dev.MTU-(longest-whole))
	}
	return nil
}

func newLink(s *Session, dev, stream *Endpoint) *link {
	l := &link{s: s, dev: dev, stream: stream, must: stream.Framing == FramingLink, timeout: stream.HelloTimeout, log: s.cfg.Log,
		say: make(chan saying, 8), ended: make(chan struct{}), decided: make(chan struct{})}
	if l.timeout == 0 {
		l.timeout = DefaultHelloTimeout
	}
	l.own = Hello{Kind: DeviceTUN, PI: dev.PI, MTU: uint32(dev.MTU), Caps: CapHeartbeat | CapClose, Nonce: NewNonce(), Link: s.cfg.Identity, Software: Software}
	l.beat.every = stream.Heartbeat
	if l.beat.every == 0 {
		l.beat.every = DefaultHeartbeat
	}
	if dev.Traffic == TAP {
		l.own.Kind = DeviceTAP
	}
	if s.cfg.Streams.Count > 0 && stream.Traffic == Stream {
		l.own.Streams = s.cfg.Streams
		l.own.Caps |= CapStreams
	}
	if dev.Offload != nil && stream.Traffic == Stream {
		l.own.Caps |= dev.Offload.Caps()
	}
	return l
}

// Software is the name and version that hellos carry, for people.
var Software = "tunsplice"

// stop ends all waiting of the link.
func (l *link) stop() { l.once.Do(func() { close(l.ended) }) }

// greet sends the first hello and starts the goroutine that says what the receiving direction wants said. It ends with the session.
func (l *link) greet() {
	l.talking.Add(2)
	go l.talk()
	go l.watch()
	l.post(saying{hello: &Hello{}})
}

// Over datagrams the first hello is said again until the peer has heard it, with growing pauses, since it may get lost or come before the peer.
const firstHelloPause = 100 * time.Millisecond

// longestHelloPause is short where the user wants to know soon.
func (l *link) longestHelloPause() time.Duration {
	if e := l.beat.every; e > 0 {
		return max(e/2, firstHelloPause)
	}
	return DefaultHeartbeat / 2
}

// talk writes what is to be said.
func (l *link) talk() {
	defer l.talking.Done()
	var again <-chan time.Time
	pause := firstHelloPause
	if l.stream.Traffic != Stream {
		again = time.After(pause)
	}
	for {
		select {
		case <-l.ended:
			return
		case <-again:
			if l.acked.Load() {
				again = nil
				continue
			}
			l.post(saying{hello: &Hello{}})
			pause = min(2*pause, l.longestHelloPause())
			again = time.After(pause)
		case what := <-l.say:
			if err := l.write(what); err != nil {
				l.s.fail(err)
				return
			}
		}
	}
}

func (l *link) write(what saying) error {
	p := what.frame
	if what.hello != nil {
		var err error
		if p, err = what.hello.AppendPacket(nil); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if what.hello != nil && l.framed {
		return nil // the hello with SWITCH was the last; it acknowledges whatever this one would
	}
	_, err := l.stream.W.Write(p)
	l.torn = l.torn || err != nil
	switch {
	case err == nil && what.then != nil:
		what.then()
	case isGone(err): // what the peer said before it went is still to be read, and tells more
		err = nil
	case l.stream.onePacket(err): // a datagram: the peer may come later
		err = nil
	}
	return errors.Wrapf(err, "%s: write", l.stream.Label)
}

// post hands something to talk. What there is no room for is dropped: a peer that makes us answer faster than it reads does not need the answers.
func (l *link) post(what saying) {
	if what.hello != nil {
		h := l.own
		h.Ack, h.Peer, h.Switch, h.Refuse, h.Reason, h.Control = what.hello.Ack, what.hello.Peer, what.hello.Switch, what.hello.Refuse, what.hello.Reason, what.hello.Control
		what.hello = &h
	}
	select {
	case l.say <- what:
	default:
	}
}

// begin waits until it is decided how packets go. Over datagrams that is no more than who the peer is.
func (l *link) begin() error {
	timer := time.NewTimer(l.timeout)
	defer timer.Stop()
	select {
	case <-l.decided:
		return nil
	case <-l.ended:
		return nil
	case <-timer.C:
	}
	if l.acked.Load() { // the peer is known, and is being let in or refused
		select {
		case <-l.decided:
		case <-l.ended:
		}
		return nil
	}
	if l.must {
		l.log.Noticef("%s: no hello from the peer yet; packets wait for it", l.stream.Label)
		select {
		case <-l.decided:
		case <-l.ended:
		}
		return nil
	}
	return l.goUnframed(fmt.Sprintf("the peer has sent no hello within %s", l.timeout))
}

// goUnframed lets packets go as socat sends them, until the peer turns out to be one of ours after all.
func (l *link) goUnframed(why string) error {
	if err := l.s.admit(PeerInfo{Framing: FramingNone.String(), Framed: l.stream.Traffic != Stream}); err != nil {
		return errors.Wrap(err, l.stream.Label)
	}
	l.decide.Do(func() {
		defer close(l.decided)
		if l.stream.Traffic != Stream {
			return // each datagram is a packet all the same
		}
		l.log.Warnf("%s: %s: packets go unframed, as socat sends them, and a bulk transfer may break them; with tunsplice at the other end, or framing=u16 or qemu at both, they are safe",
			l.stream.Label, why)
	})
	return nil
}

// carries says whether d is the direction whose packets go out in frames. A nil link carries nothing.
func (l *link) carries(d *direction) bool {
	if l == nil || d.dst != l.stream || l.stream.Traffic != Stream {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.framed
}

// headLen implements packetSink.
func (l *link) headLen() int { return LinkHeadLen }

// The sinks of a link have no state; made once, they cost no allocation per batch.
var (
	plainSink = framedSink{f: &Link{Send: FramePacket}}
	vnetSink  = framedSink{f: &Link{Send: FramePacketVNet}, vnet: VNetLen}
)

// send implements packetSink: frames once the peer is known, single packets before.
func (l *link) send(d *direction, b *Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.framed {
		d.setWay("unframed")
		return unframed{}.send(d, b)
	}
	d.setWay("framed link")
	f := plainSink
	if b.VNet {
		f = vnetSink
	}
	err := f.send(d, b)
	l.torn = l.torn || err != nil
	return err
}

// wantsVNet says whether the next batch should have virtio-net headers.
func (l *link) wantsVNet() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.vnet
}

// foreign decides about a peer whose first bytes are no hello. Those that follow may be the middle of a packet, of which nothing can be told: it decides once.
func (l *link) foreign(first []byte) error {
	if l.met || l.looked {
		return nil
	}
	l.looked = true
	speaks := Foreign(first, l.own.Kind)
	switch {
	case l.must && speaks == "":
		speaks = "something else"
		fallthrough
	case l.must:
		return errors.Errorf("%s: the peer does not speak the link protocol but %s", l.stream.Label, speaks)
	case speaks != "" && !strings.Contains(speaks, "packet information"):
		return errors.Errorf("%s: the peer sends no packets: it speaks %s", l.stream.Label, speaks)
	}
	return l.goUnframed("the peer does not speak the link protocol")
}

// heard takes a hello; a session that must not go on gets an error.
func (l *link) heard(h *Hello, err error) error {
	if err != nil {
		l.refuse(h, err.Error())
		return errors.Wrap(err, l.stream.Label)
	}
	if l.hellos++; l.hellos > mostHellos && l.stream.Traffic == Stream {
		return errors.Errorf("%s: the peer sends hello after hello", l.stream.Label)
	}
	switch {
	case h.Nonce == l.own.Nonce:
		if l.must {
			return errors.Errorf("%s: the peer sends back what it is sent: it is an echo, not a tunnel", l.stream.Label)
		}
		return l.goUnframed("the peer sends back what it is sent")
	case h.Refuse:
		return errors.Errorf("%s: the peer refuses the link: %s", l.stream.Label, h.Reason)
	case h.Kind != l.own.Kind:
		why := fmt.Sprintf("one end is a %s device, the other a %s device: use the same tun-type at both", l.own.Kind, h.Kind)
		l.refuse(h, why)
		return errors.Errorf("%s: %s", l.stream.Label, why)
	}
	again := l.met && h.Nonce == l.peer.Nonce
	l.peer, l.met = *h, true
	if h.Acks(l.own.Nonce) {
		l.acked.Store(true)
	}
	if !again {
		l.log.Infof("%s: hello from %s, device %s, MTU %d", l.stream.Label, h.Software, h.Kind, h.MTU)
	}
	switch {
	case l.stream.Traffic != Stream:
		if err := l.admit(h); err != nil {
			return err
		}
		l.decide.Do(func() { close(l.decided) })
		l.peerNonce.Store(&h.Nonce)
		l.peerCaps.Store(uint32(h.Caps))
		if !h.Acks(l.own.Nonce) {
			l.post(saying{hello: &Hello{Ack: true, Peer: h.Nonce}})
		}
		if len(h.Control) > 0 {
			return l.controlOf(h)
		}
	case !h.Acks(l.own.Nonce):
		l.post(saying{hello: &Hello{Ack: true, Peer: h.Nonce}})
	default:
		return l.answered(h)
	}
	return nil
}

// admit lets the peer of a hello in, or tells it why not.
func (l *link) admit(h *Hello) error {
	err := l.s.admit(PeerInfo{Identity: h.Link, Framing: FramingLink.String(), MTU: int(h.MTU), Software: h.Software, Framed: true, Streams: h.Streams})
	if err != nil {
		l.refuse(h, err.Error())
		return errors.Wrap(err, l.stream.Label)
	}
	return nil
}

// answered takes a hello that acknowledges ours: from here on we send frames.
func (l *link) answered(h *Hello) error {
	if err := l.admit(h); err != nil {
		return err
	}
	if h.Switch {
		l.switched = true
	}
	l.mu.Lock()
	framed := l.framed
	l.mu.Unlock()
	if framed || l.warned {
		return nil
	}
	l.warned = true // the switch is said once
	l.post(saying{hello: &Hello{Ack: true, Peer: h.Nonce, Switch: true}, then: func() {
		l.framed = true
		l.peerCaps.Store(uint32(h.Caps))
		l.vnet = l.own.Caps&h.Caps&CapVNet != 0
		if l.vnet {
			if err := l.dev.Offload.Accept(h.Caps); err != nil {
				l.log.Infof("%s: %v; packets are sent complete", l.dev.Label, err)
				l.vnet = false
			}
		}
		l.log.Noticef("%s: link to %s is up, packets are framed", l.stream.Label, h.Software)
		l.decide.Do(func() { close(l.decided) })
	}})
	return nil
}

// datagram takes a packet from a datagram transport: nil if it was a hello, else what the device takes.
func (l *link) datagram(d *direction, before, p []byte) ([]byte, error) {
	l.beat.heard.Add(1)
	h, err := ParseHello(p)
	if err != ErrNotHello {
		return nil, l.heard(&h, err)
	}
	if l.met {
		return l.dev.adapt(before, p, l.peer.PI), nil
	}
	if strings.HasPrefix(string(p[:min(len(p), len(keyMagic))]), keyMagic) {
		return nil, errors.Errorf("%s: the peer speaks %s", l.stream.Label, keySpeech)
	}
	select {
	case <-l.decided:
		return p, nil
	default:
	}
	if l.s.cfg.Admit == nil {
		return p, l.goUnframed("")
	}
	// Who sends this will be known soon.
	d.lose(errors.Errorf("%s: a packet came before the peer was known", l.stream.Label))
	return nil, nil
}
