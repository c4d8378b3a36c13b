package addr

import (
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"tunsplice/relay"
	"tunsplice/tundev"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// netdev is a device's descriptor as the packet halves of an endpoint: it fills batches for the relay and writes its packets, and does what the virtio-net header in front of each
// packet asks for where the other side can't.
//
// The header is there on every read and write if the device was opened with it. What the relay sees depends on the batch: with Batch.VNet the header travels with the packet to the
// peer, unless it is a GSO packet of a kind that the peer has not announced, which is split; otherwise it is taken off, checksums are finished and GSO packets are split into what the batch has room for; the rest comes with the next batch.
//
// A TUN or TAP device puts packet information, if it has it, before the virtio-net header; in batches and on the wire it stands between header and packet, as the packet's first bytes.
type netdev struct {
	raw        syscall.RawConn
	deadlines  deadlines
	ethernet   bool
	vnet       bool                                           // packets have a virtio-net header on the descriptor
	lead       int                                            // bytes of packet information on the descriptor, in front of that: 0 or piLen
	setOffload func(flags int) error                          // tells the kernel what it may hand over; nil: it hands over whatever comes
	probed     bool                                           // uso is known, and the device is set up
	shared     bool                                           // other queues of the device have the same offloads
	deviceMTU  func() (int, error)                            // asks for the MTU; nil: segments of any size go
	mtu        int                                            // what it said last
	recv       func(fd int, head, packet []byte) (int, error) // reads header and packet; nil: readv
	leaves     func(h tundev.VNetHdr, pkt []byte) error       // says whether the segments of a GSO packet may be written; nil: all may
	offload    atomic.Int32                                   // TUN_F_ flags: of what is handed over, what the reader takes as it is

	// Of the reading goroutine.
	batch   *relay.Batch
	err     error
	fill    func(fd uintptr) bool
	head    [tundev.VNetHdrLen]byte
	scratch []byte // holds a GSO packet while it is being split
	split   tundev.Splitter
	info    [piLen]byte // packet information of the packet that is being split
	bad     error       // a packet that could not be made complete; the next ReadBatch returns it

	// Of the writing goroutine.
	out    [3]unix.Iovec // what the next write consists of, outN pieces
	outN   int
	none   [tundev.VNetHdrLen]byte // an empty header
	lent   [piLen]byte             // packet information of a packet that came without
	werr   error
	drain  func(fd uintptr) bool
	merge  *tundev.Coalescer // of Add and Flush; nil before the first packet
	merged []byte            // a virtio-net header, packet information and the packet that stands for many
	apart  []byte            // the packet that Add was given last, if its packet information is not that of an IP packet
	uso    bool              // the kernel knows UDP GSO packets
}

// piLen is the length of packet information (struct tun_pi in if_tun.h).
const piLen = 4

type deadlines interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

func newNetdev(conn func() (syscall.RawConn, error), d deadlines, ethernet, vnet bool) (*netdev, error) {
	raw, err := conn()
	if err != nil {
		return nil, err
	}
	n := &netdev{raw: raw, deadlines: d, ethernet: ethernet, vnet: vnet}
	n.fill, n.drain = n.fillBatch, n.writePacket
	return n, nil
}

// attach makes n the halves of an endpoint.
func (n *netdev) attach(ep *relay.Endpoint, mode Mode) error {
	if mode&Read != 0 {
		ep.R = n
	}
	if mode&Write != 0 {
		ep.W = n
	}
	if n.vnet && mode == ReadWrite {
		ep.Offload = n
		if n.probed {
			return nil
		}
		if n.shared {
			// Taking offloads away until the peer is known would take them from sessions that have one. Whole GSO packets that come meanwhile are split here.
			n.uso = n.setOffload(allOffloads|tundev.OffloadUSO4|tundev.OffloadUSO6) == nil
			if n.uso {
				return nil
			}
			return n.setOffload(allOffloads)
		}
		// Only trying tells whether the kernel knows UDP segmentation (Linux 6.2). Nothing is read yet, so nobody notices.
		if n.uso = n.setOffload(tundev.OffloadCsum|tundev.OffloadUSO4|tundev.OffloadUSO6) == nil; n.uso {
			return n.setOffload(0)
		}
	}
	return nil
}

// allOffloads are those of Linux 3.8, the first with several queues.
const allOffloads = tundev.OffloadCsum | tundev.OffloadTSO4 | tundev.OffloadTSO6 | tundev.OffloadTSOECN

// SetReadDeadline implements relay.Reader.
func (n *netdev) SetReadDeadline(t time.Time) error { return n.deadlines.SetReadDeadline(t) }

// SetWriteDeadline implements relay.Writer.
func (n *netdev) SetWriteDeadline(t time.Time) error { return n.deadlines.SetWriteDeadline(t) }

// CloseWrite implements relay.Writer: a device has no end.
func (n *netdev) CloseWrite() error { return nil }

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

// pollError names what Go's poller says of a device that is gone: "not pollable", an error that is not exported.
func (n *netdev) pollError(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
		return bareError(err)
	}
	return deviceError(unix.EBADFD)
}

// onePacketOfDevice says that an error concerns one packet only: the kernel refuses it, or its virtio-net header makes no sense.
func onePacketOfDevice(err error) bool {
	var header tundev.VNetError
	return tundev.PerPacket(err) || errors.As(err, &header)
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

// rawVector calls readv or writev. The wrappers of package unix allocate.
func rawVector(call uintptr, fd int, iov []unix.Iovec) (int, error) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// deviceError says in words that a device has vanished.
func deviceError(err error) error {
	if tundev.IsGone(err) {
		return errors.Wrap(err, "the device was deleted")
	}
	return err
}

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

// offloadCaps says which offload each capability of the hello stands for.
var offloadCaps = []struct {
	cap  relay.Caps
	flag int
}{
	{relay.CapTSO4, tundev.OffloadTSO4},
	{relay.CapTSO6, tundev.OffloadTSO6},
	{relay.CapECN, tundev.OffloadTSOECN},
	{relay.CapUSO4 | relay.CapUSO6, tundev.OffloadUSO4 | tundev.OffloadUSO6}, // the kernel knows them together only
}

// Caps implements relay.Offload: writing takes everything that Validate lets through, if the kernel knows it.
func (n *netdev) Caps() relay.Caps {
	caps := relay.CapVNet
	for _, c := range offloadCaps {
		if c.flag&tundev.OffloadUSO4 == 0 || n.uso {
			caps |= c.cap
		}
	}
	return caps
}

// Accept implements relay.Offload.
func (n *netdev) Accept(peer relay.Caps) error {
	flags := 0
	if peer&relay.CapVNet != 0 {
		flags = tundev.OffloadCsum
		for _, c := range offloadCaps {
			if peer&c.cap == c.cap {
				flags |= c.flag
			}
		}
	}
	n.offload.Store(int32(flags))
	if n.setOffload == nil {
		return nil
	}
	err := n.setOffload(flags)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.2
		flags &^= tundev.OffloadUSO4 | tundev.OffloadUSO6
		n.offload.Store(int32(flags))
		err = n.setOffload(flags)
	}
	return err
}

// bareError takes the file name off an error of a raw call.
func bareError(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
