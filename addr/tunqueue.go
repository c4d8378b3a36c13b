package addr

import (
	"tunsplice/relay"
	"tunsplice/tundev"
)

// queues makes endpoints of the queues of a TUN or TAP device.
type queues struct {
	ep      *relay.Endpoint // of the device
	dev     *tundev.Device
	config  *tundev.Config
	carrier bool // it follows the link
	mode    Mode
	first   *netdev // of the device's own queue; nil: not attached yet
}

// attach makes a queue the halves of an endpoint that is like the device's otherwise.
func (d *queues) attach(ep *relay.Endpoint, q *tundev.Queue) error {
	half, err := newNetdev(q.SyscallConn, q, d.config.Kind == tundev.TAP, d.config.VNetHdr)
	if err != nil {
		return err
	}
	if d.config.PI {
		half.lead = piLen
	}
	half.setOffload, half.shared = q.SetOffload, d.config.MultiQueue
	half.deviceMTU, half.mtu = d.dev.MTU, ep.MTU
	if d.first == nil {
		d.first = half
	} else {
		half.probed, half.uso = true, d.first.uso
	}
	if d.carrier {
		ep.Carrier = q.SetCarrier
	}
	return half.attach(ep, d.mode)
}

// lend opens as many queues for connections that share the device (relay.Endpoint.Queue).
func (d *queues) lend(n int) error {
	lending, err := d.dev.Lend(n)
	if err != nil {
		return err
	}
	if d.carrier {
		d.ep.Carrier = lending.SetCarrier
	}
	d.ep.Queue = func() (*relay.Endpoint, error) {
		q, err := lending.Take()
		if err != nil {
			return nil, err
		}
		ep := *d.ep
		ep.Close, ep.Queue = func() error { return lending.Give(q) }, nil
		if err := d.attach(&ep, q); err != nil {
			ep.Close()
			return nil, err
		}
		return &ep, nil
	}
	return nil
}
