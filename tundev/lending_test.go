package tundev

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A queue that nobody has takes nothing; who takes one gets what the host sends.
func TestLending(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	d := mustOpen(t, Config{NetNS: ns, MultiQueue: true, VNetHdr: true, FlagsSet: unix.IFF_UP, Addrs: []Address{address("10.0.6.1/24")}})
	l, err := d.Lend(2)
	if err != nil {
		t.Fatal(err)
	}
	dropped := func() uint64 {
		c, err := d.Counters()
		if err != nil {
			t.Fatal(err)
		}
		return c.TxDropped
	}
	const word = "a word to the other end"
	conn := exchange(t, ns, "10.0.6.2:9")
	say := func() {
		if _, err := conn.Write([]byte(word)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(q *Queue, patience time.Duration) string {
		if err := q.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2048)
		for {
			n, err := q.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return ""
			}
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(buf[:n]), word) {
				return word
			}
		}
	}
	before := dropped()
	say()
	if dropped() == before {
		t.Error("a packet that nobody could read was not counted as dropped")
	}
	for range 3 { // given back, a queue works again
		q, err := l.Take()
		if err != nil {
			t.Fatal(err)
		}
		say()
		if read(q, 5*time.Second) == "" {
			t.Fatal("the only queue did not get the packet")
		}
		say() // lost with the queue
		if err := l.Give(q); err != nil {
			t.Fatal(err)
		}
	}
	one, err := l.Take()
	if err != nil {
		t.Fatal(err)
	}
	two, err := l.Take()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Take(); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a third of two queues: %v", err)
	}
	if err := two.SetOffload(OffloadCsum | OffloadTSO4); err != nil {
		t.Error(err)
	}
	for _, on := range []bool{false, true} {
		if err := one.SetCarrier(on); err != nil {
			t.Error(err)
		}
	}
	say()
	if read(one, time.Millisecond)+read(two, time.Millisecond) != word {
		t.Error("one packet did not come once")
	}
	if err := l.Give(one); err != nil {
		t.Error(err)
	}
	say()
	if read(two, 5*time.Second) == "" {
		t.Error("the queue that was left did not get the packet")
	}
	if err := l.SetCarrier(false); err != nil {
		t.Error(err)
	}
	if err := l.SetCarrier(true); err != nil {
		t.Error(err)
	}
	if err := InNetNS(ns, func() error { return Delete(d.Name()) }); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Take(); !IsGone(err) {
		t.Errorf("a queue of a deleted device: %v", err)
	}
	if err := l.Give(two); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// A persistent device is closed as it was found, though its own queue was detached; a queue that is given back afterwards is closed.
func TestLendingEnds(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	yes := true
	first := mustOpen(t, Config{NetNS: ns, Name: "stays", MultiQueue: true, Persist: &yes})
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	d := mustOpen(t, Config{NetNS: ns, Name: "stays", MultiQueue: true, MTU: 1400, Addrs: []Address{address("10.0.6.1/24")}})
	l, err := d.Lend(2)
	if err != nil {
		t.Fatal(err)
	}
	q, err := l.Take()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Give(q); err != nil {
		t.Error(err)
	}
	info, err := find(ns, "stays")
	if err != nil || info.MTU != 1500 || info.InUse {
		t.Errorf("after all was closed: %+v, %v", info, err)
	}
	no := false
	last := mustOpen(t, Config{NetNS: ns, Name: "stays", MultiQueue: true, Persist: &no})
	if err := last.Close(); err != nil {
		t.Error(err)
	}
}
