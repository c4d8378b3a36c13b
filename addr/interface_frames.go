package addr

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"tunsplice/tundev"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Frames of a packet socket with PACKET_VNET_HDR. Reading puts VLAN tags back. Writing looks at what the kernel does not: it refuses a frame that is too long for the interface, but lets a
// GSO packet through whatever its segments are (packet_snd in net/packet/af_packet.c), and they would leave on the wire.

// frameReceiver reads frames and puts VLAN tags back.
type frameReceiver struct {
	vlan bool
	msg  unix.Msghdr
	iov  [2]unix.Iovec
	oob  [8]uint64 // struct cmsghdr and struct tpacket_auxdata
}

const vlanLen = 4

func newFrameReceiver(vlan bool) *frameReceiver {
	r := &frameReceiver{vlan: vlan}
	r.msg.Iov = &r.iov[0]
	r.msg.SetIovlen(len(r.iov))
	return r
}

// recv reads the virtio-net header into head and the frame into buf.
func (r *frameReceiver) recv(fd int, head, buf []byte) (int, error) {
	r.iov[0].Base, r.iov[1].Base = &head[0], &buf[0]
	r.iov[0].SetLen(len(head))
	r.iov[1].SetLen(len(buf) - vlanLen)
	oob := unsafe.Slice((*byte)(unsafe.Pointer(&r.oob)), unsafe.Sizeof(r.oob))
	r.msg.Control = &oob[0]
	r.msg.SetControllen(len(oob))
	got, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&r.msg)), 0)
	if errno != 0 {
		return 0, errno
	}
	n := int(got)
	if !r.vlan {
		return n, nil
	}
	tpid, tci, tagged := vlanTag(oob[:min(int(r.msg.Controllen), len(oob))])
	frame := n - len(head)
	if !tagged || frame < 12 {
		return n, nil
	}
	copy(buf[12+vlanLen:], buf[12:frame])
	binary.BigEndian.PutUint16(buf[12:], tpid)
	binary.BigEndian.PutUint16(buf[14:], tci)
	var h tundev.VNetHdr
	if h.Decode(head) == nil && (h.Flags&tundev.VNetNeedsCsum != 0 || h.GSOType != tundev.GSONone) {
		h.CsumStart += vlanLen
		h.HdrLen += vlanLen
		h.Encode(head)
	}
	return n + vlanLen, nil
}

// vlanTag finds the tag that the kernel took off in a PACKET_AUXDATA message (linux/if_packet.h, struct tpacket_auxdata).
func vlanTag(oob []byte) (tpid, tci uint16, tagged bool) {
	const (
		auxLen         = 20
		statusVLAN     = 1 << 4 // TP_STATUS_VLAN_VALID
		statusVLANTPID = 1 << 6 // TP_STATUS_VLAN_TPID_VALID
	)
	aux := controlMessage(oob, unix.SOL_PACKET, unix.PACKET_AUXDATA, auxLen)
	if aux == nil {
		return 0, 0, false
	}
	status := binary.NativeEndian.Uint32(aux)
	if status&statusVLAN == 0 {
		return 0, 0, false
	}
	tpid = unix.ETH_P_8021Q
	if status&statusVLANTPID != 0 {
		tpid = binary.NativeEndian.Uint16(aux[18:])
	}
	return tpid, binary.NativeEndian.Uint16(aux[16:]), true
}

// knowsUSO says whether the kernel takes UDP GSO packets from a packet socket (Linux 6.2). No option says that, and a packet sent to find out would reach somebody; but one that came later
// does: PACKET_VNET_HDR_SZ of linux/if_packet.h (Linux 6.6). Where it is missing, UDP GSO packets are split before they get here.
func knowsUSO(fd int) bool {
	const packetVNetHdrSz = 24
	_, err := unix.GetsockoptInt(fd, unix.SOL_PACKET, packetVNetHdrSz)
	return err == nil
}

// frameQueue is how many bytes of frames, as the kernel counts them, may wait to be read, unless option rcvbuf says otherwise. Nothing holds back who sends to an interface, and the usual
// 208 KiB are three GSO packets.
const frameQueue = 4 << 20

// widenQueue makes room for frames that wait to be read. Without CAP_NET_ADMIN it is what net.core.rmem_max allows.
func widenQueue(fd int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, frameQueue/2) == nil { // socket(7): the kernel doubles it
		return nil
	}
	return errors.Wrap(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, frameQueue/2), "receive buffer")
}

// overflowed returns how many frames were lost since the last call because the queue was full.
func overflowed(fd int) (int, error) {
	s, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, errors.Wrap(err, "statistics of the packet socket")
	}
	return int(s.Drops), nil
}

// outlet judges what is to leave on an interface.
type outlet struct {
	hw  uint16 // ARPHRD_*
	mtu *liveMTU
}

// leaves refuses a GSO packet whose segments are longer than the frames that the kernel lets out on the interface, by the kernel's own measure: the MTU, the link header, and one VLAN tag
// on Ethernet (packet_snd, packet_extra_vlan_len_allowed). h has been made by Validate or a Coalescer.
func (o *outlet) leaves(h tundev.VNetHdr, pkt []byte) error {
	if h.GSOType == tundev.GSONone {
		return nil
	}
	mtu, err := o.mtu.now()
	if err != nil {
		return err
	}
	size := int(h.HdrLen) + int(h.GSOSize)
	switch {
	case o.hw == unix.ARPHRD_ETHER && binary.BigEndian.Uint16(pkt[12:]) == unix.ETH_P_8021Q:
		size -= etherLen + vlanLen
	case o.hw == unix.ARPHRD_ETHER || o.hw == unix.ARPHRD_LOOPBACK:
		size -= etherLen
	}
	if size > mtu {
		return errors.Wrapf(unix.EMSGSIZE, "segments of %d bytes, MTU %d", size, mtu)
	}
	return nil
}

const etherLen = 14 // of an Ethernet header

// liveMTU asks for the MTU of a packet socket's interface, by its index, since names change. One goroutine uses it at a time; it allocates nothing.
type liveMTU struct {
	raw   syscall.RawConn
	ask   func(fd uintptr)
	index uint32
	req   struct { // struct ifreq (linux/if.h)
		name  [unix.IFNAMSIZ]byte
		value uint32
		_     [20]byte
	}
	err error
}

func newLiveMTU(raw syscall.RawConn, index int) *liveMTU {
	m := &liveMTU{raw: raw, index: uint32(index)}
	m.ask = m.ioctls
	return m
}

// now returns the MTU in bytes.
func (m *liveMTU) now() (int, error) {
	if err := m.raw.Control(m.ask); err != nil {
		return 0, bareError(err)
	}
	return int(m.req.value), errors.Wrap(m.err, "MTU")
}

func (m *liveMTU) ioctls(fd uintptr) {
	m.req.value, m.err = m.index, nil
	for _, call := range [...]uintptr{unix.SIOCGIFNAME, unix.SIOCGIFMTU} {
		if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, fd, call, uintptr(unsafe.Pointer(&m.req))); errno != 0 {
			m.err = errno
			return
		}
	}
}
