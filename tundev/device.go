package tundev

import (
	"encoding/binary"
	"net"
	"sync"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Device is an open TUN or TAP device: its interface and, embedded, its first queue.
type Device struct {
	*Queue
	settings settings
	config   Config
	created  bool
	lending  *Lending // nil: there is one queue, or the caller has the others
	lasting  bool     // the device and its settings are to outlive us; under settings.mu
	once     sync.Once
	closeErr error
}

// Index returns the interface's index. It does not change when the interface is renamed.
func (d *Device) Index() int { return d.settings.index }

// Kind returns TUN or TAP.
func (d *Device) Kind() Kind { return d.config.Kind }

// Created reports whether Open made the device; false: it was there before, and stays.
func (d *Device) Created() bool { return d.created }

// link asks the kernel about the interface.
func (d *Device) link() (*linkState, error) {
	l, err := d.settings.rt.linkByIndex(d.settings.index)
	return l, d.op("look up the interface", err)
}

// MTU returns the interface's present MTU in bytes, without the Ethernet header of a TAP device.
func (d *Device) MTU() (int, error) {
	l, err := d.link()
	if err != nil {
		return 0, err
	}
	return l.mtu, nil
}

// HardwareAddr returns the present MAC address of a TAP device, and an empty one of a TUN device.
func (d *Device) HardwareAddr() (net.HardwareAddr, error) {
	l, err := d.link()
	if err != nil {
		return nil, err
	}
	return l.mac, nil
}

// Flags returns the interface's present flags (unix.IFF_UP, ...).
func (d *Device) Flags() (uint32, error) {
	l, err := d.link()
	if err != nil {
		return 0, err
	}
	return l.flags, nil
}

// Counters are those of the interface since it was made, as the host sees it: received is what was written to the
// device, sent is what was read from it or waits there.
type Counters struct {
	RxPackets, TxPackets uint64
	RxBytes, TxBytes     uint64
	RxErrors, TxErrors   uint64
	RxDropped            uint64 // written and refused (EINVAL, or the interface was down), or not wanted by the host
	TxDropped            uint64 // sent by the host and not taken: the queue was full, or nobody had the device open
}

// parseCounters reads the beginning of struct rtnl_link_stats64 (include/uapi/linux/if_link.h).
func parseCounters(b []byte) Counters {
	var v [8]uint64
	for i := range v {
		if len(b) >= 8*(i+1) {
			v[i] = binary.NativeEndian.Uint64(b[8*i:])
		}
	}
	return Counters{RxPackets: v[0], TxPackets: v[1], RxBytes: v[2], TxBytes: v[3],
		RxErrors: v[4], TxErrors: v[5], RxDropped: v[6], TxDropped: v[7]}
}

// Counters asks the kernel for the interface's counters.
func (d *Device) Counters() (Counters, error) {
	l, err := d.link()
	if err != nil {
		return Counters{}, err
	}
	return l.counters, nil
}

// change runs a change of settings against the interface's present state.
func (d *Device) change(fn func(*linkState) error) error {
	d.settings.mu.Lock()
	defer d.settings.mu.Unlock()
	l, err := d.link()
	if err != nil {
		return err
	}
	return fn(l)
}

// SetMTU sets the interface's MTU in bytes. Like the other settings it is taken back by Close on a device that stays.
func (d *Device) SetMTU(mtu int) error {
	if err := checkMTU(mtu); err != nil {
		return err
	}
	return d.change(func(l *linkState) error { return d.settings.setMTU(l, mtu) })
}

// SetTxQueueLen sets how many packets may wait to be read.
func (d *Device) SetTxQueueLen(n int) error {
	if n < 0 {
		return errors.Errorf("txqueuelen %d: less than nothing", n)
	}
	return d.change(func(l *linkState) error { return d.settings.setTxQueueLen(l, n) })
}

// SetUp sets the interface up or down.
func (d *Device) SetUp(up bool) error {
	if up {
		return d.SetFlags(unix.IFF_UP, 0)
	}
	return d.SetFlags(0, unix.IFF_UP)
}

// SetFlags switches interface flags on and off, as Config.FlagsSet and FlagsClear do.
func (d *Device) SetFlags(set, clear uint32) error {
	if both := set & clear; both != 0 {
		return errors.Errorf("interface flags %s: both set and cleared", flagNames(both))
	}
	return d.change(func(l *linkState) error { return d.settings.setFlags(l, set, clear) })
}

// SetMAC sets the MAC address of a TAP device.
func (d *Device) SetMAC(mac net.HardwareAddr) error {
	c := Config{Kind: d.config.Kind, MAC: mac}
	if len(mac) == 0 {
		return errors.New("mac address is empty")
	}
	if err := c.checkLink(); err != nil {
		return err
	}
	return d.change(func(l *linkState) error { return d.settings.setMAC(l, mac) })
}

// AddAddress adds an address to the interface.
func (d *Device) AddAddress(a Address) error {
	c := Config{Addrs: []Address{a}}
	if err := c.checkNet(); err != nil {
		return err
	}
	return d.change(func(l *linkState) error { return d.settings.addAddrs(c.Addrs, l) })
}

// AddRoute adds a route through the interface.
func (d *Device) AddRoute(r Route) error {
	c := Config{Routes: []Route{r}}
	if err := c.checkNet(); err != nil {
		return err
	}
	return d.change(func(*linkState) error { return d.settings.addRoutes(c.Routes) })
}

// SetPersist makes the device stay after Close, with its settings, or not.
func (d *Device) SetPersist(on bool) error {
	d.settings.mu.Lock()
	defer d.settings.mu.Unlock()
	if err := d.setPersist(on); err != nil {
		return err
	}
	d.lasting = on
	return nil
}

// Offloads of SetOffload: packets that may be left unfinished when they are read, as the virtio-net header then says
// (TUN_F_* in include/uapi/linux/if_tun.h). All need OffloadCsum.
const (
	OffloadCsum   = 0x01 // checksums of TCP and UDP hold the sum of the pseudo header only
	OffloadTSO4   = 0x02 // TCP over IPv4 comes in packets of up to 64 KiB
	OffloadTSO6   = 0x04 // the same over IPv6
	OffloadTSOECN = 0x08 // such packets may have ECN's CWR set
	OffloadUFO    = 0x10 // UDP fragmentation; ignored since Linux 4.14
	OffloadUSO4   = 0x20 // UDP segmentation over IPv4 (Linux 6.2), only together with OffloadUSO6
	OffloadUSO6   = 0x40
)

// SetOffload sets which offloads the reader of this device understands; 0 switches all off, as after Open. Write takes
// all of them at any time. The kernel refuses what it does not know with EINVAL, so newer ones are found by trying.
// Needs Config.VNetHdr, without which an unfinished packet would be beyond repair.
func (d *Device) SetOffload(flags int) error {
	if flags != 0 && !d.config.VNetHdr {
		return errors.Errorf("%s: offloads need the virtio-net header", d.name)
	}
	return d.Queue.SetOffload(flags)
}

// SetSendBuffer limits the bytes written to the device that the kernel may hold, for instance on behalf of a slow
// port of the same bridge; beyond it writes wait. Without it there is no limit.
func (d *Device) SetSendBuffer(bytes int) error {
	if bytes <= 0 {
		return errors.Errorf("send buffer %d: not a positive number of bytes", bytes)
	}
	return d.setPointed(unix.TUNSETSNDBUF, bytes, "set send buffer")
}

// OpenQueue opens a further queue of a device that was opened with Config.MultiQueue. The kernel spreads flows over the
// queues and keeps the order of packets within a queue only. The queue is the caller's to close.
func (d *Device) OpenQueue() (*Queue, error) {
	if !d.config.MultiQueue {
		return nil, errors.Errorf("%s: was not opened with multi-queue", d.name)
	}
	c := d.config
	c.Name, c.Exclusive = d.name, false
	var q *Queue
	err := InNetNS(c.NetNS, func() error {
		queue, created, err := attach(&c)
		if err != nil {
			return err
		}
		if created { // the device was deleted or renamed; this one is nobody's
			_ = queue.Close()
			return newError(c.Name+": open another queue", unix.ENODEV, "")
		}
		q = queue
		return nil
	})
	return q, err
}

// Close takes back what was changed on a device that stays, closes the descriptor and removes the bridge if Open made
// it. A device that Open made goes, unless it is persistent. An error says what could not be taken back; the device is
// closed nevertheless. With multi-queue nothing is taken back while other queues are in use. Further calls return the same.
func (d *Device) Close() error {
	d.once.Do(func() { d.closeErr = d.close() })
	return d.closeErr
}

func (d *Device) close() error {
	own := 1 // queues
	if d.lending != nil {
		own += d.lending.close()
		_ = d.setAttached(true) // what follows needs it, unless the device is gone
	}
	d.settings.mu.Lock()
	lasting := d.lasting
	d.settings.mu.Unlock()
	if l, err := d.link(); err == nil && d.config.MultiQueue && l.tun.queues > own {
		lasting = true // others go on using it as it is
	}
	var errs [3]error
	if !lasting {
		errs[0] = d.settings.revert()
	}
	errs[1] = d.Queue.Close()
	if !lasting {
		errs[2] = d.settings.removeBridge()
	}
	d.settings.rt.close()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
