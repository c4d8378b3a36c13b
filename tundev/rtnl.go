package tundev

import (
	"encoding/binary"
	"net"

	"github.com/pkg/errors"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Theory of operation. All that is asked of the kernel about interfaces goes through one rtnetlink socket for each
// device (rtnetlink(7), include/uapi/linux/rtnetlink.h and if_link.h). A netlink socket belongs to the network
// namespace of the thread that made it, for ever, so it is made while the thread is inside, and Close can use it from
// anywhere; the open device holds the namespace itself alive, even after its name was deleted.
//
// Messages and transport are package nl's. The netlink package one level above is not used, because it cannot tell an
// owner of 0 from no owner, has no way to set interface flags by mask, and opens further sockets for what it lacks.

// rtnl is an rtnetlink socket. Safe for use by many goroutines.
type rtnl struct {
	sockets map[int]*nl.SocketHandle
}

// openRtnl makes a socket in the network namespace of the calling thread.
func openRtnl() (*rtnl, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Wrap(err, "open rtnetlink socket")
	}
	// Adds the kernel's own words to errors (Linux 4.12). Without them the errno must do.
	_ = s.SetExtAck(true)
	return &rtnl{map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}, nil
}

func (r *rtnl) close() { r.sockets[unix.NETLINK_ROUTE].Close() }

// request sends one message and returns the payloads of the answers.
func (r *rtnl) request(kind, flags int, parts ...nl.NetlinkRequestData) ([][]byte, error) {
	req := nl.NewNetlinkRequest(kind, flags)
	req.Sockets = r.sockets
	for _, p := range parts {
		req.AddData(p)
	}
	return req.Execute(unix.NETLINK_ROUTE, 0)
}

// change sends a message that changes something and waits for its acknowledgement.
func (r *rtnl) change(kind, flags int, parts ...nl.NetlinkRequestData) error {
	_, err := r.request(kind, flags|unix.NLM_F_ACK, parts...)
	return err
}

// linkState is an interface as the kernel describes it.
type linkState struct {
	index    int
	name     string
	flags    uint32 // IFF_*
	carrier  bool
	mtu      int
	txqlen   int
	mac      net.HardwareAddr // empty for a TUN device
	master   int              // index of the bridge it is a port of; 0: none
	kind     string           // "tun", "bridge", "veth", ...; empty for hardware and lo
	tun      tunState         // if kind is "tun"
	counters Counters
}

// tunState is the IFLA_INFO_DATA of kind "tun" (tun_fill_info in drivers/net/tun.c, Linux 4.16).
type tunState struct {
	kind         Kind
	owner, group *uint32 // nil: none set
	persist      bool
	multiQueue   bool
	pi, vnetHdr  bool
	queues       int // attached and enabled; each belongs to one open descriptor
}

func (r *rtnl) linkByName(name string) (*linkState, error) {
	return oneLink(r.request(unix.RTM_GETLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name))))
}

func (r *rtnl) linkByIndex(index int) (*linkState, error) {
	return oneLink(r.request(unix.RTM_GETLINK, 0, indexMsg(index)))
}

func (r *rtnl) links() ([]*linkState, error) {
	msgs, err := r.request(unix.RTM_GETLINK, unix.NLM_F_DUMP, nl.NewIfInfomsg(unix.AF_UNSPEC))
	if err != nil {
		return nil, err
	}
	var all []*linkState
	for _, m := range msgs {
		l, err := parseLink(m)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func indexMsg(index int) *nl.IfInfomsg {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	return msg
}

func oneLink(msgs [][]byte, err error) (*linkState, error) {
	if err != nil {
		return nil, err
	}
	if len(msgs) != 1 {
		return nil, errors.Errorf("rtnetlink gave %d answers for one interface", len(msgs))
	}
	return parseLink(msgs[0])
}

func parseLink(m []byte) (*linkState, error) {
	if len(m) < unix.SizeofIfInfomsg {
		return nil, errors.New("rtnetlink message is cut short")
	}
	info := nl.DeserializeIfInfomsg(m)
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
	if err != nil {
		return nil, errors.Wrap(err, "parse rtnetlink message")
	}
	l := &linkState{index: int(info.Index), flags: info.Flags}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			l.name = nl.BytesToString(a.Value)
		case unix.IFLA_MTU:
			l.mtu = int(u32(a.Value))
		case unix.IFLA_TXQLEN:
			l.txqlen = int(u32(a.Value))
		case unix.IFLA_MASTER:
			l.master = int(u32(a.Value))
		case unix.IFLA_ADDRESS:
			l.mac = net.HardwareAddr(a.Value)
		case unix.IFLA_CARRIER:
			l.carrier = u8(a.Value) != 0
		case unix.IFLA_STATS64:
			l.counters = parseCounters(a.Value)
		case unix.IFLA_LINKINFO:
			if err := l.parseInfo(a.Value); err != nil {
				return nil, err
			}
		}
	}
	return l, nil
}

func (l *linkState) parseInfo(b []byte) error {
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return errors.Wrap(err, "parse rtnetlink message")
	}
	var data []byte
	for _, a := range attrs {
		switch a.Attr.Type {
		case nl.IFLA_INFO_KIND:
			l.kind = nl.BytesToString(a.Value)
		case nl.IFLA_INFO_DATA:
			data = a.Value
		}
	}
	if l.kind != "tun" {
		return nil
	}
	attrs, err = nl.ParseRouteAttr(data)
	if err != nil {
		return errors.Wrap(err, "parse rtnetlink message")
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFLA_TUN_OWNER:
			l.tun.owner = new(u32(a.Value))
		case unix.IFLA_TUN_GROUP:
			l.tun.group = new(u32(a.Value))
		case unix.IFLA_TUN_TYPE:
			if u8(a.Value) == unix.IFF_TAP {
				l.tun.kind = TAP
			}
		case unix.IFLA_TUN_PI:
			l.tun.pi = u8(a.Value) != 0
		case unix.IFLA_TUN_VNET_HDR:
			l.tun.vnetHdr = u8(a.Value) != 0
		case unix.IFLA_TUN_PERSIST:
			l.tun.persist = u8(a.Value) != 0
		case unix.IFLA_TUN_MULTI_QUEUE:
			l.tun.multiQueue = u8(a.Value) != 0
		case unix.IFLA_TUN_NUM_QUEUES:
			l.tun.queues = int(u32(a.Value))
		}
	}
	// for a device of one queue the kernel leaves the number out and cannot be asked
	return nil
}

// setLink changes one attribute of an interface.
func (r *rtnl) setLink(index int, attr *nl.RtAttr) error {
	return r.change(unix.RTM_NEWLINK, 0, indexMsg(index), attr)
}

// setFlags makes those interface flags that mask names as they are in flags.
func (r *rtnl) setFlags(index int, flags, mask uint32) error {
	msg := indexMsg(index)
	msg.Flags, msg.Change = flags, mask
	return r.change(unix.RTM_NEWLINK, 0, msg)
}

func (r *rtnl) addBridge(name string) error {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	return r.change(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, msg,
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)), info)
}

func (r *rtnl) deleteLink(index int) error {
	return r.change(unix.RTM_DELLINK, 0, indexMsg(index))
}

// u8 and u32 read an attribute in host order; one that is too short reads as 0.
func u8(b []byte) uint8 {
	if len(b) < 1 {
		return 0
	}
	return b[0]
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}
