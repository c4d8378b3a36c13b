package tundev

import (
	"strings"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Open makes a device or attaches to one that is there, and configures it. It does all that c says or nothing.
//
// A device is made in the network namespace in which the clone device was opened, so all of this happens on a thread
// inside c.NetNS. Errors of the kernel are of type *Error.
func Open(c Config) (*Device, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	var d *Device
	err := InNetNS(c.NetNS, func() (err error) {
		d, err = open(&c)
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func open(c *Config) (*Device, error) {
	q, created, err := attach(c)
	if err != nil {
		return nil, err
	}
	if created && len(c.MAC) == 0 {
		c.MAC = c.NewMAC
	}
	d, link, err := newDevice(c, q, created)
	if err != nil {
		_ = q.Close() // the error at hand is the one to tell; the same below
		return nil, err
	}
	if err = d.prepare(link); err == nil {
		err = d.settings.apply(c, link)
	}
	if err != nil {
		_ = d.Close()
		return nil, err
	}
	d.lasting = c.Persist != nil && *c.Persist
	return d, nil
}

// newDevice puts the parts together and reads the interface's state. Q stays the caller's if it fails.
func newDevice(c *Config, q *Queue, created bool) (*Device, *linkState, error) {
	rt, err := openRtnl()
	if err != nil {
		return nil, nil, err
	}
	link, err := rt.linkByName(q.name)
	if err != nil {
		rt.close()
		return nil, nil, newError(q.name+": look up the interface", err, "")
	}
	d := &Device{Queue: q, config: *c, created: created}
	d.settings = settings{rt: rt, queue: q, index: link.index, kind: c.Kind, logf: c.Logf, warnf: c.Warnf, record: !created}
	return d, link, nil
}

// prepare sets what belongs to the descriptor rather than to the interface.
func (d *Device) prepare(link *linkState) error {
	if d.config.VNetHdr {
		if err := d.setPointed(unix.TUNSETVNETHDRSZ, VNetHdrLen, "set the size of the virtio-net header"); err != nil {
			return err
		}
		if err := d.setPointed(unix.TUNSETVNETLE, 1, "set the byte order of the virtio-net header"); err != nil {
			return err
		}
	}
	// Offloads stay on a persistent device after the program that wanted them has gone, and would bring packets
	// of 64 KiB with unfinished checksums. Other queues share them, so with those they are left alone.
	if !d.created && link.tun.queues <= 1 {
		return d.SetOffload(0)
	}
	return nil
}

func (c *Config) clonePath() string {
	if c.ClonePath == "" {
		return DefaultClonePath
	}
	return c.ClonePath
}

// ifFlags are the flags of TUNSETIFF. The kernel ignores those it does not know, but these are all older than 3.8.
func (c *Config) ifFlags() uint16 {
	flags := uint16(unix.IFF_TUN)
	if c.Kind == TAP {
		flags = unix.IFF_TAP
	}
	if !c.PI {
		flags |= unix.IFF_NO_PI
	}
	if c.VNetHdr {
		flags |= unix.IFF_VNET_HDR
	}
	if c.MultiQueue {
		flags |= unix.IFF_MULTI_QUEUE
	}
	return flags
}

// attach opens the clone device and binds it to the interface. created: the interface was not there before.
func attach(c *Config) (q *Queue, created bool, err error) {
	path := c.clonePath()
	// O_NONBLOCK lets the runtime's poller wait; a descriptor without interface polls as an error, so the poller
	// must not see it before TUNSETIFF
	fd, err := openRetry(path)
	if err != nil {
		return nil, false, newError("open "+path, err, adviseClone(path, err))
	}
	// IFF_TUN_EXCL tells for certain, and without a look-up beforehand, whether the device is new. Should an existing
	// one vanish between the two calls, ours counts as found: then Close takes back settings of a device that goes.
	name, err := setIff(fd, c.Name, c.ifFlags()|unix.IFF_TUN_EXCL)
	created = err == nil
	if errors.Is(err, unix.EBUSY) && !c.Exclusive {
		name, err = setIff(fd, c.Name, c.ifFlags())
	}
	if err != nil {
		hint := adviseAttach(c, err)
		_ = unix.Close(fd)
		what := "make "
		if lookUp(c.Name) != nil {
			what = "attach "
		}
		return nil, false, newError(strings.TrimSpace(what+c.Kind.String()+" device "+c.Name), err, hint)
	}
	q, err = newQueue(fd, name)
	return q, created, err
}

func openRetry(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// setIff binds a descriptor to the interface of that name or pattern, making it if need be, and returns its name.
func setIff(fd int, name string, flags uint16) (string, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return "", err
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return "", err
	}
	return ifr.Name(), nil
}
