package addr

import (
	"context"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Sockets of any family: domain, type and protocol are numbers, addresses are the bytes that follow sa_family in the kernel's struct, in socat's data language.

var (
	paramDomain   = Param{Name: "domain"}
	paramType     = Param{Name: "type"}
	paramProtocol = Param{Name: "protocol"}
	paramRemote   = Param{Name: "remote-address"}
	paramLocal    = Param{Name: "local-address"}
)

// genericNote explains the parameters in the documentation of each type.
const genericNote = " The numbers are those of socket(2), decimal, hexadecimal or octal; the address is what follows sa_family, as x and hexadecimal digits (see setsockopt for the " +
	"language). Option bind takes an address of the same form."

var _ = addType(Type{
	Name: "SOCKET-CONNECT", Params: []Param{paramDomain, paramProtocol, paramRemote}, Groups: GFD | GSOCKET | GCHILD | GRETRY | GPACKETS | GSTREAMS, Can: ReadWrite,
	Summary: "connect a stream socket of any family to a server",
	Doc:     "With option so-type it may be another type than a stream." + genericNote,
	Examples: []Example{
		{"- SOCKET-CONNECT:2:6:x1e617f0000010000000000000000", "connect to TCP port 7777 of 127.0.0.1"},
		{"- SOCKET-CONNECT:1:0:x2f746d702f736f636b00", "connect to the UNIX socket /tmp/sock"},
	},
	Check: checkGeneric,
	Open: func(ctx context.Context, b *Bound, env *Env) (Source, error) {
		s, remote := b.genericSpec()
		return b.client(ctx, env, func(ctx context.Context) (*relay.Endpoint, error) {
			c, err := b.connectSocket(ctx, env, s, &remote, b.genericBind(s.family))
			if err != nil {
				return nil, err
			}
			return b.connectedEndpoint(c)
		})
	},
})

var _ = addType(Type{
	Name: "SOCKET-LISTEN", Params: []Param{paramDomain, paramProtocol, paramLocal}, Groups: GFD | GSOCKET | GLISTEN | GCHILD | GRETRY | GRANGE | GPACKETS | GSTREAMS, Can: ReadWrite,
	Summary: "wait for clients on a stream socket of any family",
	Doc:     "With fork it takes any number of clients, else one." + genericNote,
	Examples: []Example{
		{"SOCKET-LISTEN:2:6:x1e61000000000000000000000000,reuseaddr -", "wait for a client on TCP port 7777"},
		{"SOCKET-LISTEN:2:6:x1e617f0000010000000000000000,fork PIPE", "send back what clients of TCP port 7777 send"},
	},
	Check: checkGeneric,
	Open: func(ctx context.Context, b *Bound, env *Env) (src Source, err error) {
		s, local := b.genericSpec()
		s.keepFD = true
		err = b.retry(ctx, env, func() error {
			fd, err := b.makeSocket(s, bindAddr(local))
			if err != nil {
				return err
			}
			src, err = b.listen(env, fd)
			return err
		})
		return src, err
	},
})

var _ = addType(Type{
	Name: "SOCKET-SENDTO", Aliases: "SENDTO", Params: []Param{paramDomain, paramType, paramProtocol, paramRemote}, Groups: GFD | GSOCKET | GPACKETS, Can: ReadWrite,
	Summary: "exchange datagrams with one peer by a socket of any family",
	Doc:     "Datagrams of other senders are passed over." + genericNote,
	Examples: []Example{
		{"- SOCKET-SENDTO:2:2:17:x1e617f0000010000000000000000", "send each line to UDP port 7777 of 127.0.0.1"},
		{"- SOCKET-SENDTO:1:2:0:x2f746d702f736f636b", "send each line to the UNIX socket /tmp/sock"},
	},
	Check: checkGeneric,
	Open: func(_ context.Context, b *Bound, env *Env) (Source, error) {
		s, remote := b.genericSpec()
		return oneOf(b.sendTo(env, s, remote, b.genericBind(s.family), func(from *sockaddr) bool { return *from == remote }, false))
	},
})

var _ = addType(Type{
	Name: "SOCKET-DATAGRAM", Aliases: "DATAGRAM DGRAM", Params: []Param{paramDomain, paramType, paramProtocol, paramRemote}, Groups: GFD | GSOCKET | GRANGE | GPACKETS, Can: ReadWrite,
	Summary: "send datagrams to a peer by a socket of any family, take answers from anyone",
	Doc:     "The peer may be a group." + genericNote,
	Examples: []Example{
		{"- SOCKET-DATAGRAM:2:2:17:x1e617f0000010000000000000000", "send each line to UDP port 7777 of 127.0.0.1"},
		{"- SOCKET-DATAGRAM:2:2:17:x1e61ffffffff0000000000000000,broadcast", "send each line to everyone on the network"},
	},
	Check: checkGeneric,
	Open: func(_ context.Context, b *Bound, env *Env) (Source, error) {
		s, remote := b.genericSpec()
		return oneOf(b.sendTo(env, s, remote, b.genericBind(s.family), b.rangeFilter(env).forPackets(env.Log), true))
	},
})

var _ = addType(Type{
	Name: "SOCKET-RECV", Params: []Param{paramDomain, paramType, paramProtocol, paramLocal}, Groups: GFD | GSOCKET | GRANGE, Can: Read,
	Summary: "receive datagrams from anyone by a socket of any family",
	Doc:     "Nothing is sent." + genericNote,
	Examples: []Example{
		{"-u SOCKET-RECV:2:2:17:x1e61000000000000000000000000 -", "show what comes to UDP port 7777"},
		{"-u SOCKET-RECV:1:2:0:x2f746d702f736f636b -", "show what comes to the UNIX socket /tmp/sock"},
	},
	Check: checkGeneric,
	Open: func(_ context.Context, b *Bound, env *Env) (Source, error) {
		s, local := b.genericSpec()
		fd, err := b.makeSocket(s, bindAddr(local))
		if err != nil {
			return nil, err
		}
		return oneOf(b.receive(env, fd))
	},
})

var _ = addType(Type{
	Name: "SOCKET-RECVFROM", Params: []Param{paramDomain, paramType, paramProtocol, paramLocal}, Groups: GFD | GSOCKET | GCHILD | GRANGE, Can: ReadWrite,
	Summary: "take one datagram by a socket of any family and send answers to its sender",
	Doc:     "With fork each datagram has a session of its own." + genericNote,
	Examples: []Example{
		{"SOCKET-RECVFROM:2:2:17:x1e61000000000000000000000000,fork EXEC:date", "tell the date to whoever sends to UDP port 7777"},
		{"SOCKET-RECVFROM:2:2:17:x1e61000000000000000000000000 PIPE", "send one datagram back"},
	},
	Check: checkGeneric,
	Open: func(_ context.Context, b *Bound, env *Env) (Source, error) {
		s, local := b.genericSpec()
		fd, err := b.makeSocket(s, bindAddr(local))
		if err != nil {
			return nil, err
		}
		return b.receiveFromEach(env, fd)
	},
})

// oneOf makes a Source of one endpoint.
func oneOf(ep *relay.Endpoint, err error) (Source, error) {
	if err != nil {
		return nil, err
	}
	return &one{ep: ep}, nil
}

func checkGeneric(b *Bound) error {
	if _, _, err := b.parseGeneric(); err != nil {
		return err
	}
	if text, ok := optBind.Get(b); ok {
		if b.Type.Params[len(b.Type.Params)-1] == paramLocal {
			return withHint{errors.Errorf("%s binds to its parameter", b.Name), "leave out option bind"}
		}
		if _, err := genericSockaddr(0, text); err != nil {
			return errors.Wrap(err, "option bind")
		}
	}
	return b.checkFork()
}

// genericSpec returns what the parameters say; checkGeneric has found them to be right.
func (b *Bound) genericSpec() (s socketSpec, addr sockaddr) {
	s, addr, _ = b.parseGeneric()
	return s, addr
}

func (b *Bound) parseGeneric() (s socketSpec, addr sockaddr, err error) {
	s.typ = unix.SOCK_STREAM
	last := len(b.Type.Params) - 1
	for i, p := range b.Type.Params[:last] {
		n, err := parseUint(b.Param(i), 0xffff)
		if err != nil {
			return s, addr, errors.Wrapf(err, "%s %q", p.Name, b.Param(i))
		}
		switch p {
		case paramDomain:
			s.family = int(n)
		case paramType:
			s.typ = int(n)
		case paramProtocol:
			s.proto = int(n)
		}
	}
	addr, err = genericSockaddr(s.family, b.Param(last))
	return s, addr, err
}

// genericSockaddr makes an address of a family and the bytes behind it.
func genericSockaddr(family int, text string) (s sockaddr, err error) {
	data, err := ParseDalan(text)
	if err != nil {
		return s, errors.Wrapf(err, "address %q", text)
	}
	if len(data) > len(s.b)-sizeofFamily {
		return s, errors.Errorf("address %q: %d bytes, at most %d are possible", text, len(data), len(s.b)-sizeofFamily)
	}
	s.setFamily(family, sizeofFamily+copy(s.b[sizeofFamily:], data))
	return s, nil
}

// genericBind returns the bind function of option bind, nil without it.
func (b *Bound) genericBind(family int) func(int) error {
	text, ok := optBind.Get(b)
	if !ok {
		return nil
	}
	return func(fd int) error {
		local, err := genericSockaddr(family, text)
		if err != nil {
			return err
		}
		return bindAddr(local)(fd)
	}
}
