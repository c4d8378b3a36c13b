package tundev

import (
	"net"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Info describes a TUN or TAP device that may belong to anybody.
type Info struct {
	Name         string
	Index        int
	Kind         Kind
	Flags        uint32 // interface flags, unix.IFF_UP and so on
	MTU          int
	HardwareAddr net.HardwareAddr // empty for a TUN device
	Bridge       int              // index of the bridge it is a port of; 0: none
	Owner, Group *int             // who may open it without privilege; nil: none set
	Persist      bool             // it stays when nobody has it open
	MultiQueue   bool
	PI, VNetHdr  bool // as its last opener wanted
	InUse        bool // a process has it open; not seen if that process has switched the carrier off
	Counters     Counters
}

// List returns all TUN and TAP devices of the caller's network namespace, in the order of their indexes. It needs no
// privilege. Use InNetNS for other namespaces.
func List() ([]Info, error) {
	rt, err := openRtnl()
	if err != nil {
		return nil, err
	}
	defer rt.close()
	links, err := rt.links()
	if err != nil {
		return nil, errors.Wrap(err, "list interfaces")
	}
	var all []Info
	for _, l := range links {
		if l.kind == "tun" {
			all = append(all, l.info())
		}
	}
	return all, nil
}

// Find returns the TUN or TAP device of that name in the caller's network namespace.
func Find(name string) (Info, error) {
	rt, err := openRtnl()
	if err != nil {
		return Info{}, err
	}
	defer rt.close()
	l, err := rt.findTUN(name)
	if err != nil {
		return Info{}, err
	}
	return l.info(), nil
}

// Delete deletes a TUN or TAP device of the caller's network namespace, persistent or not; who has it open gets errors
// that IsGone knows. It refuses interfaces of any other kind. It needs CAP_NET_ADMIN.
func Delete(name string) error {
	rt, err := openRtnl()
	if err != nil {
		return err
	}
	defer rt.close()
	l, err := rt.findTUN(name)
	if err != nil {
		return err
	}
	if err := rt.deleteLink(l.index); err != nil {
		hint := ""
		if errors.Is(err, unix.EPERM) {
			hint = "this needs CAP_NET_ADMIN; its owner can open it and end its persistence instead"
		}
		return newError("delete "+name, err, hint)
	}
	return nil
}

func (r *rtnl) findTUN(name string) (*linkState, error) {
	if err := checkName("name", name); err != nil {
		return nil, err
	}
	l, err := r.linkByName(name)
	if err != nil {
		return nil, newError("find "+name, err, "")
	}
	if l.kind != "tun" {
		return nil, errors.Errorf("%s is no tun or tap device", name)
	}
	return l, nil
}

func (l *linkState) info() Info {
	i := Info{Name: l.name, Index: l.index, Kind: l.tun.kind, Flags: l.flags, MTU: l.mtu, HardwareAddr: l.mac, Bridge: l.master,
		Persist: l.tun.persist, MultiQueue: l.tun.multiQueue, PI: l.tun.pi, VNetHdr: l.tun.vnetHdr,
		InUse: l.carrier || l.tun.queues > 0, Counters: l.counters}
	if l.tun.owner != nil {
		i.Owner = new(int(*l.tun.owner))
	}
	if l.tun.group != nil {
		i.Group = new(int(*l.tun.group))
	}
	return i
}
