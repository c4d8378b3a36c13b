package addr

import (
	"context"
	"strings"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// transport is a protocol over IP with ports. Its address types come in three forms: for either IP version, for IPv4, for IPv6.
type transport struct {
	name    string // in front of the names of its address types
	network string // of service names: tcp or udp
	groups  Group
	typ     int
	proto   int
}

var tcp = &transport{"TCP", "tcp", GTCP, unix.SOCK_STREAM, unix.IPPROTO_TCP}

// ipForms adds the three forms of an address type of t. In t's texts "{4}" stands for "", "4" or "6", {host} for the loopback address and {any} for the IP version in words; open and
// check get the address family that the form is bound to, AF_UNSPEC for none.
func ipForms(t Type, check func(b *Bound, family int) error, open func(ctx context.Context, b *Bound, env *Env, family int) (Source, error)) []*Type {
	var types []*Type
	for _, form := range []struct {
		digit, host, words string
		groups             Group
		family             int
	}{
		{"", "127.0.0.1", "", GIP4 | GIP6, unix.AF_UNSPEC},
		{"4", "127.0.0.1", " over IPv4", GIP4, unix.AF_INET},
		{"6", "[::1]", " over IPv6", GIP6, unix.AF_INET6},
	} {
		f := t
		f.Name, f.Aliases = strings.ReplaceAll(t.Name, "{4}", form.digit), strings.ReplaceAll(t.Aliases, "{4}", form.digit)
		f.Groups |= form.groups
		family := form.family
		f.Check = func(b *Bound) error { return check(b, b.ipFamily(family)) }
		f.Open = func(ctx context.Context, b *Bound, env *Env) (Source, error) {
			return open(ctx, b, env, b.ipFamily(family))
		}
		row := addType(f)
		row.template("{4}", form.digit, "{host}", form.host, "{any}", form.words)
		types = append(types, row)
	}
	return types
}

var _ = ipForms(Type{
	Name: "TCP{4}-CONNECT", Aliases: "TCP{4} INET{4}", Params: []Param{{Name: "host"}, {Name: "port"}},
	Groups: GFD | GSOCKET | GCHILD | GRETRY | GTCP | GPACKETS | GSTREAMS, Can: ReadWrite,
	Summary: "connect to a TCP server{any}",
	Doc:     "Each address of the host is tried in turn. With fork a connection is made, and another one after the time of option interval, each with a session of its own.",
	Examples: []Example{
		{"- TCP{4}:{host}:7777", "talk to a server from the terminal"},
		{"TCP{4}-LISTEN:8080,fork,reuseaddr TCP{4}:{host}:7777,connect-timeout=5", "pass each client on to another port"},
	},
}, tcp.checkClient, tcp.connect)

var _ = ipForms(Type{
	Name: "TCP{4}-LISTEN", Aliases: "TCP{4}-L INET{4}-LISTEN INET{4}-L", Params: []Param{{Name: "port"}},
	Groups: GFD | GSOCKET | GLISTEN | GCHILD | GRETRY | GRANGE | GTCP | GPACKETS | GSTREAMS, Can: ReadWrite,
	Summary: "wait for TCP clients{any}",
	Doc:     "Takes one connection and then closes the port; with fork it takes any number, each with a session of its own. Option bind chooses the local address, range the peers.",
	Examples: []Example{
		{"TCP{4}-LISTEN:7777,reuseaddr -", "show what the first client sends"},
		{"TCP{4}-LISTEN:7777,fork,max-children=10,range={host} EXEC:date", "tell up to ten local clients at a time the date"},
	},
}, tcp.checkServer, tcp.listen)

func (t *transport) socket(family int) socketSpec {
	return socketSpec{family: family, typ: t.typ, proto: t.proto}
}

// checkClient checks host, port and the local address of a type with a peer.
func (t *transport) checkClient(b *Bound, family int) error {
	if _, err := parsePort(t.network, b.Param(1)); err != nil {
		return err
	}
	if err := b.checkHost(b.Param(0), family); err != nil {
		return err
	}
	if text, ok := optBind.Get(b); ok {
		if ip, literal, _ := parseIP(b.Param(0)); literal && family == unix.AF_UNSPEC {
			family = unix.AF_INET6
			if ip.Is4() {
				family = unix.AF_INET
			}
		}
		if err := t.checkBind(b, text, family, true); err != nil {
			return err
		}
	}
	return b.checkFork()
}

// checkServer checks the port and the local address of a type that waits for peers.
func (t *transport) checkServer(b *Bound, family int) error {
	if _, err := parsePort(t.network, b.Param(0)); err != nil {
		return err
	}
	if text, ok := optBind.Get(b); ok {
		if err := t.checkBind(b, text, family, false); err != nil {
			return err
		}
	}
	return b.checkFork()
}

// checkBind checks a value of option bind.
func (t *transport) checkBind(b *Bound, text string, family int, withPort bool) error {
	host, port := splitHostPort(text)
	if err := b.checkHost(host, family); err != nil {
		return errors.Wrap(err, "option bind")
	}
	switch {
	case port == "":
		return nil
	case !withPort:
		return withHint{errors.Errorf("option bind: %q has a port", text), "the port to wait on is the parameter of the address: bind takes a host only"}
	}
	_, err := parsePort(t.network, port)
	return errors.Wrap(err, "option bind")
}

// peers returns the addresses of host and port as given in the parameters.
func (t *transport) peers(ctx context.Context, b *Bound, env *Env, family int) ([]sockaddr, error) {
	port, err := parsePort(t.network, b.Param(1))
	if err != nil {
		return nil, err
	}
	return b.resolve(ctx, env, b.Param(0), port, family)
}

// connect opens a type that connects to a peer.
func (t *transport) connect(ctx context.Context, b *Bound, env *Env, family int) (Source, error) {
	return b.client(ctx, env, func(ctx context.Context) (*relay.Endpoint, error) {
		remotes, err := t.peers(ctx, b, env, family)
		if err != nil {
			return nil, err
		}
		c, err := b.connectAny(ctx, env, t.socket(0), remotes, func(family int) (func(int) error, error) {
			return b.clientBind(ctx, env, t, family)
		})
		if err != nil {
			return nil, err
		}
		if b.tls != nil {
			return shake(ctx, b.bareEndpoint(c.file), b.handshakeLimit(), b.tlsHandshake(env))
		}
		return b.connectedEndpoint(c)
	})
}

// listen opens a type that accepts connections.
func (t *transport) listen(ctx context.Context, b *Bound, env *Env, family int) (src Source, err error) {
	err = b.retry(ctx, env, func() error {
		s := t.socket(0)
		s.reuse, s.keepFD = true, true
		fd, err := t.serverSocket(ctx, b, env, s, family)
		if err != nil {
			return err
		}
		l, err := b.listen(env, fd)
		switch {
		case err != nil:
			return err
		case b.tls != nil:
			src = b.withHandshake(env, l, b.tlsHandshake(env))
		default:
			src = l
		}
		return nil
	})
	return src, err
}

// serverSocket makes a socket that is bound to the port in the first parameter.
func (t *transport) serverSocket(ctx context.Context, b *Bound, env *Env, s socketSpec, family int) (fd int, err error) {
	port, err := parsePort(t.network, b.Param(0))
	if err != nil {
		return -1, err
	}
	locals, err := b.localAddresses(ctx, env, port, family)
	if err != nil {
		return -1, err
	}
	for i := range locals {
		s.family = locals[i].family()
		fd, err = b.makeSocket(s, bindAddr(locals[i]))
		if err == nil || i == len(locals)-1 || errors.Is(err, unix.EADDRINUSE) {
			break // a port that is taken must not end in a socket of the other IP version
		}
		env.Log.Noticef("%s, trying the next address", err)
	}
	return fd, err
}

// localAddresses returns the addresses that a server may bind to, in the order to try: that of option bind, else any address of the IP version that was asked for.
func (b *Bound) localAddresses(ctx context.Context, env *Env, port uint16, family int) ([]sockaddr, error) {
	if text, ok := optBind.Get(b); ok {
		host, _ := splitHostPort(text)
		if host != "" {
			list, err := b.resolve(ctx, env, host, port, family)
			return list, errors.Wrap(err, "option bind")
		}
	}
	switch {
	case family != unix.AF_UNSPEC:
	case env.ListenIP == '4':
		family = unix.AF_INET
	case env.ListenIP == '6':
		family = unix.AF_INET6
	default:
		// Both versions by one socket, unless the host has no IPv6 at all.
		return []sockaddr{inetSockaddr(anyAddress(unix.AF_INET6), port, 0), inetSockaddr(anyAddress(unix.AF_INET), port, 0)}, nil
	}
	return []sockaddr{inetSockaddr(anyAddress(family), port, 0)}, nil
}
