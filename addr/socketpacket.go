package addr

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// packetSocket is a datagram or seqpacket socket as both halves of an endpoint: each Read is one packet, each Write is one. One goroutine reads and one
// writes. Empty packets are packets; see option null-eof.
//
// The file is no embedded field: the methods of os.file that move data must not be reachable past this type.
type packetSocket struct {
	file     *relay.File
	raw      syscall.RawConn
	to       sockaddr                  // where packets go; empty: to the peer that the socket is connected to
	admit    func(from *sockaddr) bool // nil: packets of every sender are taken
	zeroEnds bool                      // of a seqpacket socket, an empty packet is the end
	only     bool                      // nothing comes after the queue: RECVFROM
	group    bool                      // the peer may be many: DATAGRAM
	ready    atomic.Bool               // the queue holds something
	mu       sync.Mutex                // guards queue and deadline
	queue    [][]byte                  // packets that came before the session began, or past its socket
	deadline time.Time                 // for reading, as set last

	// What the closures below work on; made once, so that a packet costs no allocation.
	in struct {
		p     []byte
		batch *relay.Batch
		n     int
		err   error
		later error // ended a batch; for the next call
		from  sockaddr
	}
	out struct {
		p   []byte
		err error
	}
	readOne, readMany, writeOne func(fd uintptr) bool
	train                       *train    // for WriteBatch; nil: not tried yet
	arrivals                    *arrivals // nil: datagrams come one by one
}

// errLongPacket says that a packet did not fit into the reader's buffer. It is an error of that packet alone.
var errLongPacket = errors.New("packet is longer than the buffer")

// newPacketSocket makes halves of a socket of the given type, connected or not.
func newPacketSocket(f *relay.File, typ int) *packetSocket {
	s := &packetSocket{file: f, zeroEnds: typ == unix.SOCK_SEQPACKET}
	s.raw, _ = f.SyscallConn() // a File made by NewFile has one
	s.readOne, s.readMany, s.writeOne = s.receive, s.receiveBatch, s.send
	if typ == unix.SOCK_SEQPACKET {
		f.OnCloseWrite(f.Shutdown)
	}
	return s
}

// packetEndpoint makes an endpoint of a packet socket, which it owns from now on.
func (b *Bound) packetEndpoint(s *packetSocket) (*relay.Endpoint, error) {
	var reader relay.Reader
	var writer relay.Writer
	var r, w *relay.File
	if b.Mode&Read != 0 {
		reader, r = s, s.file
	}
	if b.Mode&Write != 0 {
		writer, w = s, s.file
	}
	ep, err := b.makeEndpointOf(reader, writer, r, w, s.file.Close)
	if err != nil {
		return nil, err
	}
	ep.Traffic = relay.Datagrams
	ep.CanAnswer = b.Mode == ReadWrite && !s.only && !s.group
	ep.OnePack = onePacketError
	ep.CarryPackets = s.carryPackets
	return ep, nil
}

// onePacketError says that an error concerned one packet: the next one may fare better.
func onePacketError(err error) bool {
	for _, e := range []error{unix.ECONNREFUSED, unix.EMSGSIZE, unix.ENOBUFS, unix.EHOSTUNREACH, unix.ENETUNREACH, errLongPacket} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// push adds a packet to what Read returns first, also while Read waits.
func (s *packetSocket) push(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, p)
	s.ready.Store(true)
	s.file.SetReadDeadline(time.Unix(1, 0)) // wakes a Read; pop sets the true deadline again
}

// queued returns the number of packets in the queue.
func (s *packetSocket) queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// pop takes the first packet off the queue, nil if there is none.
func (s *packetSocket) pop() (p []byte) {
	if !s.ready.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, s.queue = s.queue[0], s.queue[1:]
	if len(s.queue) == 0 {
		s.queue = nil
		s.ready.Store(false)
		s.file.SetReadDeadline(s.deadline)
	}
	return p
}

// SetReadDeadline implements relay.Reader.
func (s *packetSocket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	return s.file.SetReadDeadline(t)
}

