package relay

import (
	"sync"
	"time"
)

// run is packets that wait in a queue, each with a virtio-net header in front.
type run struct {
	Batch
	needs Caps // what a peer must take to get all of them as they are
	bytes int  // of the packets
}

// Sizes of runs. What waits alone, an ARP request say, gets a small one, so that a packet to hundreds of peers costs little; what comes while others wait gets one as large as a session's
// batch, so that the two can change places instead of being copied.
const (
	smallRun        = 16 << 10
	smallRunPackets = 64
	smallRunLongest = 2 << 10 // a longer packet begins with a large run
)

var (
	smallRuns = sync.Pool{New: func() any {
		return &run{Batch: Batch{buf: make([]byte, smallRun), spans: make([]span, 0, smallRunPackets)}}
	}}
	largeRuns = sync.Pool{New: func() any { return &run{Batch: *NewBatch(0)} }}
)

// release gives a run back to the pool.
func (r *run) release() {
	r.Reset()
	r.needs, r.bytes = 0, 0
	if len(r.buf) == BatchSize {
		largeRuns.Put(r)
	} else {
		smallRuns.Put(r)
	}
}

// append copies a packet to the end; false if there is no room.
func (r *run) append(p []byte, vnet bool) bool {
	n := len(p)
	if !vnet {
		n += VNetLen
	}
	off := r.end + r.Head
	if len(r.spans) == cap(r.spans) || off+n > len(r.buf) {
		return false
	}
	dst := r.buf[off : off+n]
	if vnet {
		r.needs |= capsFor(p)
	} else {
		clear(dst[:VNetLen])
		dst = dst[VNetLen:]
	}
	copy(dst, p)
	r.Commit(n)
	r.bytes += len(p)
	return true
}

// Of the virtio-net header (linux/virtio_net.h): the flags, the type of GSO and its values.
const (
	vnetFlags    = 0
	vnetGSO      = 1
	vnetTCPv4    = 1
	vnetTCPv6    = 4
	vnetUDP      = 5
	vnetECN      = 0x80
	vnetAnything = ^Caps(0)
)

// capsFor returns what a peer must be able to take to get a packet with this virtio-net header as it is. An unfinished checksum needs CapVNet alone, which whoever takes the header has.
func capsFor(p []byte) (c Caps) {
	switch p[vnetGSO] &^ vnetECN {
	case 0:
	case vnetTCPv4:
		c = CapTSO4
	case vnetTCPv6:
		c = CapTSO6
	case vnetUDP:
		c = CapUSO4 | CapUSO6 // kernels know them together only
	default:
		c = vnetAnything
	}
	if p[vnetGSO]&vnetECN != 0 {
		c |= CapECN
	}
	return c
}

// isComplete says that the virtio-net header asks for nothing.
func isComplete(p []byte) bool { return p[vnetFlags] == 0 && p[vnetGSO] == 0 }

// queue is packets for one peer. Many put in, one takes out.
type queue struct {
	most        int           // bytes
	mostPackets int           //
	ready       chan struct{} // has an item if the reader should look; its reader waits for it

	mu             sync.Mutex
	runs           []*run // the oldest first
	bytes, packets int    // in runs
	head           int    // bytes that the reader wants in front of each packet
	told           bool   // somebody is going to wake the reader
	closed         bool
}

// queueUnit is how many bytes of a queue stand for one packet: so many small packets may wait as there are such units.
const queueUnit = 1 << 10

func (q *queue) init(most int) {
	q.most, q.mostPackets, q.head = most, max(1, most/queueUnit), LinkHeadLen
	q.ready = make(chan struct{}, 1)
}

// put copies a packet to the end of the queue. took is false if there is no room, first true if the caller has to wake the reader.
func (q *queue) put(p []byte, vnet bool) (took, first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.packets >= q.mostPackets || q.bytes+len(p) > q.most {
		return false, false
	}
	if n := len(q.runs); n == 0 || !q.runs[n-1].append(p, vnet) {
		pool := &largeRuns
		if n == 0 && len(p) <= smallRunLongest {
			pool = &smallRuns
		}
		r := pool.Get().(*run)
		r.Head = q.head
		r.append(p, vnet)
		q.runs = append(q.runs, r)
	}
	q.packets++
	q.bytes += len(p)
	first = !q.told
	q.told = true
	return true, first
}

// wake makes the reader look.
func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take takes the oldest run out, nil if there is none. From now on packets are laid down with head bytes in front.
func (q *queue) take(head int) *run {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.head, q.told = head, false
	if len(q.runs) == 0 {
		return nil
	}
	r := q.runs[0]
	last := copy(q.runs, q.runs[1:])
	q.runs[last] = nil
	q.runs = q.runs[:last]
	if last == 0 {
		q.packets, q.bytes = 0, 0
		return r
	}
	q.packets -= r.Len()
	q.bytes -= r.bytes
	return r
}

// close throws everything away and lets nothing in.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, r := range q.runs {
		r.release()
	}
	q.runs = nil
}

// deadline is a time after which waiting ends. The zero value must be set once.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{} // closed at that time
}

// set sets the time; zero means never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.passed // it has run, and closes the channel
	}
	d.timer = nil
	past := false
	select {
	case <-d.passed:
		past = true
	default:
	}
	if past || d.passed == nil {
		d.passed = make(chan struct{})
	}
	switch left := time.Until(t); {
	case t.IsZero():
	case left <= 0:
		close(d.passed)
	default:
		passed := d.passed
		d.timer = time.AfterFunc(left, func() { close(passed) })
	}
}

// wait returns a channel that is closed when the time has come.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}
