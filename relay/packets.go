package relay

import (
	"io"

	"github.com/pkg/errors"
)

// Packets between packet endpoints, and between a packet endpoint and a byte stream. The way of a packet from a device to the wire:
//
//	readBatch    a batch of packets comes from the device, with room for headers
//	packetSink   puts the headers in place (framedSink) or talks to the peer first (link)
//	Write        the whole batch leaves
//
// and back: deframer.fill reads from the stream, Framer.Next finds packets, and putPacket writes each to the device, or merge gathers them for a device that can take many as one.

// readBatch fills b with at least one packet.
func readBatch(r Reader, b *Batch) error {
	b.Reset()
	if br, ok := r.(BatchReader); ok {
		return br.ReadBatch(b)
	}
	n, err := r.Read(b.Room())
	if err == nil {
		b.Commit(n)
	}
	return err
}

// nextBatch reads until there are packets, passing over errors that concern one packet only.
func (d *direction) nextBatch(b *Batch) error {
	for {
		err := readBatch(d.src.R, b)
		switch {
		case err == nil && b.Len() > 0:
			return nil
		case err == nil:
		case (d.dst.IsDevice() || d.src.IsDevice()) && d.src.onePacket(err):
			d.lose(errors.Wrap(err, d.src.Label))
		default:
			return err
		}
	}
}

// IsDevice says whether e is a network device.
func (e *Endpoint) IsDevice() bool { return e.Traffic == TUN || e.Traffic == TAP }

// onePacket says that an error of e concerned one packet only.
func (e *Endpoint) onePacket(err error) bool { return e.OnePack != nil && e.OnePack(err) }

// putPacket writes one packet to the packet endpoint dst. A packet that it does not take is lost, with a message; other errors end the session.
func (d *direction) putPacket(p []byte) error {
	d.s.cfg.Dump.see(d, p)
	l := d.s.link
	if l == nil || l.stream != d.dst {
		_, err := d.dst.W.Write(p)
		return d.put(len(p), err)
	}
	l.mu.Lock() // hellos go the same way
	_, err := d.dst.W.Write(p)
	l.mu.Unlock()
	return d.put(len(p), err)
}

// put counts a packet of n bytes that was written with the given result.
func (d *direction) put(n int, err error) error {
	switch {
	case err == nil:
		d.took(n)
	case (d.dst.IsDevice() || d.src.IsDevice()) && d.dst.onePacket(err):
		d.lose(errors.Wrapf(err, "%s: write of %d bytes", d.dst.Label, n))
		d.s.touch()
	default:
		return d.writeError(err)
	}
	return nil
}

// copyPackets moves packets, each of which stays one packet.
func (d *direction) copyPackets() error {
	d.setWay("packets")
	if l := d.s.link; l != nil && d.dst == l.stream {
		if err := l.begin(); err != nil {
			return err
		}
	}
	d.split()
	d.merged = d.putMerged
	b := NewBatch(piLen) // room to put packet information in front
	var bw BatchWriter   // nil: packet by packet
	if l := d.s.link; (l == nil || d.dst == l.stream) && d.s.cfg.Dump == nil {
		bw, _ = d.dst.W.(BatchWriter)
	}
	for {
		if err := d.nextBatch(b); err != nil {
			return d.readError(err)
		}
		if bw != nil {
			if err := d.putBatch(bw, b); err != nil {
				return err
			}
			continue
		}
		for i := range b.Len() {
			p := b.Packet(i)
			if d.s.link != nil && d.src == d.s.link.stream {
				var err error
				if p, err = d.s.link.datagram(d, b.head(i), p); err != nil {
					if ferr := d.flush(); ferr != nil { // what came before is good
						return ferr
					}
					return err
				}
				if p == nil {
					continue
				}
			}
			if err := d.merge(p); err != nil {
				return err
			}
		}
		if err := d.flush(); err != nil {
			return err
		}
	}
}

// putBatch writes all packets of b.
func (d *direction) putBatch(w BatchWriter, b *Batch) error {
	if l := d.s.link; l != nil { // hellos go the same way
		l.mu.Lock()
		defer l.mu.Unlock()
	}
	for i := 0; i < b.Len(); {
		n, err := w.WriteBatch(b, i)
		bytes := 0
		for end := i + n; i < end; i++ {
			bytes += len(b.Packet(i))
		}
		if n > 0 {
			d.packets.Add(uint64(n))
			d.bytes.Add(uint64(bytes))
			d.s.touch()
		}
		if err != nil {
			if err := d.put(len(b.Packet(i)), err); err != nil {
				return err
			}
			i++
		}
	}
	return nil
}