// SetWriteDeadline implements relay.Writer.
func (s *packetSocket) SetWriteDeadline(t time.Time) error { return s.file.SetWriteDeadline(t) }

// CloseWrite implements relay.Writer. Datagrams have no end of file; see option shut-null.
func (s *packetSocket) CloseWrite() error { return s.file.CloseWrite() }

// Fd returns the number of the descriptor, for messages.
func (s *packetSocket) Fd() int { return s.file.Fd() }

// Read implements relay.Reader.
func (s *packetSocket) Read(p []byte) (int, error) {
	for {
		if q := s.pop(); q != nil {
			if len(q) > len(p) {
				return 0, errLongPacket
			}
			return copy(p, q), nil
		}
		if s.only {
			return 0, io.EOF
		}
		s.in.p = p
		err := s.raw.Read(s.readOne)
		s.in.p = nil
		switch {
		case err == nil:
			return s.in.n, s.in.err
		case !errors.Is(err, os.ErrDeadlineExceeded) || !s.ready.Load():
			return 0, err
		}
	}
}

// ReadBatch implements relay.BatchReader.
func (s *packetSocket) ReadBatch(b *relay.Batch) error {
	for {
		if s.ready.Load() || s.only {
			n, err := s.Read(b.Room())
			if err == nil {
				b.Commit(n)
			}
			return err
		}
		if err := s.in.later; err != nil {
			s.in.later = nil
			return err
		}
		s.in.batch = b
		err := s.raw.Read(s.readMany)
		s.in.batch = nil
		switch {
		case err == nil:
			return s.in.err
		case !errors.Is(err, os.ErrDeadlineExceeded) || !s.ready.Load():
			return err
		}
	}
}

// receive takes one packet into in.p; false: there is none yet.
func (s *packetSocket) receive(fd uintptr) bool {
	for {
		if s.arrivals != nil {
			s.in.n, s.in.err = s.arrivals.receiveFrom(int(fd), s.in.p, &s.in.from)
		} else {
			s.in.n, s.in.err = receiveFrom(int(fd), s.in.p, &s.in.from)
		}
		switch {
		case s.in.err == unix.EAGAIN:
			return false
		case s.in.err != nil:
			return true
		case s.admit != nil && !s.admit(&s.in.from):
			continue
		case s.in.n == 0 && s.zeroEnds:
			s.in.err = io.EOF
		case s.in.n > len(s.in.p):
			s.in.n, s.in.err = 0, errors.Wrapf(errLongPacket, "%d bytes for %d", s.in.n, len(s.in.p))
		}
		return true
	}
}

// receiveBatch takes the packets that are there, as far as there is room; false: there is none yet.
func (s *packetSocket) receiveBatch(fd uintptr) bool {
	b := s.in.batch
	s.in.err = nil
	for {
		if s.in.p = b.Room(); s.in.p == nil {
			return true
		}
		got := s.receive(fd)
		s.in.p = nil
		switch {
		case !got:
			s.in.err = nil
			return b.Len() > 0
		case s.in.err != nil:
			if b.Len() > 0 {
				s.in.later, s.in.err = s.in.err, nil
			}
			return true
		}
		b.Commit(s.in.n)
	}
}

// Write implements relay.Writer.
func (s *packetSocket) Write(p []byte) (int, error) {
	s.out.p = p
	err := s.raw.Write(s.writeOne)
	for pause := time.Millisecond; err == nil && s.out.err == unix.EAGAIN; pause = min(2*pause, 50*time.Millisecond) {
		time.Sleep(pause)
		err = s.raw.Write(s.writeOne) // says so if the deadline has passed
	}
	s.out.p = nil
	if err == nil {
		err = s.out.err
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// send sends out.p; false: the socket has no room. That the queue of an unconnected UNIX socket's peer has room again is an event that nobody is told of: Write looks again.
func (s *packetSocket) send(fd uintptr) bool {
	s.out.err = sendTo(int(fd), s.out.p, &s.to)
	return s.out.err != unix.EAGAIN || s.to.family() == unix.AF_UNIX
}
