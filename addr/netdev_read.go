package addr

import (
	"unsafe"

	"tunsplice/relay"
	"tunsplice/tundev"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// The reading half of a device: see netdev.

// Read implements relay.Reader: one packet, complete.
func (n *netdev) Read(p []byte) (int, error) {
	b := relay.NewBatch(0)
	if err := n.ReadBatch(b); err != nil {
		return 0, err
	}
	return copy(p, b.Packet(0)), nil
}

// ReadBatch implements relay.BatchReader.
func (n *netdev) ReadBatch(b *relay.Batch) error {
	n.batch, n.err = b, nil
	if err := n.bad; err != nil {
		n.bad = nil
		return err
	}
	if n.splitRest(); b.Len() > 0 {
		return nil
	}
	err := n.raw.Read(n.fill)
	n.batch = nil
	switch {
	case b.Len() > 0:
		return nil // an error that follows comes again
	case err != nil:
		return n.pollError(err)
	}
	err, n.bad = n.bad, nil
	if err == nil {
		err = n.err
	}
	return err
}

// fillBatch reads until there is nothing more to be had or no room.
func (n *netdev) fillBatch(fd uintptr) bool {
	for {
		var got bool
		switch {
		case !n.vnet:
			got = n.readPlain(int(fd), false)
		case n.batch.VNet:
			got = n.readPlain(int(fd), true)
		default:
			got = n.readComplete(int(fd))
		}
		if !got || n.bad != nil {
			return n.err != nil || n.bad != nil || n.batch.Len() > 0
		}
	}
}

// readPlain adds one packet as the descriptor has it. With virtio-net headers, a GSO packet that the reader does not take is split.
func (n *netdev) readPlain(fd int, vnet bool) bool {
	room := n.batch.Room()
	if room == nil || n.split.Left() > 0 {
		return false
	}
	var got int
	var err error
	switch {
	case vnet && n.lead > 0:
		got, err = n.read(fd, room[tundev.VNetHdrLen:][:piLen], room[:tundev.VNetHdrLen], room[tundev.VNetHdrLen+piLen:])
	case n.recv != nil:
		got, err = n.read(fd, room[:tundev.VNetHdrLen], room[tundev.VNetHdrLen:], nil)
	default:
		got, err = n.read(fd, room, nil, nil)
	}
	if err != nil {
		return false
	}
	if vnet {
		h, err := n.sendable(room[:got])
		if err != nil {
			n.bad = err
			return true
		}
		if !n.takes(h.GSOType) {
			n.cut(h, n.aside(room[tundev.VNetHdrLen:got]))
			return true
		}
	}
	n.batch.Commit(got)
	return true
}

// takes says whether the reader takes GSO packets of a type as they are.
func (n *netdev) takes(gsoType uint8) bool {
	want := int32(0)
	switch gsoType &^ tundev.GSOECN {
	case tundev.GSONone:
		return true
	case tundev.GSOTCPv4:
		want = tundev.OffloadTSO4
	case tundev.GSOTCPv6:
		want = tundev.OffloadTSO6
	case tundev.GSOUDPL4:
		want = tundev.OffloadUSO4 | tundev.OffloadUSO6
	}
	if gsoType&tundev.GSOECN != 0 {
		want |= tundev.OffloadTSOECN
	}
	return n.offload.Load()&want == want
}

// sendable makes sure that a peer will take the virtio-net header in front of a packet, and returns it. What the peer's check has no words for, say an unfinished checksum behind
// three VLAN tags, is finished here.
func (n *netdev) sendable(p []byte) (h tundev.VNetHdr, err error) {
	pkt, err := n.parse(&h, p)
	if err != nil {
		return h, err
	}
	_, err = h.Validate(pkt, n.ethernet)
	if err == nil || h.GSOType != tundev.GSONone {
		return h, err
	}
	if err := tundev.Complete(h, pkt); err != nil {
		return h, err
	}
	h = tundev.VNetHdr{}
	h.Encode(p)
	return h, nil
}

// parse returns what stands behind the virtio-net header and the packet information of p.
func (n *netdev) parse(h *tundev.VNetHdr, p []byte) (pkt []byte, err error) {
	if err := h.Decode(p); err != nil {
		return nil, err
	}
	if len(p) < tundev.VNetHdrLen+n.lead {
		return nil, tundev.ErrVNetShort
	}
	return p[tundev.VNetHdrLen+n.lead:], nil
}

// readComplete adds one packet without its virtio-net header, or the segments that it stands for.
func (n *netdev) readComplete(fd int) bool {
	room := n.batch.Room()
	if room == nil || n.split.Left() > 0 {
		return false
	}
	into := room
	if n.offload.Load()&(tundev.OffloadTSO4|tundev.OffloadTSO6|tundev.OffloadUSO4) != 0 {
		into = n.aside(nil)
	}
	var got int
	var err error
	if n.lead > 0 {
		got, err = n.read(fd, into[:piLen], n.head[:], into[piLen:])
	} else {
		got, err = n.read(fd, n.head[:], into, nil)
	}
	if err != nil {
		return false
	}
	var h tundev.VNetHdr
	if got <= tundev.VNetHdrLen+n.lead || h.Decode(n.head[:]) != nil {
		return true // no packet: the kernel does not do this
	}
	pkt := into[:got-tundev.VNetHdrLen]
	if h.GSOType == tundev.GSONone {
		if n.bad = tundev.Complete(h, pkt[n.lead:]); n.bad != nil {
			return true
		}
		n.batch.Commit(copy(room, pkt)) // copies nothing if it was read in place
		return true
	}
	if &into[0] == &room[0] { // offloads were switched off while this packet was under way
		pkt = n.aside(pkt)
	}
	n.cut(h, pkt)
	return true
}

// aside returns memory of its own for a packet that is to be split: a copy of p, or room for one if that is nil.
func (n *netdev) aside(p []byte) []byte {
	if n.scratch == nil {
		n.scratch = make([]byte, relay.MaxPacket)
	}
	if p == nil {
		return n.scratch
	}
	return n.scratch[:copy(n.scratch, p)]
}

// cut splits a GSO packet, with packet information in front if there is any, and adds the segments that there is room for. It stays as it is until the last one is out.
func (n *netdev) cut(h tundev.VNetHdr, p []byte) {
	copy(n.info[:], p[:n.lead])
	if n.bad = n.split.Reset(h, p[n.lead:], n.ethernet); n.bad != nil {
		return
	}
	if n.bad = n.fits(n.split.IPLen()); n.bad != nil {
		n.split = tundev.Splitter{}
		return
	}
	n.splitRest()
}

// fits looks whether segments of a GSO packet are within the device's MTU. Those of the host are; a bridge passes on what came over a port with a larger one, and
// drops packets that are too long only if they are not GSO (is_skb_forwardable in net/core/dev.c).
func (n *netdev) fits(size int) error {
	if size <= n.mtu || n.deviceMTU == nil {
		return nil
	}
	mtu, err := n.deviceMTU() // it may have grown
	if err != nil {
		return err
	}
	if n.mtu = mtu; size > mtu {
		return errors.Wrapf(unix.EMSGSIZE, "segments of %d bytes, MTU %d", size, mtu)
	}
	return nil
}

// splitRest adds the segments that are left of a GSO packet, as far as there is room.
func (n *netdev) splitRest() {
	for n.split.Left() > 0 {
		room := n.batch.Room()
		if room == nil {
			return
		}
		at := 0
		if n.batch.VNet {
			clear(room[:tundev.VNetHdrLen])
			at = tundev.VNetHdrLen
		}
		at += copy(room[at:], n.info[:n.lead])
		size, err := n.split.Next(room[at:])
		if err != nil {
			n.bad, n.split = err, tundev.Splitter{}
			return
		}
		n.batch.Commit(at + size)
	}
}

// read reads one packet into one to three buffers; n.err is set for errors other than "nothing there".
func (n *netdev) read(fd int, first, second, third []byte) (got int, err error) {
	for {
		switch {
		case second == nil:
			got, err = relay.ReadNow(fd, first)
		case n.recv != nil:
			got, err = n.recv(fd, first, second)
		default:
			iov := [3]unix.Iovec{{Base: &first[0]}, {Base: &second[0]}, {Base: unsafe.SliceData(third)}}
			iov[0].SetLen(len(first))
			iov[1].SetLen(len(second))
			iov[2].SetLen(len(third))
			got, err = rawVector(unix.SYS_READV, fd, iov[:])
		}
		switch err {
		case nil:
			return got, nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
		default:
			n.err = deviceError(err)
		}
		return 0, err
	}
}
