package addr

import (
	"encoding/binary"
	"unsafe"

	"tunsplice/relay"

	"golang.org/x/sys/unix"
)

// Datagrams of one length that follow each other leave as a train: one sendmsg(2) that the kernel cuts again (UDP_SEGMENT, Linux 4.18; udp(7)). The network sees the same
// datagrams as from single calls. A shorter one may end the train.

const (
	trainCars  = 64    // UDP_MAX_SEGMENTS before Linux 6.9
	trainBytes = 65000 // below the longest UDP datagram, with any headers
)

// train is what sending one takes. The zero value sends none.
type train struct {
	longest int // datagrams up to this length may go; 0: the socket can't
	iov     [trainCars]unix.Iovec
	control [24]byte // of the message: one cmsghdr with a uint16, padded (CMSG_SPACE)
	msg     unix.Msghdr
	send    func(fd uintptr) bool
	err     error
}

// newTrain finds out whether the socket takes trains: those of UDP do, unless the user has set segmentation of the socket's own.
func (s *packetSocket) newTrain() *train {
	t := &train{}
	onFile(s.file, func(fd int) error {
		proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err != nil || proto != unix.IPPROTO_UDP {
			return err
		}
		if size, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT); err == nil && size == 0 {
			t.longest = trainBytes
		}
		return nil
	})
	if t.longest == 0 {
		return t
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&t.control))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	t.msg.Iov = &t.iov[0]
	t.msg.Control = &t.control[0]
	t.msg.SetControllen(unix.CmsgSpace(2))
	if s.to.n > 0 {
		t.msg.Name = &s.to.b[0]
		t.msg.Namelen = s.to.n
	}
	t.send = func(fd uintptr) bool {
		for {
			_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&t.msg)), unix.MSG_NOSIGNAL)
			if e != unix.EINTR {
				t.err = errnoOrNil(e)
				return e != unix.EAGAIN
			}
		}
	}
	return t
}

// couple puts packets of b from number first on into the train, and returns how many.
func (t *train) couple(b *relay.Batch, first int) int {
	size := len(b.Packet(first))
	if size == 0 || size > t.longest {
		return 1
	}
	n, total := 0, 0
	for last := false; !last && n < trainCars && first+n < b.Len(); n++ {
		p := b.Packet(first + n)
		if len(p) == 0 || len(p) > size || total+len(p) > trainBytes {
			break
		}
		t.iov[n].Base = &p[0]
		t.iov[n].SetLen(len(p))
		total += len(p)
		last = len(p) < size
	}
	binary.NativeEndian.PutUint16(t.control[unix.CmsgLen(0):], uint16(size))
	t.msg.SetIovlen(n)
	return max(n, 1)
}

// WriteBatch implements relay.BatchWriter.
func (s *packetSocket) WriteBatch(b *relay.Batch, first int) (int, error) {
	if first+1 < b.Len() {
		if s.train == nil {
			s.train = s.newTrain()
		}
		if n := s.train.couple(b, first); n > 1 {
			t := s.train
			err := s.raw.Write(t.send)
			if err == nil {
				err = t.err
			}
			switch err {
			case nil:
				return n, nil
			case unix.EINVAL, unix.EMSGSIZE: // longer than the path takes in one piece: such are fragmented, which trains can't be
				t.longest = len(b.Packet(first)) - 1
			case unix.EIO: // no checksums by the device, or a transformation (IPsec) on the way
				t.longest = 0
			default:
				return 0, err
			}
		}
	}
	if _, err := s.Write(b.Packet(first)); err != nil {
		return 0, err
	}
	return 1, nil
}
