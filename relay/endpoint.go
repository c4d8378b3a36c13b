package relay

import (
	"io"
	"time"

	"github.com/pkg/errors"
)

// Reader is the readable half of an endpoint. Of a byte stream it is an io.Reader; of a packet endpoint each Read returns one whole packet, and
// the buffer must hold MaxPacket bytes. io.EOF ends the direction.
type Reader interface {
	io.Reader
	// SetReadDeadline makes a waiting and every later Read return os.ErrDeadlineExceeded at time t; zero means never. A half that never waits may ignore it.
	SetReadDeadline(t time.Time) error
}

// ErrBrokenOff ends a direction whose sender has said, in a way that nobody can forge, that it ends before all its data. To a device, for which packets just end, that is as good as
// the end of file.
var ErrBrokenOff = errors.New("the peer broke off before the end of its data")

// Writer is the writable half of an endpoint. Of a packet endpoint each Write is one packet.
type Writer interface {
	io.Writer
	SetWriteDeadline(t time.Time) error
	// CloseWrite tells the other side that no more will come, in the way this kind of endpoint can (shutdown, close, nothing).
	// The readable half stays usable.
	CloseWrite() error
}

// BatchReader is a packet half that can take several packets at once.
type BatchReader interface {
	// ReadBatch waits for one packet, then adds those that are ready, as far as there is room in b.
	ReadBatch(b *Batch) error
}

// BatchWriter is a packet half that can send several packets by one system call, each still a packet of its own.
type BatchWriter interface {
	// WriteBatch writes packets of b from number first on: as many as go at once, at least one. It returns how many were written; an error concerns the one behind them.
	WriteBatch(b *Batch, first int) (n int, err error)
}

// Traffic is what an endpoint carries.
type Traffic uint8

// Kinds of traffic. Datagrams are packets of no known structure; TUN and TAP packets are IP packets and Ethernet frames.
const (
	Stream Traffic = iota
	Datagrams
	TUN
	TAP
)

// String returns the word used in messages.
func (t Traffic) String() string { return [...]string{"stream", "datagrams", "tun", "tap"}[t] }

// Framing is how packets travel over a byte stream.
type Framing uint8

// The framings, as the user names them. FramingUnset leaves the choice to the relay: auto where the peer can answer, else none.
const (
	FramingUnset Framing = iota
	FramingAuto
	FramingLink
	FramingNone
	FramingU16
	FramingQemu
	FramingSlip
)

var framingNames = [...]string{"unset", "auto", "link", "none", "u16", "qemu", "slip"}

// FramingNames lists the values a user may give, in the order of the documentation.
func FramingNames() []string { return framingNames[1:] }

// ParseFraming returns the framing of that name.
func ParseFraming(name string) (Framing, bool) {
	for i, n := range framingNames {
		if i > 0 && n == name {
			return Framing(i), true
		}
	}
	return FramingUnset, false
}

// String returns the name of the framing.
func (f Framing) String() string { return framingNames[f] }

// Endpoint is one open end of a session.
type Endpoint struct {
	Label   string // names the endpoint in messages, as "TCP-LISTEN:80" or "10.0.0.1:4711"
	R       Reader // nil: cannot be read
	W       Writer // nil: cannot be written
	Traffic Traffic

	GoneIsEnd bool // a far side that went away ends the transfer as a wanted end does, with a notice (option cool-write)

	// Of packet endpoints.
	PI      bool                 // packets have four bytes of packet information in front (if_tun.h, struct tun_pi)
	MTU     int                  // of the device, 0 if unknown
	OnePack func(err error) bool // says that a read or write error concerned one packet only, so that the relay counts it and goes on; nil: none does
	Offload Offload              // nil: packets are always complete
	Carrier func(on bool) error  // tells the device whether there is a link (option carrier); nil: it does not follow
	// Queue takes a queue that nobody uses of a device with several, as an endpoint of its own, whose Close gives it back. What stands beside it in this struct then
	// serves to describe the device, not to move packets. nil: the endpoint is all there is.
	Queue func() (*Endpoint, error)

	// Admit is asked once in each session, before the first packet moves, when the peer is known as far as it will be: an error ends the session, and the peer is told. peer is the endpoint on the
	// other side. nil: everybody is welcome.
	Admit func(s *Session, peer *Endpoint, info PeerInfo) error

	// Of byte streams that packets travel over.
	Framing      Framing
	HelloTimeout time.Duration // how long packets wait for the peer's hello, 0: DefaultHelloTimeout
	Heartbeat    time.Duration // time between two pings on a link, 0: DefaultHeartbeat, below 0: none
	SilentFor    time.Duration // how long a peer that came to us may say nothing at all before it is closed, 0: for ever
	Broken       <-chan error  // says why the stream can't work any more although it looks alive; nil: nothing watches it
	CanAnswer    bool          // something at the far end may answer a hello (a socket, a program, a terminal; not a file), if both directions are used
	// CarryPackets is called before packets of a device travel over the endpoint, a stream or datagrams, to set its queue up for them. whole is the greatest
	// length of one, in bytes, that goes in one piece; 0 if every one does or nobody knows. nil: nothing to do.
	CarryPackets func() (whole int, err error)

	// Of programs.
	Ended  <-chan struct{} // closed when the program has ended, although others may still hold its descriptors; nil: there is none
	Unread func() bool     // says whether output of it waits to be read; nil if R is

	Peer string // address of the far end: 10.0.0.5:80, [fd00::1]:80, a path; "" unknown
	// Authenticated says that the far end has shown that it holds the key, or the certificate, that was asked of it.
	Authenticated bool
	Env           []string     // NAME=value pairs for a program on the other side
	Close         func() error // releases everything, once; nil: nothing to release
}

// Offload is the part of a device that hands over and takes packets which are unfinished: checksums not filled in, or many segments in one packet, as told by a virtio-net
// header in front of each. Its Reader fills a Batch with VNet set in that form, and any other with complete packets.
type Offload interface {
	// Caps are the capabilities that the device can take from a peer.
	Caps() Caps
	// Accept tells the kernel which unfinished packets the peer can take. Where packets go to the peer complete, it says which are wanted for being split and finished here.
	Accept(peer Caps) error
	// Put writes a packet with virtio-net header that came from the peer, after it was checked; a refused header is an error of one packet.
	Put(p []byte) error
}

// Merger is an Offload that can make one packet of consecutive ones of a flow.
type Merger interface {
	// Add takes a complete packet, to be written with the next Flush, where consecutive packets of a flow may go as one. It must stay as it is until then. False: there is no room
	// before a Flush.
	Add(p []byte) bool
	// Flush writes what Add took. It calls done for each write with the packets and bytes that stood in it and its result; an error of done ends Flush, and what was
	// not written yet is forgotten.
	Flush(done func(packets, bytes int, err error) error) error
}

// DefaultHelloTimeout is how long packets wait for the peer's hello before they go unframed.
const DefaultHelloTimeout = time.Second

// close releases the endpoint.
func (e *Endpoint) close() error {
	if e.Close == nil {
		return nil
	}
	return e.Close()
}
