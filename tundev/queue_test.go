package tundev

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// talker is a TUN device with a UDP socket behind it that sends to a host beyond it.
func talker(t testing.TB, c Config) (*Device, interface {
	Read([]byte) (int, error)
	Write([]byte) (int, error)
}) {
	t.Helper()
	c.NetNS = newNS(t)
	c.Addrs = []Address{address("10.0.6.1/24")}
	c.FlagsSet |= unix.IFF_UP
	d := mustOpen(t, c)
	return d, exchange(t, c.NetNS, "10.0.6.2:9")
}

func TestReadWrite(t *testing.T) {
	needDevices(t)
	for _, test := range []struct {
		name   string
		config Config
		skip   int // bytes before the IP header
	}{
		{"bare", Config{}, 0},
		{"PI", Config{PI: true}, 4},
		{"vnet", Config{VNetHdr: true}, 10},
		{"PI and vnet", Config{PI: true, VNetHdr: true}, 14},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, c := talker(t, test.config)
			before, err := d.Counters()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 2048)
			n := 0
			for n <= test.skip || !isUDP4(buf[test.skip:n]) {
				if n, err = d.Read(buf); err != nil {
					t.Fatal(err)
				}
			}
			if want := test.skip + 28 + 5; n != want || string(buf[n-5:n]) != "hello" {
				t.Fatalf("%d bytes, want %d: %x", n, want, buf[:n])
			}
			if test.config.PI && !bytes.Equal(buf[:4], []byte{0, 0, 8, 0}) {
				t.Errorf("packet information %x", buf[:4])
			}
			reflect(buf[test.skip:n])
			if m, err := d.Write(buf[:n]); m != n || err != nil {
				t.Fatalf("wrote %d: %v", m, err)
			}
			if m, err := c.Read(buf); err != nil || string(buf[:m]) != "hello" {
				t.Fatalf("%q: %v", buf[:m], err)
			}
			after, err := d.Counters()
			if err != nil || after.RxPackets != before.RxPackets+1 || after.RxBytes != before.RxBytes+33 || after.TxPackets <= before.TxPackets {
				t.Errorf("counters before %+v, after %+v: %v", before, after, err)
			}
		})
	}
}

func TestBatch(t *testing.T) {
	needDevices(t)
	d, c := talker(t, Config{})
	const packets, room = 20, 8
	for i := range packets {
		if _, err := fmt.Fprintf(c, "packet %d", i); err != nil {
			t.Fatal(err)
		}
	}
	bufs, sizes := make([][]byte, room), make([]int, room)
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	largest, seen := 0, 0
	for seen < packets {
		n, err := d.ReadBatch(bufs, sizes)
		if err != nil || n == 0 {
			t.Fatalf("%d packets: %v", n, err)
		}
		largest = max(largest, n)
		var back [][]byte
		for i := range n {
			if p := bufs[i][:sizes[i]]; isUDP4(p) {
				reflect(p)
				back = append(back, p)
			}
		}
		if n, err := d.WriteBatch(back); n != len(back) || err != nil {
			t.Fatalf("wrote %d of %d: %v", n, len(back), err)
		}
		seen += len(back)
	}
	if largest != room {
		t.Errorf("the largest batch had %d packets of %d", largest, room)
	}
	buf := make([]byte, 100)
	for i := range packets {
		n, err := c.Read(buf)
		if want := fmt.Sprintf("packet %d", i); err != nil || string(buf[:n]) != want {
			t.Fatalf("%q, want %q: %v", buf[:n], want, err)
		}
	}
	if n, err := d.ReadBatch(nil, nil); n != 0 || err != nil {
		t.Errorf("empty batch: %d, %v", n, err)
	}
	if n, err := d.WriteBatch(nil); n != 0 || err != nil {
		t.Errorf("empty batch: %d, %v", n, err)
	}
	if _, err := d.ReadBatch(bufs, sizes[:1]); err == nil {
		t.Error("too few sizes: no error")
	}
}