// packetSink takes batches of packets on their way into a byte stream.
type packetSink interface {
	headLen() int // bytes to keep free in front of each packet
	send(d *direction, b *Batch) error
}

// framePackets moves packets from an endpoint of packets into a byte stream.
func (d *direction) framePackets() error {
	sink, err := d.sink()
	if err != nil || sink == nil {
		return err
	}
	b := NewBatch(sink.headLen())
	for {
		b.VNet = d.s.link != nil && d.s.link.wantsVNet()
		if err := d.nextBatch(b); err != nil {
			return d.readError(err)
		}
		if d.s.cfg.Dump != nil {
			for i := range b.Len() {
				d.s.cfg.Dump.see(d, b.payload(i))
			}
		}
		if err := sink.send(d, b); err != nil {
			return err
		}
	}
}

// sink returns what puts d's packets on the stream.
func (d *direction) sink() (packetSink, error) {
	if l := d.s.link; l != nil {
		return l, l.begin()
	}
	f := framer(d.dst.Framing, d.src.Traffic)
	if f == nil {
		d.setWay("unframed")
		return unframed{}, nil
	}
	d.setWay("framed " + f.Name())
	d.split()
	if hf, ok := f.(HeadFramer); ok {
		return framedSink{f: hf}, nil
	}
	return &appendSink{f: f}, nil
}

// framer returns the framer of a framing without a link protocol, nil for none.
func framer(f Framing, t Traffic) Framer {
	shortest := 1
	if t == TAP {
		shortest = MinEthernet
	}
	switch f {
	case FramingU16:
		return U16(0)
	case FramingQemu:
		return QEMU(shortest)
	case FramingSlip:
		return NewSLIP(0)
	}
	return nil
}

// unframed writes packets one by one, as socat does.
type unframed struct{}

func (unframed) headLen() int { return 0 }

func (unframed) send(d *direction, b *Batch) error {
	for i := range b.Len() {
		p := b.Packet(i)
		_, err := d.dst.W.Write(p)
		if err := d.put(len(p), err); err != nil {
			return err
		}
	}
	return nil
}

// framedSink fills in headers in front of the packets and writes the batch at once.
type framedSink struct {
	f    HeadFramer
	vnet int // bytes in front of each packet that are not the packet's: of the virtio-net header
}

func (s framedSink) headLen() int { return s.f.HeadLen() }

func (s framedSink) send(d *direction, b *Batch) error {
	head := s.f.HeadLen()
	start, end := 0, 0 // of the run of frames that can leave together
	var packets, bytes int
	flush := func() error {
		if start == end {
			return nil
		}
		if _, err := d.dst.W.Write(b.buf[start:end]); err != nil {
			return d.writeError(err)
		}
		d.packets.Add(uint64(packets))
		d.bytes.Add(uint64(bytes))
		d.s.touch()
		packets, bytes = 0, 0
		return nil
	}
	for _, sp := range b.spans {
		if err := s.f.PutHead(b.buf[sp.off-head:sp.off], sp.n); err != nil {
			if err := flush(); err != nil {
				return err
			}
			d.lose(err)
			start, end = sp.off+sp.n, sp.off+sp.n
			continue
		}
		if sp.off-head != end { // packets of a batch lie one behind the other
			if err := flush(); err != nil {
				return err
			}
			start = sp.off - head
		}
		end = sp.off + sp.n
		packets++
		bytes += sp.n - s.vnet
	}
	return flush()
}

// appendSink builds the frames of a batch in a buffer of its own.
type appendSink struct {
	f   Framer
	buf []byte
}

func (s *appendSink) headLen() int { return 0 }

func (s *appendSink) send(d *direction, b *Batch) error {
	s.buf = s.buf[:0]
	var packets, bytes int
	for i := range b.Len() {
		p := b.Packet(i)
		framed, err := s.f.Append(s.buf, p)
		if err != nil {
			d.lose(err)
			continue
		}
		s.buf = framed
		packets++
		bytes += len(p)
	}
	if len(s.buf) == 0 {
		return nil
	}
	if _, err := d.dst.W.Write(s.buf); err != nil {
		return d.writeError(err)
	}
	d.packets.Add(uint64(packets))
	d.bytes.Add(uint64(bytes))
	d.s.touch()
	return nil
}

// receiveSize is the size of the buffer that stream bytes are read into: several of the longest frames.
const receiveSize = 4 * MaxPacket

// deframer reads a stream and finds packets in it.
type deframer struct {
	r      Reader
	buf    []byte
	at     int // first byte not used
	end    int // behind the last byte read
	border int // where the last read began
}

