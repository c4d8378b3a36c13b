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
