package addr

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockaddr is a socket address as the kernel has it: the first n bytes of b, the rest is zero. So values can be compared and be keys of maps, addresses of families
// that Go has no type for are no special case, and a packet's sender costs no allocation.
type sockaddr struct {
	n uint32 // 0: no address
	b [unix.SizeofSockaddrAny]byte
}

const (
	sizeofFamily   = 2 // sa_family_t
	inet4Len       = unix.SizeofSockaddrInet4
	inet6Len       = unix.SizeofSockaddrInet6
	maxUnixPath    = 108 // sun_path in sys/un.h
	unixPathOffset = sizeofFamily
)

// inetSockaddr makes the address of an IP socket. zone is the scope of a link-local IPv6 address, 0 for none.
func inetSockaddr(ip netip.Addr, port uint16, zone uint32) (s sockaddr) {
	binary.BigEndian.PutUint16(s.b[2:], port)
	if ip.Is4() {
		s.setFamily(unix.AF_INET, inet4Len)
		a := ip.As4()
		copy(s.b[4:], a[:])
		return s
	}
	s.setFamily(unix.AF_INET6, inet6Len)
	a := ip.As16()
	copy(s.b[8:], a[:])
	binary.NativeEndian.PutUint32(s.b[24:], zone)
	return s
}

// unixSockaddr makes the address of a UNIX socket; an abstract name does not hold the zero byte in front here. Tight: the length ends with the name, else the
// zero bytes up to the end of sun_path belong to an abstract name.
func unixSockaddr(name string, abstract, tight bool) (s sockaddr) {
	off := unixPathOffset
	if abstract {
		off++
	}
	s.setFamily(unix.AF_UNIX, off+copy(s.b[off:unixPathOffset+maxUnixPath], name))
	if !tight {
		s.n = unixPathOffset + maxUnixPath
	}
	return s
}

func (s *sockaddr) setFamily(family, length int) {
	binary.NativeEndian.PutUint16(s.b[:], uint16(family))
	s.n = uint32(length)
}

// family returns AF_UNSPEC for no address.
func (s *sockaddr) family() int {
	if s.n < sizeofFamily {
		return unix.AF_UNSPEC
	}
	return int(binary.NativeEndian.Uint16(s.b[:]))
}

// ip returns the IP address, the zero Addr if it is no IP socket's. An IPv4 address mapped into IPv6 comes as it is.
func (s *sockaddr) ip() netip.Addr {
	switch f := s.family(); {
	case f == unix.AF_INET && s.n >= 8:
		return netip.AddrFrom4([4]byte(s.b[4:8]))
	case f == unix.AF_INET6 && s.n >= 24:
		return netip.AddrFrom16([16]byte(s.b[8:24]))
	}
	return netip.Addr{}
}

// port returns the port of an IP socket, else 0.
func (s *sockaddr) port() uint16 {
	if f := s.family(); f == unix.AF_INET || f == unix.AF_INET6 {
		return binary.BigEndian.Uint16(s.b[2:])
	}
	return 0
}

func (s *sockaddr) setPort(p uint16) { binary.BigEndian.PutUint16(s.b[2:], p) }

// unixName returns the path or abstract name of a UNIX socket; both are empty if it is unnamed.
func (s *sockaddr) unixName() (name string, abstract bool) {
	if s.n <= unixPathOffset {
		return "", false
	}
	p := s.b[unixPathOffset:min(s.n, uint32(len(s.b)))]
	if p[0] == 0 {
		return string(p[1:]), true
	}
	name, _, _ = strings.Cut(string(p), "\x00")
	return name, false
}

// anonymous stands for the name of a UNIX socket that has none, as with socat.
const anonymous = "<anon>"

// String returns the form that stands in log lines, as socat writes it: "AF=2 127.0.0.1:80", "AF=10 [0000:...:0001]:80", `AF=1 "/run/s"`.
func (s *sockaddr) String() string {
	return fmt.Sprintf("AF=%d %s", s.family(), s.text())
}