// unread returns the bytes that were read and not used.
func (f *deframer) unread() []byte { return f.buf[f.at:f.end] }

// use marks the first n unread bytes as used.
func (f *deframer) use(n int) { f.at += n }

// fill reads more bytes. Frames fit the buffer whole, so there is always room after the unread bytes are moved to the front.
func (f *deframer) fill() error {
	if f.at == f.end {
		f.at, f.end = piLen, piLen // room to put packet information in front of the first packet
	} else if len(f.buf)-f.end < MaxPacket {
		f.end = piLen + copy(f.buf[piLen:], f.buf[f.at:f.end])
		f.at = piLen
	}
	f.border = f.end
	n, err := f.r.Read(f.buf[f.end:])
	f.end += n
	if n > 0 {
		return nil
	}
	return err
}

// leftover is the error of a stream that ended within a frame.
func (d *direction) leftover(f *deframer, err error) error {
	if n := len(f.unread()); n > 0 && err == io.EOF {
		d.lose(errors.Errorf("%s: the stream ended within a packet, after %d bytes of it", d.src.Label, n))
	}
	return d.readError(err)
}

// deframePackets moves packets from a byte stream to an endpoint of packets.
func (d *direction) deframePackets() error {
	f := &deframer{r: d.src.R, buf: make([]byte, receiveSize)}
	if l := d.s.link; l != nil {
		return l.receive(d, f)
	}
	if err := f.fill(); err != nil {
		return d.readError(err)
	}
	if speaks := foreignProtocol(f.unread()); speaks != "" && d.dst.IsDevice() {
		return errors.Errorf("%s: the peer sends no packets: it speaks %s", d.src.Label, speaks)
	}
	fr := framer(d.src.Framing, d.dst.Traffic)
	d.doubt(fr, f.unread())
	if fr == nil && d.dst.Traffic == TUN {
		fr = RawIP{}
		d.setWay("unframed, split by IP lengths")
	}
	if fr == nil {
		return d.readsArePackets(f)
	}
	if d.way.Load() == nil {
		d.setWay("framed " + fr.Name())
	}
	d.merged = d.putMerged
	_, raw := fr.(RawIP)
	for {
		p, used, err := fr.Next(f.unread())
		switch {
		case err != nil:
			if err := d.flush(); err != nil { // what came before is good
				return err
			}
			if err := d.badFrame(err); err != nil {
				return err
			}
		case used == 0:
			if err := d.flush(); err != nil {
				return err
			}
			if err := f.fill(); err != nil {
				return d.leftover(f, err)
			}
			continue
		}
		f.use(used)
		if p != nil {
			if raw {
				p = d.dst.adapt(f.buf[:f.at-len(p)], p, false) // RawIP has taken packet information off; the device may want some
			}
			if err := d.merge(p); err != nil {
				return err
			}
		}
	}
}

// putRawIP writes a packet that was found in the bytes just used. RawIP has taken packet information off; the device may want some.
func (d *direction) putRawIP(f *deframer, p []byte) error {
	if p == nil {
		return nil
	}
	return d.putPacket(d.dst.adapt(f.buf[:f.at-len(p)], p, false))
}

// badFrame counts a frame that cost one packet, and returns the error of a stream that is out of step.
func (d *direction) badFrame(err error) error {
	var fe *FrameError
	if errors.As(err, &fe) && fe.Resync {
		d.lose(errors.Wrap(err, d.src.Label))
		return nil
	}
	return errors.Wrap(err, d.src.Label)
}

// datagramSize is the longest packet made of one read of an unframed stream, as socat's buffer.
const datagramSize = 8192

// readsArePackets makes each read of a stream one packet, as socat does: right where the stream happens to keep borders, garbage where it does not.
func (d *direction) readsArePackets(f *deframer) error {
	d.setWay("unframed, one read is one packet")
	size := MaxPacket
	if d.dst.Traffic == Datagrams {
		size = datagramSize
	}
	if d.s.cfg.BufferSize > 0 {
		size = d.s.cfg.BufferSize
	}
	if d.dst.Traffic == TAP {
		d.s.cfg.Log.Warnf("%s: the stream is not framed: where two frames arrive in one read, or one in two, the device gets garbage; use framing=link (tunsplice), qemu or u16 on both ends", d.src.Label)
	}
	buf := make([]byte, size)
	for n := 0; ; {
		if first := f.unread(); len(first) > 0 {
			n = copy(buf, first) // what the look at the first bytes has read
			f.use(n)
		} else {
			var err error
			if n, err = d.src.R.Read(buf); err != nil {
				return d.readError(err)
			}
		}
		if err := d.putPacket(buf[:n]); err != nil {
			return err
		}
	}
}
