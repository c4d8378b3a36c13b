package tundev

import (
	"sync"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Lending hands the queues of a device to those who need one for a while. A queue that nobody has is detached (Linux 3.8): the kernel spreads the flows over the others,
// and with none left it drops what the host sends (Counters.TxDropped). The device's own descriptor carries no packets then.
//
// All queues are opened at once, so that taking one needs no privilege and no /dev/net/tun.
type Lending struct {
	d *Device

	mu     sync.Mutex
	taken  int
	idle   []int // detached descriptors, which the runtime's poller does not know: it would find each in error, and remember that
	closed bool
}

// Lend opens n queues of a device that was opened with Config.MultiQueue, for Take. It is for a device nobody reads or writes otherwise, once. Device.Close closes those that nobody has.
func (d *Device) Lend(n int) (*Lending, error) {
	l := &Lending{d: d}
	err := d.setAttached(false)
	for i := 0; i < n && err == nil; i++ {
		var q *Queue
		if q, err = d.OpenQueue(); err == nil {
			err = l.park(q)
		}
	}
	if err != nil {
		l.close()
		_ = d.setAttached(true)
		return nil, err
	}
	d.lending = l
	return l, nil
}

// Take returns a queue that nobody has. The caller gives it back. An error for which IsGone holds says that the device was deleted.
func (l *Lending) Take() (*Queue, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.idle) == 0 {
		return nil, errors.Errorf("%s: all queues are in use", l.d.name)
	}
	fd := l.idle[len(l.idle)-1]
	if err := attachQueue(fd, true); err != nil {
		if errors.Is(err, unix.EINVAL) { // it has forgotten its device
			err = unix.EBADFD
		}
		return nil, newError(l.d.name+": attach a queue", err, "")
	}
	l.idle = l.idle[:len(l.idle)-1]
	q, err := newQueue(fd, l.d.name)
	if err == nil {
		l.taken++
	}
	return q, err
}

// Give takes a queue back and closes it for its user: what waits in it is lost.
func (l *Lending) Give(q *Queue) error {
	err := l.park(q)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken--
	return err
}

// park closes a queue but keeps a descriptor of it, detached.
func (l *Lending) park(q *Queue) error {
	fd := -1
	err := q.control(func(old int) (err error) {
		fd, err = unix.FcntlInt(uintptr(old), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if cerr := q.Close(); err == nil {
		err = cerr
	}
	if fd < 0 {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if aerr := attachQueue(fd, false); l.closed || aerr != nil { // deleted, if anything: the next Take or Read will say so
		_ = unix.Close(fd)
		return err
	}
	l.idle = append(l.idle, fd)
	return err
}

// SetCarrier is Device.SetCarrier while no queue is taken. Who has one uses Queue.SetCarrier.
func (l *Lending) SetCarrier(on bool) error {
	if err := l.d.setAttached(true); err != nil {
		return err
	}
	err := l.d.SetCarrier(on)
	if derr := l.d.setAttached(false); err == nil {
		err = derr
	}
	return err
}

// close closes the idle queues, and lets the others be closed when they are given back. It returns how many these are.
func (l *Lending) close() (taken int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, fd := range l.idle {
		_ = unix.Close(fd)
	}
	l.idle = nil
	return l.taken
}

// setAttached attaches or detaches the device's own queue.
func (d *Device) setAttached(on bool) error {
	what := "detach a queue"
	if on {
		what = "attach a queue"
	}
	return d.op(what, d.control(func(fd int) error { return attachQueue(fd, on) }))
}

// attachQueue attaches or detaches a descriptor.
func attachQueue(fd int, on bool) error {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_DETACH_QUEUE)
	if on {
		ifr.SetUint16(unix.IFF_ATTACH_QUEUE)
	}
	return unix.IoctlIfreq(fd, unix.TUNSETQUEUE, ifr)
}
