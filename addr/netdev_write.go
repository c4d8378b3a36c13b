package addr

import (
	"unsafe"

	"tunsplice/relay"
	"tunsplice/tundev"

	"golang.org/x/sys/unix"
)

// The writing half of a device: see netdev.

// Write implements relay.Writer: one complete packet.
func (n *netdev) Write(p []byte) (int, error) {
	if len(p) <= n.lead {
		return 0, unix.EINVAL
	}
	switch {
	case !n.vnet:
		n.pieces(p, nil, nil)
	case n.lead > 0:
		n.pieces(p[:piLen], n.none[:], p[piLen:])
	default:
		n.pieces(n.none[:], p, nil)
	}
	return len(p), n.send()
}

// putHeaded writes a packet with a virtio-net header in front, and packet information between the two if the device has it.
func (n *netdev) putHeaded(p []byte) error {
	if n.lead > 0 {
		n.pieces(p[tundev.VNetHdrLen:][:piLen], p[:tundev.VNetHdrLen], p[tundev.VNetHdrLen+piLen:])
	} else {
		n.pieces(p, nil, nil)
	}
	return n.send()
}

// pieces says what send writes; from the first empty one on they are left out.
func (n *netdev) pieces(all ...[]byte) {
	n.outN = 0
	for _, p := range all {
		if len(p) == 0 {
			return
		}
		n.out[n.outN].Base = &p[0]
		n.out[n.outN].SetLen(len(p))
		n.outN++
	}
}

// Put implements relay.Offload.
func (n *netdev) Put(p []byte) error {
	var h tundev.VNetHdr
	pkt, err := n.parse(&h, p)
	if err != nil {
		return err
	}
	if h, err = h.Validate(pkt, n.ethernet); err != nil {
		return err
	}
	if n.leaves != nil {
		if err := n.leaves(h, pkt); err != nil {
			return err
		}
	}
	h.Encode(p)
	return n.putHeaded(p)
}

// Add implements relay.Merger.
func (n *netdev) Add(p []byte) bool {
	if n.merge == nil {
		n.merge = tundev.NewCoalescer(n.ethernet, n.uso)
		n.merged = make([]byte, tundev.VNetHdrLen+n.lead+relay.MaxPacket)
	}
	switch {
	case n.apart != nil:
		return false
	case n.lead > 0 && (len(p) <= piLen || !n.ethernet && [piLen]byte(p) != n.infoOf(p[piLen:])):
		n.apart = p // too short, which writing it says, or nothing that can be merged
		return true
	}
	return n.merge.Add(p[n.lead:])
}

// infoOf returns the packet information of a packet that comes without: the EtherType of a frame, or that of the IP version.
func (n *netdev) infoOf(pkt []byte) (info [piLen]byte) {
	switch {
	case n.ethernet && len(pkt) >= 14:
		copy(info[2:], pkt[12:14])
	case !n.ethernet && pkt[0]>>4 == 4:
		info[2] = 0x08 // 0x0800
	case !n.ethernet && pkt[0]>>4 == 6:
		info[2], info[3] = 0x86, 0xdd
	}
	return info
}

// Flush implements relay.Merger.
func (n *netdev) Flush(done func(packets, bytes int, err error) error) error {
	if n.merge == nil {
		return nil
	}
	for {
		packets, bytes := n.merge.Pending()
		if packets == 0 {
			break
		}
		if err := done(packets, bytes+packets*n.lead, n.writeMerged(packets)); err != nil {
			n.merge, n.apart = nil, nil // the buffers of the rest go with the session
			return err
		}
	}
	p := n.apart
	if n.apart = nil; p == nil {
		return nil
	}
	_, err := n.Write(p)
	return done(1, len(p), err)
}

// writeMerged writes the next packet of the Coalescer, which stands for so many.
func (n *netdev) writeMerged(packets int) error {
	if packets == 1 {
		pkt := n.merge.Take()
		if n.lead == 0 {
			_, err := n.Write(pkt)
			return err
		}
		n.lent = n.infoOf(pkt)
		n.pieces(n.lent[:], n.none[:], pkt)
		return n.send()
	}
	at := tundev.VNetHdrLen + n.lead
	h, size, err := n.merge.Next(n.merged[at:])
	if err == nil && n.leaves != nil {
		err = n.leaves(h, n.merged[at:at+size])
	}
	if err != nil {
		return err
	}
	h.Encode(n.merged)
	if n.lead > 0 {
		n.lent = n.infoOf(n.merged[at:])
		copy(n.merged[tundev.VNetHdrLen:], n.lent[:])
	}
	return n.putHeaded(n.merged[:at+size])
}

func (n *netdev) send() error {
	err := n.raw.Write(n.drain)
	n.out = [3]unix.Iovec{} // a packet is not kept alive by what was written last
	if err != nil {
		return n.pollError(err)
	}
	return n.werr
}

func (n *netdev) writePacket(fd uintptr) bool {
	for {
		var err error
		if one := &n.out[0]; n.outN == 1 {
			_, err = relay.WriteNow(int(fd), unsafe.Slice(one.Base, one.Len))
		} else {
			_, err = rawVector(unix.SYS_WRITEV, int(fd), n.out[:n.outN])
		}
		if err == unix.EINTR {
			continue
		}
		n.werr = nil
		if err != nil {
			n.werr = deviceError(err)
		}
		return err != unix.EAGAIN
	}
}
