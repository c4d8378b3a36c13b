package relay

import (
	"io"

	"github.com/pkg/errors"
)

// The receiving side of a link: finding hellos, frames and unframed packets in what the stream brings. What is done about a hello is in link.go.

// receive reads the stream: hellos, then frames, or unframed packets from a peer that knows nothing of this.
func (l *link) receive(d *direction, f *deframer) error {
	more := true
	for {
		if more {
			if err := f.fill(); err != nil {
				if !l.met && d.way.Load() == nil && f.end <= piLen && (err == io.EOF || isGone(err)) {
					l.log.Warnf("%s: the peer ended the connection without a word: if it has a key, this end needs it too (psk=FILE); if it has another framing, the same is needed here", l.stream.Label)
				}
				return d.leftover(f, err)
			}
			l.beat.heard.Add(1)
		}
		var err error
		switch {
		case l.switched:
			more, err = l.frame(d, f)
		case !l.met && f.at == piLen && f.border == piLen || d.dst.Traffic == TUN:
			more, err = l.border(d, f)
		default:
			more, err = l.borderless(d, f)
		}
		if err == errPeerClosed {
			d.s.peerClosed()
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var errPeerClosed = errors.New("the peer has closed the link")

// frame takes one link frame.
func (l *link) frame(d *direction, f *deframer) (more bool, err error) {
	typ, body, used, err := (&Link{}).NextFrame(f.unread())
	if err != nil {
		return false, l.broken(err)
	}
	if used == 0 {
		return true, nil
	}
	before := f.buf[:f.at+LinkHeadLen]
	f.use(used)
	switch typ {
	case FramePacket:
		p := d.dst.adapt(before, body, l.peer.PI)
		if p == nil {
			d.lose(errors.Errorf("%s: a packet of %d bytes is too short", l.stream.Label, len(body)))
			return false, nil
		}
		return false, d.putPacket(p)
	case FramePacketVNet:
		return false, l.putOffloaded(d, before, body)
	}
	return false, l.control(typ, body)
}

// putOffloaded writes a packet with virtio-net header to the device. before is that of adapt.
func (l *link) putOffloaded(d *direction, before, body []byte) error {
	if l.own.Caps&CapVNet == 0 {
		return l.broken(errors.New("the peer sends virtio-net headers, which were not offered"))
	}
	p := d.dst.adaptHeaded(before, body, l.peer.PI)
	if p == nil {
		d.lose(errors.Errorf("%s: a packet of %d bytes is too short", l.stream.Label, len(body)-VNetLen))
		return nil
	}
	body = p
	d.s.cfg.Dump.see(d, body[VNetLen:])
	return d.put(len(body)-VNetLen, d.dst.Offload.Put(body))
}

// control takes a control frame; unknown ones mean nothing.
func (l *link) control(typ FrameType, body []byte) error {
	var err error
	switch typ {
	case FramePing:
		if _, err = ParsePing(body); err == nil {
			l.sayControl(AppendPong(nil, body))
		}
	case FramePong:
		var stamp uint64
		if stamp, err = ParsePing(body); err == nil {
			l.beat.answered(l.s.epoch, stamp)
		}
	case FrameMTU:
		var mtu int
		if mtu, err = ParseMTU(body); err == nil {
			l.log.Noticef("%s: the peer's device has MTU %d now", l.stream.Label, mtu)
		}
	case FrameStats:
		_, err = ParseStats(body)
	case FrameClose:
		var code CloseCode
		var text string
		if code, text, err = ParseClose(body); err == nil {
			return l.peerCloses(code, text)
		}
	}
	if err != nil {
		return l.broken(err)
	}
	return nil
}

// border is called where a packet begins: at the start of the stream, and at every packet of an unframed TUN stream.
func (l *link) border(d *direction, f *deframer) (more bool, err error) {
	src := f.unread()
	h, n, more, err := FindHello(src)
	switch {
	case more:
		return true, nil
	case n > 0:
		if err == nil {
			f.use(n)
		}
		return len(f.unread()) == 0, l.heard(&h, err)
	case len(src) == 0:
		return true, nil
	}
	if err := l.foreign(src); err != nil {
		return false, err
	}
	if d.dst.Traffic != TUN {
		return l.borderless(d, f)
	}
	p, used, err := RawIP{}.Next(src)
	switch {
	case err != nil:
		return false, d.badFrame(err)
	case used == 0:
		return true, nil
	}
	d.setWay("unframed, split by IP lengths")
	f.use(used)
	return false, d.putRawIP(f, p)
}

// borderless is called for what comes unframed from a TAP: what one read brought is one frame, as far as anyone can tell, unless a hello of
// our peer stands in it.
func (l *link) borderless(d *direction, f *deframer) (more bool, err error) {
	src := f.unread()
	if len(src) == 0 {
		return true, nil
	}
	if !l.met {
		if h, n, _, err := FindHello(src); n > 0 {
			if err == nil {
				f.use(n)
			}
			return len(f.unread()) == 0, l.heard(&h, err)
		}
		if err := l.foreign(src); err != nil {
			return false, err
		}
		d.setWay("unframed, one read is one packet")
		p := d.dst.adapt(f.buf[:f.at], src, d.dst.PI)
		f.use(len(src))
		return true, d.putPacket(p)
	}
	// The peer is one of ours and has sent frames before it heard us. Their borders are unknown.
	h, off, n, keep := ScanHello(src, l.own.Nonce, l.peer.Form())
	stale := off
	if n == 0 {
		stale = len(src) - keep
	}
	if stale > 0 {
		d.lose(errors.Errorf("%s: %d bytes of frames that the peer sent before the link was up have no borders", l.stream.Label, stale))
	}
	f.use(stale)
	if n == 0 {
		return true, nil
	}
	f.use(n)
	return len(f.unread()) == 0, l.heard(&h, nil)
}
