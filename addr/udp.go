package addr

import (
	"context"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

var udp = &transport{"UDP", "udp", GUDP, unix.SOCK_DGRAM, unix.IPPROTO_UDP}

var _ = ipForms(Type{
	Name: "UDP{4}-CONNECT", Aliases: "UDP{4}", Params: []Param{{Name: "host"}, {Name: "port"}},
	Groups: GFD | GSOCKET | GUDP | GPACKETS, Can: ReadWrite,
	Summary: "exchange UDP datagrams with one peer{any}, by a connected socket",
	Doc:     "The kernel passes on only what comes from the peer, and reports that nobody listens there as an error.",
	Examples: []Example{
		{"- UDP{4}:{host}:7777", "send each line as a datagram, show the answers"},
		{"TUN:10.0.8.1/24,up UDP{4}:{host}:7777,sourceport=7778", "send the packets of a network device to a peer"},
	},
}, udp.checkClient, udp.connect)

var _ = ipForms(Type{
	Name: "UDP{4}-LISTEN", Aliases: "UDP{4}-L", Params: []Param{{Name: "port"}},
	Groups: GFD | GSOCKET | GLISTEN | GCHILD | GRANGE | GUDP | GPACKETS, Can: ReadWrite,
	Summary: "wait for a UDP datagram{any}, then exchange datagrams with its sender",
	Doc: "The first datagram chooses the peer; those of others are dropped from then on. With fork each sender has a session of its own, until that ends (see -T: " +
		"datagrams have no end of file).",
	Examples: []Example{
		{"UDP{4}-LISTEN:7777 -", "talk to whoever sends first"},
		{"-T60 UDP{4}-LISTEN:7777,fork UDP{4}:{host}:7778", "pass datagrams on to another port, and answers back to each sender"},
	},
}, udp.checkServer, udp.listenPackets)

var _ = ipForms(Type{
	Name: "UDP{4}-SENDTO", Aliases: "UDP{4}-SEND", Params: []Param{{Name: "host"}, {Name: "port"}},
	Groups: GFD | GSOCKET | GUDP | GPACKETS, Can: ReadWrite,
	Summary: "exchange UDP datagrams with one peer{any}, by an unconnected socket",
	Doc:     "Datagrams of other senders are passed over. That nobody listens at the peer is not noticed.",
	Examples: []Example{
		{"- UDP{4}-SENDTO:{host}:7777", "send each line as a datagram, show the answers"},
		{"-u /etc/hostname UDP{4}-SENDTO:{host}:7777,sourceport=7778", "send a small file as one datagram"},
	},
}, udp.checkClient, udp.sendToPeer(true))

var _ = ipForms(Type{
	Name: "UDP{4}-DATAGRAM", Aliases: "UDP{4}-DGRAM", Params: []Param{{Name: "host"}, {Name: "port"}},
	Groups: GFD | GSOCKET | GRANGE | GUDP | GPACKETS, Can: ReadWrite,
	Summary: "send UDP datagrams to a peer{any} that may be a group, take answers from anyone",
	Doc:     "The address may be of broadcast (with option broadcast) or multicast. Option range restricts whose datagrams are taken.",
	Examples: []Example{
		{"- UDP{4}-DATAGRAM:{host}:7777", "send each line as a datagram, show the answers of all who answer"},
		{"- UDP{4}-DATAGRAM:{host}:7777,bind=:7777,range={host}", "talk with a peer that uses the same port"},
	},
}, udp.checkClient, udp.sendToPeer(false))

var _ = ipForms(Type{
	Name: "UDP{4}-RECVFROM", Params: []Param{{Name: "port"}},
	Groups: GFD | GSOCKET | GCHILD | GRANGE | GUDP, Can: ReadWrite,
	Summary: "take one UDP datagram{any} and send answers to its sender",
	Doc:     "The datagram is followed by the end of file. With fork each datagram has a session of its own.",
	Examples: []Example{
		{"UDP{4}-RECVFROM:7777,fork EXEC:date", "tell the date to whoever sends a datagram"},
		{"UDP{4}-RECVFROM:7777 PIPE", "send one datagram back"},
	},
}, udp.checkServer, udp.receiveEach)

var _ = ipForms(Type{
	Name: "UDP{4}-RECV", Params: []Param{{Name: "port"}},
	Groups: GFD | GSOCKET | GRANGE | GUDP, Can: Read,
	Summary: "receive UDP datagrams{any} from anyone",
	Doc:     "Nothing is sent. Option range restricts whose datagrams are taken.",
	Examples: []Example{
		{"-u UDP{4}-RECV:7777 -", "show what anyone sends"},
		{"-u UDP{4}-RECV:7777,range={host} CREATE:/tmp/log", "write what local programs send to a file"},
	},
}, udp.checkServer, udp.receiveAll)

// sendToPeer returns the opener of SENDTO (onlyPeer) and DATAGRAM.
func (t *transport) sendToPeer(onlyPeer bool) func(context.Context, *Bound, *Env, int) (Source, error) {
	return func(ctx context.Context, b *Bound, env *Env, family int) (Source, error) {
		peers, err := t.peers(ctx, b, env, family)
		if err != nil {
			return nil, err
		}
		for i := range peers {
			s := t.socket(peers[i].family())
			bind, err := b.clientBind(ctx, env, t, s.family)
			var ep *relay.Endpoint
			if err == nil {
				admit := b.rangeFilter(env).forPackets(env.Log)
				if onlyPeer {
					admit = func(from *sockaddr) bool { return *from == peers[i] }
				}
				ep, err = b.sendTo(env, s, peers[i], bind, admit, !onlyPeer)
			}
			if err == nil {
				return &one{ep: ep}, nil
			}
			if i == len(peers)-1 {
				return nil, err
			}
			env.Log.Noticef("%s, trying the next address", err)
		}
		return nil, errors.New("no address to send to")
	}
}

func (t *transport) receiveAll(ctx context.Context, b *Bound, env *Env, family int) (Source, error) {
	fd, err := t.serverSocket(ctx, b, env, t.socket(0), family)
	if err != nil {
		return nil, err
	}
	ep, err := b.receive(env, fd)
	if err != nil {
		return nil, err
	}
	return &one{ep: ep}, nil
}

func (t *transport) receiveEach(ctx context.Context, b *Bound, env *Env, family int) (Source, error) {
	fd, err := t.serverSocket(ctx, b, env, t.socket(0), family)
	if err != nil {
		return nil, err
	}
	return b.receiveFromEach(env, fd)
}
