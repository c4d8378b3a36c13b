package relay

// Batch is a run of packets that lie one behind the other in one buffer, each with Head bytes free in front for a framing's header. So a batch read from a
// device becomes a run of frames by filling in the headers, and leaves in one write. A batch is used by one goroutine at a time.
type Batch struct {
	Head  int    // bytes kept free in front of each packet
	VNet  bool   // the packets have virtio-net headers (VNetLen bytes, little-endian) in front, as a device with Offload reads them
	buf   []byte // holds everything
	spans []span // the packets, in order
	end   int    // first free byte
}

type span struct{ off, n int }

// BatchSize is the size of a batch's buffer in bytes: room for four of the longest packets.
const BatchSize = 4 * (MaxPacket + 64)

// batchPackets bounds how many packets one batch holds, so that small packets do not wait for a long batch to fill.
const batchPackets = 256

// NewBatch returns an empty batch with head bytes in front of each packet.
func NewBatch(head int) *Batch {
	return &Batch{Head: head, buf: make([]byte, BatchSize), spans: make([]span, 0, batchPackets)}
}

// Reset forgets all packets.
func (b *Batch) Reset() { b.spans, b.end = b.spans[:0], 0 }

// Room returns space for the next packet, MaxPacket bytes, or nil if the batch is full.
func (b *Batch) Room() []byte {
	off := b.end + b.Head
	if len(b.spans) == cap(b.spans) || off+MaxPacket > len(b.buf) {
		return nil
	}
	return b.buf[off : off+MaxPacket]
}

// Commit makes the first n bytes of the last Room a packet.
func (b *Batch) Commit(n int) {
	b.spans = append(b.spans, span{b.end + b.Head, n})
	b.end += b.Head + n
}

// Len is the number of packets.
func (b *Batch) Len() int { return len(b.spans) }

// Packet returns packet i. It is valid until the batch is reset.
func (b *Batch) Packet(i int) []byte {
	s := b.spans[i]
	return b.buf[s.off : s.off+s.n : s.off+s.n]
}

// payload returns packet i without a virtio-net header.
func (b *Batch) payload(i int) []byte {
	if b.VNet {
		return b.Packet(i)[VNetLen:]
	}
	return b.Packet(i)
}

// head returns the free bytes in front of packet i.
func (b *Batch) head(i int) []byte {
	s := b.spans[i]
	return b.buf[s.off-b.Head : s.off]
}
