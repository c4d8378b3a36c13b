package addr

import (
	"context"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// optSoType is for every type that makes its socket by socket(2) or socketpair(2).
var optSoType = declare(kindInt, Option{Name: "so-type", Aliases: "socktype type", Groups: GSOCKET, Phase: PhSocket,
	Doc: "type of the socket: 1 stream, 2 datagram, 5 sequenced packets"})

var _ = addType(Type{
	Name: "SOCKETPAIR", Groups: GFD | GSOCKET | GPACKETS, Can: ReadWrite,
	Summary: "an echo through a pair of connected sockets",
	Doc:     "What is written comes back; with so-type=2 or 5 as the packets that were written. In one direction it waits, or fills.",
	Examples: []Example{
		{"TCP-LISTEN:4711,fork SOCKETPAIR", "is an echo server"},
		{"UDP-LISTEN:4711 SOCKETPAIR,so-type=2", "sends each datagram back"},
	},
	Check: func(b *Bound) error { return b.checkSoType() },
	Open:  func(_ context.Context, b *Bound, env *Env) (Source, error) { return b.openSocketPair(env) },
})

// checkSoType checks the option for a pair of UNIX sockets.
func (b *Bound) checkSoType() error {
	switch kind := optSoType.Or(b, unix.SOCK_STREAM); kind {
	case unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET:
		return nil
	default:
		return errors.Errorf("option so-type: a pair of sockets is of type 1, 2 or 5, not %d", kind)
	}
}

func (b *Bound) openSocketPair(env *Env) (Source, error) {
	var files []*relay.File
	closeAll := func() error { return closeFiles(files) }
	err := b.inside(func() (err error) {
		files, err = b.socketPair()
		return err
	})
	if err != nil {
		return nil, err
	}
	env.Log.Noticef("writing to and reading from unnamed socketpair")
	w, r := files[0], files[1]
	w.OnCloseWrite(w.Shutdown)
	if b.Mode&Read == 0 {
		r = nil
	}
	if b.Mode&Write == 0 {
		w = nil
	}
	ep, err := b.makeEndpoint(r, w, closeAll)
	if err != nil {
		return nil, err
	}
	if optSoType.Or(b, unix.SOCK_STREAM) != unix.SOCK_STREAM {
		ep.Traffic = relay.Datagrams
	}
	return &one{ep: ep}, nil
}

// socketPair makes a pair of sockets that have gone through the phases up to CONNECTED.
func (b *Bound) socketPair() ([]*relay.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, optSoType.Or(b, unix.SOCK_STREAM)|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Wrap(err, "socketpair")
	}
	var files []*relay.File
	for i, fd := range fds {
		f, err := relay.NewFile(fd, "socketpair")
		if err != nil {
			if i == 0 {
				unix.Close(fds[1])
			}
			closeFiles(files)
			return nil, err
		}
		files = append(files, f)
	}
	if err := b.applyFiles(files, PhBigen, PhSocket, PhPastsocket, PhPastbigen, PhFD, PhConnected); err != nil {
		closeFiles(files)
		return nil, err
	}
	return files, nil
}