// text returns the address without its family.
func (s *sockaddr) text() string {
	switch s.family() {
	case unix.AF_INET, unix.AF_INET6:
		return hostText(s.ip()) + ":" + strconv.Itoa(int(s.port()))
	case unix.AF_UNIX:
		name, abstract := s.unixName()
		switch {
		case abstract:
			return `"\0` + strconv.Quote(name)[1:]
		case name == "":
			return strconv.Quote(anonymous)
		}
		return strconv.Quote(name)
	case unix.AF_UNSPEC:
		return "none"
	}
	return fmt.Sprintf("x%x", s.b[sizeofFamily:s.n])
}

// hostText writes IPv6 addresses in brackets and in full, as socat does.
func hostText(ip netip.Addr) string {
	if ip.Is4() {
		return ip.String()
	}
	return "[" + ip.StringExpanded() + "]"
}

// env returns what a program gets to know of the address: which is SOCK or PEER.
func (s *sockaddr) env(vars []string, which string) []string {
	switch s.family() {
	case unix.AF_INET, unix.AF_INET6:
		return append(vars, which+"ADDR="+hostText(s.ip()), which+"PORT="+strconv.Itoa(int(s.port())))
	case unix.AF_UNIX:
		name, abstract := s.unixName()
		if abstract {
			name = "@" + strings.ReplaceAll(name, "\x00", "@") // a variable can't hold the zero byte; "@" is what ss and /proc/net/unix write
		} else if name == "" {
			name = anonymous
		}
		return append(vars, which+"ADDR="+name)
	}
	return vars
}

// The system calls that take or give a socket address. They do not wait, as the descriptors are non-blocking, and are short: Go's scheduler is not told of them (see relay.ReadNow).

func bindTo(fd int, s *sockaddr) error {
	_, _, e := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&s.b)), uintptr(s.n))
	return errnoOrNil(e)
}

func connectTo(fd int, s *sockaddr) error {
	for {
		_, _, e := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&s.b)), uintptr(s.n))
		if e != unix.EINTR {
			return errnoOrNil(e)
		}
	}
}

func getsockname(fd int) (s sockaddr, err error) { return nameCall(unix.SYS_GETSOCKNAME, fd) }

func getpeername(fd int) (s sockaddr, err error) { return nameCall(unix.SYS_GETPEERNAME, fd) }

func nameCall(call uintptr, fd int) (s sockaddr, err error) {
	s.n = uint32(len(s.b))
	_, _, e := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&s.b)), uintptr(unsafe.Pointer(&s.n)))
	if e != 0 {
		return sockaddr{}, e
	}
	s.n = min(s.n, uint32(len(s.b)))
	return s, nil
}

// acceptFrom takes a connection from the queue; the descriptor is close-on-exec and non-blocking.
func acceptFrom(fd int) (conn int, peer sockaddr, err error) {
	for {
		peer.n = uint32(len(peer.b))
		r, _, e := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&peer.b)), uintptr(unsafe.Pointer(&peer.n)),
			unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0, 0)
		switch e {
		case 0:
			peer.n = min(peer.n, uint32(len(peer.b)))
			return int(r), peer, nil
		case unix.EINTR:
		default:
			return -1, sockaddr{}, e
		}
	}
}

// receiveFrom takes one packet. n is its length, even if p is shorter.
func receiveFrom(fd int, p []byte, from *sockaddr) (n int, err error) {
	for {
		*from = sockaddr{n: uint32(len(from.b))}
		r, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_TRUNC,
			uintptr(unsafe.Pointer(&from.b)), uintptr(unsafe.Pointer(&from.n)))
		switch e {
		case 0:
			from.n = min(from.n, uint32(len(from.b)))
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

// sendTo sends one packet; an empty address means the peer that the socket is connected to.
func sendTo(fd int, p []byte, to *sockaddr) error {
	var name unsafe.Pointer
	if to.n > 0 {
		name = unsafe.Pointer(&to.b)
	}
	for {
		_, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL,
			uintptr(name), uintptr(to.n))
		if e != unix.EINTR {
			return errnoOrNil(e)
		}
	}
}

func errnoOrNil(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}
