package addr

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Datagrams of one sender that come together, all of one length but maybe the last, are handed over in one piece by a UDP socket that asks for it (UDP_GRO, Linux 5.0; udp(7)): trains of the other end
// among them, which then cross a host without being cut and coupled again. So it is with packets of a device; elsewhere datagrams mostly come alone.

// arrivals is what one recvmsg(2) brought.
type arrivals struct {
	buf     []byte // holds the longest there is, 65535 bytes
	at, end int    // what was not taken yet
	length  int    // of each datagram but the last, which may be shorter
	waits   bool   // there is one, if it is an empty one
	iov     unix.Iovec
	control [64]byte
	msg     unix.Msghdr
}

// carryPackets has the socket hand over trains, if it is one of UDP and the kernel can do that, and tells how long a datagram may be for the path, as far as is known.
func (s *packetSocket) carryPackets() (whole int, err error) {
	err = onFile(s.file, func(fd int) error {
		proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err != nil || proto != unix.IPPROTO_UDP {
			return nil
		}
		whole = wholeDatagram(fd)
		if s.arrivals != nil || unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) != nil {
			return nil
		}
		a := &arrivals{buf: make([]byte, 1<<16)}
		a.iov.Base = &a.buf[0]
		a.iov.SetLen(len(a.buf))
		a.msg.Iov = &a.iov
		a.msg.SetIovlen(1)
		s.arrivals = a
		return nil
	})
	return whole, err
}

// wholeDatagram returns the greatest length of a datagram that a connected UDP socket sends in one piece, 0 if there is no telling.
func wholeDatagram(fd int) int {
	const udpHead, ip4Head, ip6Head = 8, 20, 40
	peer, err := getpeername(fd)
	if err != nil {
		return 0
	}
	level, opt, heads := unix.SOL_IP, unix.IP_MTU, ip4Head+udpHead
	if ip := peer.ip(); ip.Is6() && !ip.Is4In6() {
		level, opt, heads = unix.SOL_IPV6, unix.IPV6_MTU, ip6Head+udpHead
	}
	mtu, err := unix.GetsockoptInt(fd, level, opt)
	if err != nil {
		return 0
	}
	return max(mtu-heads, 0)
}

// receiveFrom is the function receiveFrom for one datagram after the other.
func (a *arrivals) receiveFrom(fd int, p []byte, from *sockaddr) (int, error) {
	if !a.waits {
		if err := a.receive(fd, from); err != nil {
			return 0, err
		}
	}
	d := a.buf[a.at:min(a.at+a.length, a.end)]
	a.at += len(d)
	a.waits = a.at < a.end
	copy(p, d)
	return len(d), nil
}

func (a *arrivals) receive(fd int, from *sockaddr) error {
	*from = sockaddr{n: uint32(len(from.b))}
	a.msg.Name, a.msg.Namelen = &from.b[0], from.n
	a.msg.Control = &a.control[0]
	a.msg.SetControllen(len(a.control))
	for {
		n, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&a.msg)), 0)
		switch e {
		case 0:
			from.n = min(a.msg.Namelen, uint32(len(from.b)))
			a.at, a.end, a.length, a.waits = 0, int(n), int(n), true
			a.findLength()
			return nil
		case unix.EINTR:
		default:
			return e
		}
	}
}

// findLength looks for the length of the datagrams of a train; one that came alone has no such message.
func (a *arrivals) findLength() {
	const valueLen = 4
	if v := controlMessage(a.control[:min(int(a.msg.Controllen), len(a.control))], unix.SOL_UDP, unix.UDP_GRO, valueLen); v != nil {
		if n := int(int32(binary.NativeEndian.Uint32(v))); n > 0 {
			a.length = n
		}
	}
}

// controlMessage returns the first size bytes of the first message of a kind in what recvmsg(2) wrote (cmsg(3)), nil if there is none. It allocates nothing.
func controlMessage(control []byte, level, typ int32, size int) []byte {
	const head = unix.SizeofCmsghdr
	for c := control; len(c) >= head; {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
		if int(h.Len) < head || int(h.Len) > len(c) {
			return nil
		}
		if h.Level == level && h.Type == typ && int(h.Len) >= unix.CmsgLen(size) {
			return c[unix.CmsgLen(0):][:size]
		}
		c = c[min(unix.CmsgSpace(int(h.Len)-head), len(c)):]
	}
	return nil
}