// TestRefused: a bad packet in the middle of a batch is named by its place, and the rest can follow.
func TestRefused(t *testing.T) {
	needDevices(t)
	d, c := talker(t, Config{})
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	n := 0
	var err error
	for !isUDP4(buf[:n]) {
		if n, err = d.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	good := buf[:n]
	reflect(good)
	batch := [][]byte{good, {0xff, 1, 2, 3}, good}
	n, err = d.WriteBatch(batch)
	if n != 1 || !errors.Is(err, unix.EINVAL) || !PerPacket(err) || IsGone(err) {
		t.Fatalf("%d packets: %v", n, err)
	}
	if n, err := d.WriteBatch(batch[2:]); n != 1 || err != nil {
		t.Fatalf("%d packets: %v", n, err)
	}
	if err := d.SetUp(false); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write(good); !errors.Is(err, unix.EIO) || !PerPacket(err) {
		t.Errorf("down: %v", err)
	}
	if n, err := d.WriteBatch(batch); n != 0 || !errors.Is(err, unix.EIO) || !PerPacket(err) {
		t.Errorf("down: %d packets: %v", n, err)
	}
	if err := d.SetUp(true); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Write(good); n != len(good) || err != nil {
		t.Errorf("up again: %d, %v", n, err)
	}
	if PerPacket(os.ErrClosed) || PerPacket(unix.EBADFD) || !PerPacket(fmt.Errorf("x: %w", unix.ENOBUFS)) {
		t.Error("PerPacket")
	}
}

// readers are the ways in which a goroutine may wait for packets.
var readers = map[string]func(*Device) error{
	"Read": func(d *Device) error {
		buf := make([]byte, 2048)
		for {
			if _, err := d.Read(buf); err != nil {
				return err
			}
		}
	},
	"ReadBatch": func(d *Device) error {
		bufs, sizes := [][]byte{make([]byte, 2048), make([]byte, 2048)}, make([]int, 2)
		for {
			if _, err := d.ReadBatch(bufs, sizes); err != nil {
				return err
			}
		}
	},
}

// TestWoken: a reader that waits is woken by the end of the device, by Close and by a deadline.
func TestWoken(t *testing.T) {
	needDevices(t)
	for name, read := range readers {
		for _, test := range []struct {
			what string
			do   func(ns string, d *Device) error
			ok   func(error) bool
		}{
			{"deleted", func(ns string, d *Device) error { return InNetNS(ns, func() error { return Delete(d.Name()) }) }, IsGone},
			{"closed", func(_ string, d *Device) error { return d.Close() }, func(err error) bool { return errors.Is(err, os.ErrClosed) }},
			{"deadline", func(_ string, d *Device) error { return d.SetReadDeadline(time.Now()) },
				func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }},
		} {
			t.Run(name+" "+test.what, func(t *testing.T) {
				ns := newNS(t)
				d := mustOpen(t, Config{NetNS: ns, FlagsSet: unix.IFF_UP})
				result := make(chan error, 1)
				go func() { result <- read(d) }()
				if err := test.do(ns, d); err != nil {
					t.Fatal(err)
				}
				select {
				case err := <-result:
					if !test.ok(err) {
						t.Errorf("%v", err)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("the reader still waits")
				}
				if test.what == "deadline" {
					if err := d.SetReadDeadline(time.Time{}); err != nil {
						t.Error(err)
					}
				}
				if test.what == "deleted" {
					if _, err := d.Write([]byte{0x45}); !IsGone(err) || PerPacket(err) {
						t.Errorf("write: %v", err)
					}
					if _, err := d.WriteBatch([][]byte{{0x45}}); !IsGone(err) {
						t.Errorf("write: %v", err)
					}
					if _, err := d.Counters(); !errors.Is(err, unix.ENODEV) {
						t.Errorf("counters: %v", err)
					}
				}
				if err := d.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
		}
	}
}

func TestQueues(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	d := mustOpen(t, Config{NetNS: ns, MultiQueue: true, FlagsSet: unix.IFF_UP, Addrs: []Address{address("10.0.6.1/24")}})
	q, err := d.OpenQueue()
	if err != nil {
		t.Fatal(err)
	}
	info, err := find(ns, d.Name())
	if err != nil || !info.MultiQueue || !info.InUse {
		t.Errorf("%+v: %v", info, err)
	}
	if err := q.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Error(err)
	}
	// what comes back through the second queue draws the flow's answers there
	if _, err := q.ReadBatch([][]byte{make([]byte, 2048)}, make([]int, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	if _, err := q.Write([]byte{0xff}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("write: %v", err)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	single := mustOpen(t, Config{NetNS: ns})
	if _, err := single.OpenQueue(); err == nil {
		t.Error("second queue of a single-queue device: no error")
	}
	if err := InNetNS(ns, func() error { return Delete(d.Name()) }); err != nil {
		t.Fatal(err)
	}
	if _, err := d.OpenQueue(); !errors.Is(err, unix.ENODEV) {
		t.Errorf("queue of a deleted device: %v", err)
	}
}

func find(ns, name string) (i Info, err error) {
	err = InNetNS(ns, func() error {
		i, err = Find(name)
		return err
	})
	return i, err
}

// TestSendBuffer: a full send buffer makes writers wait instead of failing.
func TestSendBuffer(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	// frames (to one host: the bridge would copy others) that a bridge hands on wait in the slow queue of another tap, and count against their sender
	a := mustOpen(t, Config{NetNS: ns, Name: "from", Kind: TAP, Bridge: "br", FlagsSet: unix.IFF_UP})
	b := mustOpen(t, Config{NetNS: ns, Name: "to", Kind: TAP, Bridge: "br", FlagsSet: unix.IFF_UP})
	within(t, ns, func() {
		out, err := exec.Command("tc", "qdisc", "add", "dev", "to", "root", "tbf", "rate", "20mbit", "burst", "3000", "limit", "1mb").CombinedOutput()
		if err != nil {
			t.Skipf("needs tc and the qdisc tbf: %v %s", err, out)
		}
	})
	if err := a.SetSendBuffer(20000); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 1500)
	copy(frame, "\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x88\xb5")
	batch := make([][]byte, 100)
	for i := range batch {
		batch[i] = frame
	}
	if err := a.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	taken := 0
	err := a.control(func(fd int) error { // without the waiting
		for ; taken < len(batch); taken++ {
			if _, err := unix.Write(fd, frame); err != nil {
				return err
			}
		}
		return nil
	})
	if err != unix.EAGAIN {
		t.Errorf("%d frames written: %v", taken, err)
	}
	batch = batch[taken:]
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := a.WriteBatch(batch)
		done <- result{n, err}
	}()
	buf := make([]byte, 2048)
	if err := b.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		for {
			n, err := b.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(buf[:n], frame) {
				break
			}
		}
	}
	if r := <-done; r.n != len(batch) || r.err != nil {
		t.Errorf("wrote %d: %v", r.n, r.err)
	}
}
