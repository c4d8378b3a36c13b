package addr

import (
	"bytes"
	"os/exec"
	"testing"

	"tunsplice/relay"
)

// Datagrams that leave in trains arrive as they were given, whether they are taken one by one or in trains too: their borders, their order, empty ones, and those that are longer than the
// path takes in one piece.
func TestTrainBorders(t *testing.T) {
	t.Run("one by one", func(t *testing.T) { trainBorders(t, false) })
	t.Run("in trains", func(t *testing.T) { trainBorders(t, true) })
}

func trainBorders(t *testing.T, take bool) {
	h := newHost(t)
	name := newNetns(t)
	if out, err := exec.Command("ip", "-n", name, "link", "set", "lo", "mtu", "1500").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	recv := h.open("UDP-RECV:7777,rcvbuf=4194304,netns="+name, Read)
	if take {
		if _, err := recv.CarryPackets(); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"UDP:127.0.0.1:7777", "UDP-SENDTO:127.0.0.1:7777"} {
		w := h.open(kind+",netns="+name, ReadWrite).W.(relay.BatchWriter)
		var sizes []int
		for range 70 {
			sizes = append(sizes, 200)
		}
		sizes = append(sizes, 199, 200, 0, 0, 200, 200, 1, 1, 2, 3, 3, 1600, 1600, 1472, 1472, 1473, 1473, 20, 20)
		b := relay.NewBatch(4)
		for i, n := range sizes {
			copy(b.Room(), bytes.Repeat([]byte{byte(i)}, n))
			b.Commit(n)
		}
		var calls []int
		for i := 0; i < b.Len(); {
			n, err := w.WriteBatch(b, i)
			if err != nil {
				t.Fatalf("%s: packet %d: %v", kind, i, err)
			}
			calls = append(calls, n)
			i += n
		}
		if calls[0] != trainCars || calls[1] != 7 {
			t.Errorf("%s: the calls wrote %v packets: no train left", kind, calls)
		}
		buf := make([]byte, relay.MaxPacket)
		for i, size := range sizes {
			n, err := recv.R.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if a := recv.R.(*packetSocket).arrivals; (a != nil) != take || i == 0 && take && a.end != trainCars*200 {
				t.Errorf("%s: what came first are not the bytes of a train: %+v", kind, a)
			}
			if want := bytes.Repeat([]byte{byte(i)}, size); !bytes.Equal(buf[:n], want) {
				t.Fatalf("%s: packet %d has %d bytes %.4x..., want %d of %d; calls %v", kind, i, n, buf[:min(n, 4)], size, i, calls)
			}
		}
	}
}

func TestTrainAllocates(t *testing.T) {
	h := newHost(t)
	name := newNetns(t)
	recv := h.open("UDP-RECV:7777,netns="+name, Read)
	if _, err := recv.CarryPackets(); err != nil {
		t.Fatal(err)
	}
	in := relay.NewBatch(0)
	w := h.open("UDP-SENDTO:127.0.0.1:7777,netns="+name, ReadWrite).W.(relay.BatchWriter)
	b := batchOf(4, 100)
	if n := testing.AllocsPerRun(20, func() {
		if n, err := w.WriteBatch(b, 0); n != 4 || err != nil {
			t.Fatalf("%d packets written: %v", n, err)
		}
		in.Reset()
		if err := recv.R.(relay.BatchReader).ReadBatch(in); err != nil || in.Len() != 4 {
			t.Fatalf("%d packets read: %v", in.Len(), err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a batch", n)
	}
}

// Trains are of UDP: other sockets send packet by packet.
func TestTrainNotUDP(t *testing.T) {
	h := newHost(t)
	path := tempSocket(t)
	recv := h.open("UNIX-RECV:"+path, Read)
	w := h.open("UNIX-SENDTO:"+path, ReadWrite).W.(relay.BatchWriter)
	b := batchOf(2, 100)
	for i := range b.Len() {
		if n, err := w.WriteBatch(b, i); n != 1 || err != nil {
			t.Fatalf("%d packets written: %v", n, err)
		}
		if got := readOne(t, recv.R); got != string(b.Packet(i)) {
			t.Errorf("packet %d is %q", i, got)
		}
	}
}

// batchOf returns a batch of n packets of size zero bytes each.
func batchOf(n, size int) *relay.Batch {
	b := relay.NewBatch(0)
	for range n {
		b.Commit(size)
	}
	return b
}
