package addr

import (
	"context"
	"encoding/binary"
	"net"

	"tunsplice/relay"
	"tunsplice/tundev"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// INTERFACE: a packet socket on an existing network interface (packet(7)). Each read is one frame that the interface receives, each write one that it sends. What the host
// itself sends through the interface is not seen. The socket has virtio-net headers (PACKET_VNET_HDR), since frames of a local sender, on veth for one, come with unfinished
// checksums or as GSO packets, and so do those that a network card has gathered (GRO): they travel whole to a peer that takes such, and netdev.go makes complete ones of the rest. VLAN
// tags, which the kernel takes off, are put back; interface_frames.go does that, and looks after what is written.

var optRetrieveVLAN = declare(kindBool, Option{Name: "retrieve-vlan", Groups: GINTERFACE, Phase: PhLate,
	Doc: "INTERFACE: put the VLAN tag back into received frames (default here; 0 leaves it off)"})

var _ = addType(Type{
	Name: "INTERFACE", Aliases: "IF", Params: []Param{{Name: "interface"}},
	Groups: GFD | GSOCKET | GINTERFACE | GHUB, Can: ReadWrite,
	Summary: "frames of an existing network interface, link layer included",
	Doc: "Opens a packet socket on a network interface: reads what the interface receives and writes what it is to send. GSO packets travel " +
		"whole to a tunsplice at the other end of a tunnel; elsewhere they are split. What is longer than the interface's MTU is refused, GSO or not. Up to 4 MiB wait to be read, or what " +
		"rcvbuf says; what came beyond that is lost, and counted at the end. Interface flags and MTU that options change are put back at the end. Needs CAP_NET_RAW.",
	Examples: []Example{
		{`-u INTERFACE:lo EXEC:'hexdump -C'`, "shows the packets on the loopback interface"},
		{`TCP-LISTEN:40839,reuseaddr INTERFACE:eth0,promisc`, "offers the network of eth0 to an L2 tunnel"},
	},
	Check: checkInterface,
	Open:  openInterface,
})

func checkInterface(b *Bound) error {
	if name := b.Param(0); name == "" || len(name) >= unix.IFNAMSIZ {
		return errors.Errorf("interface name %q: 1 to %d characters", name, unix.IFNAMSIZ-1)
	}
	for i := range b.settings {
		switch o := b.settings[i].opt; o {
		case optTunDevice.opt, optTunName.opt, optTunType.opt, optNoPI.opt, optAddr.opt, optPeer.opt, optRoute.opt, optMAC.opt, optTxQueueLen.opt, optMultiQueue.opt, optBridge.opt,
			optPersist.opt, optTunOwner.opt, optTunGroup.opt, optCarrier.opt:
			return errors.Errorf("option %q is for TUN and TAP, an existing interface is configured with ip(8)", o.Name)
		}
	}
	return nil
}

// interfaceAddrs lists the addresses of an interface, as far as they can be found out.
func interfaceAddrs(b *Bound, name string) (prefixes []string) {
	_ = b.inside(func() error {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		addrs, err := ifi.Addrs()
		for _, a := range addrs {
			prefixes = append(prefixes, a.String())
		}
		return err
	})
	return prefixes
}

func openInterface(_ context.Context, b *Bound, env *Env) (Source, error) {
	name := b.Param(0)
	var f *relay.File
	err := b.inside(func() error {
		if err := b.apply(PhPresocket, -1); err != nil {
			return err
		}
		// Protocol 0: nothing is received before the socket is bound to its interface.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return withHint{errors.Wrap(err, "packet socket"), "it needs CAP_NET_RAW: run as root"}
		}
		if f, err = relay.NewFile(fd, name); err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	restore, in, err := b.setUpInterface(f.Fd(), name)
	if err != nil {
		restore()
		f.Close()
		return nil, err
	}
	ep := &relay.Endpoint{Label: b.Label(), Traffic: relay.TUN, MTU: in.mtu, OnePack: onePacketOfInterface,
		Env: deviceEnv(name, in.mtu, interfaceAddrs(b, name))}
	ethernet := in.ethernet()
	if ethernet {
		ep.Traffic = relay.TAP
	}
	ep.Close = func() error {
		restore()
		if b.Mode&Read != 0 {
			switch n, err := overflowed(f.Fd()); {
			case err != nil:
				env.Log.Warnf("%s: %v", name, err)
			case n > 0:
				env.Log.Warnf("%s: %d packets came while the queue was full, and are lost; option rcvbuf makes it longer, as far as net.core.rmem_max allows", name, n)
			}
		}
		return f.Close()
	}
	half, err := newNetdev(f.SyscallConn, f, ethernet, true)
	if err != nil {
		ep.Close()
		return nil, err
	}
	half.offload.Store(tundev.OffloadTSO4) // the sender decides: a packet of any kind may come
	half.recv = newFrameReceiver(ethernet && optRetrieveVLAN.Or(b, true)).recv
	half.deviceMTU, half.mtu = newLiveMTU(half.raw, in.index).now, in.mtu
	half.leaves = (&outlet{hw: in.hw, mtu: newLiveMTU(half.raw, in.index)}).leaves
	half.uso, half.probed = knowsUSO(f.Fd()), true
	if err := half.attach(ep, b.Mode); err != nil {
		ep.Close()
		return nil, err
	}
	env.reach(StateDevice, ep.Env...)
	return b.deviceSource(ep, env)
}

// netInterface is what there is to know of an interface.
type netInterface struct {
	index int
	hw    uint16 // ARPHRD_*
	mtu   int
}

// ethernet says that packets have an Ethernet header.
func (i netInterface) ethernet() bool {
	return i.hw == unix.ARPHRD_ETHER || i.hw == unix.ARPHRD_LOOPBACK
}

// setUpInterface binds the socket and applies the options. restore undoes what was changed on the interface.
func (b *Bound) setUpInterface(fd int, name string) (restore func(), in netInterface, err error) {
	var undo []func()
	restore = func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return restore, in, errors.Wrap(err, name)
	}
	get := func(req uint, what string) error {
		return errors.Wrapf(unix.IoctlIfreq(fd, req, ifr), "%s: %s", name, what)
	}
	if err := get(unix.SIOCGIFINDEX, "interface"); err != nil {
		return restore, in, withHint{err, "\"ip link\" lists the interfaces of this namespace"}
	}
	in.index = int(ifr.Uint32())
	if err := get(unix.SIOCGIFHWADDR, "type"); err != nil {
		return restore, in, err
	}
	in.hw = ifr.Uint16()
	for _, o := range []int{unix.PACKET_VNET_HDR, unix.PACKET_AUXDATA, packetIgnoreOutgoing} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, o, 1); err != nil {
			return restore, in, errors.Wrapf(err, "packet socket option %d", o)
		}
	}
	if b.Mode&Read != 0 {
		if err := widenQueue(fd); err != nil {
			return restore, in, err
		}
	}
	if err := b.applyAll(fd, PhPastsocket, PhFD, PhPrebind); err != nil {
		return restore, in, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)), Ifindex: in.index}); err != nil {
		return restore, in, errors.Wrapf(err, "bind to %s", name)
	}
	if set, clear := b.interfaceFlags(); set|clear != 0 {
		if err := get(unix.SIOCGIFFLAGS, "flags"); err != nil {
			return restore, in, err
		}
		before := ifr.Uint16()
		after := before&^uint16(clear) | uint16(set)
		if after != before {
			ifr.SetUint16(after)
			if err := get(unix.SIOCSIFFLAGS, "set flags"); err != nil {
				return restore, in, err
			}
			undo = append(undo, func() {
				back, _ := unix.NewIfreq(name)
				back.SetUint16(before)
				unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, back) // the interface may be gone
			})
		}
	}
	if err := get(unix.SIOCGIFMTU, "MTU"); err != nil {
		return restore, in, err
	}
	in.mtu = int(ifr.Uint32())
	if want, given := optIfMTU.Get(b); given && int(want) != in.mtu {
		before := uint32(in.mtu)
		ifr.SetUint32(uint32(want))
		if err := get(unix.SIOCSIFMTU, "set MTU"); err != nil {
			return restore, in, err
		}
		in.mtu = int(want)
		undo = append(undo, func() {
			back, _ := unix.NewIfreq(name)
			back.SetUint32(before)
			unix.IoctlIfreq(fd, unix.SIOCSIFMTU, back)
		})
	}
	return restore, in, b.applyAll(fd, PhPastbind, PhConnected, PhLate, PhLate2)
}

// packetIgnoreOutgoing is PACKET_IGNORE_OUTGOING of linux/if_packet.h (Linux 4.20).
const packetIgnoreOutgoing = 23

// onePacketOfInterface says that an error concerns one frame: it is too long for the interface, or the interface is down for the moment.
func onePacketOfInterface(err error) bool {
	for _, e := range []error{unix.EMSGSIZE, unix.ENOBUFS, unix.ENETDOWN, unix.EINVAL, unix.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return onePacketOfDevice(err)
}
