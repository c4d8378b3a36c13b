package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// Relays run on the loopback device. This process is the client in front of the relay and the server behind it, in goroutines; both cost the same for every program, and so draw the
// ratios nearer to 1 than they would be with client and server on other machines. "direct" is client and server without a relay: what the load generators can do.

func relayCases() []benchCase {
	var cases []benchCase
	add := func(name, doc string, who func(*program) bool, run func(*bench, *program) ([]figure, error), aims ...aim) {
		cases = append(cases, benchCase{name: name, doc: doc, suits: who, run: run, aims: aims})
	}
	relay := func(t relayTask, connections int, twoWays bool) func(*bench, *program) ([]figure, error) {
		return func(b *bench, p *program) ([]figure, error) { return b.relayed(p, t, connections, twoWays) }
	}
	threefold := []aim{{gbits, "socat", 3}, {cpuGB, "socat", 0.2}}
	add("relay-tcp", "TCP to TCP, one connection", relays, relay(relayTask{}, 1, false),
		aim{gbits, "socat", 3.8}, aim{gbits, "socat -b 262144", 1}, aim{gbits, "direct", 0.5}, aim{cpuGB, "socat", 1. / 6})
	add("relay-tcp-16", "TCP to TCP, 16 connections of one program with fork", relays, relay(relayTask{fork: true}, 16, false), threefold...)
	add("relay-tcp-bidir", "TCP to TCP, one connection, both directions at once; the sum", speaksOrDirect, relay(relayTask{}, 1, true), threefold...)
	add("relay-unix-tcp", "UNIX to TCP, one connection", speaksOrDirect, relay(relayTask{from: "unix"}, 1, false), threefold...)
	add("relay-tcp-unix", "TCP to UNIX, one connection", speaksOrDirect, relay(relayTask{to: "unix"}, 1, false), threefold...)
	add("file-tcp", "a file of 512 MiB in the page cache to TCP, start included", speaks, (*bench).fileTCP, aim{gbits, "socat", 4.5})
	add("tcp-cat", "TCP to EXEC:cat and back; what came back", speaks, (*bench).tcpCat, aim{gbits, "socat", 3})
	add("stdin-tcp", "standard input, a pipe, to TCP", speaks, (*bench).stdinTCP, aim{gbits, "socat", 1.9})
	add("udp-relay", "datagrams of 200 bytes, 50 000 a second, UDP to UDP", speaksPlain, (*bench).udpRelay, aim{"CPU µs/packet", "socat", 0.5}, aim{"loss %", "socat", 1})
	add("slow-receiver", "TCP to TCP to a receiver that doesn't read: what the sender could hand over beyond a direct connection", speaks, (*bench).slowReceiver, aim{"MiB taken", "socat", 2})
	return cases
}

// Who takes part in a case.
func speaks(p *program) bool         { return p.command != nil }
func speaksPlain(p *program) bool    { return p.command != nil && !p.variant }
func speaksOrDirect(p *program) bool { return p.command != nil || p.reference }
func relays(p *program) bool         { return p.command != nil || p.relay != nil }
func relaysPlain(p *program) bool    { return relays(p) && !p.variant }

// A server accepts connections, each in a goroutine with f, until it is closed.
type server struct {
	l       net.Listener
	address string
	mu      sync.Mutex
	conns   []net.Conn
	wg      sync.WaitGroup
}

// serve listens on TCP ("tcp" or "") or a UNIX socket.
func (b *bench) serve(network string, f func(net.Conn)) (*server, error) {
	s := &server{address: local(b.newPort())}
	if network == "unix" {
		s.address = fmt.Sprintf("%s/server-%d", b.work, b.newPort())
	} else {
		network = "tcp"
	}
	var err error
	if s.l, err = net.Listen(network, s.address); err != nil {
		return nil, err
	}
	s.wg.Go(func() {
		for {
			c, err := s.l.Accept()
			if err != nil {
				return // closed
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.wg.Go(func() {
				defer c.Close()
				f(c)
			})
		}
	})
	return s, nil
}

func (s *server) close() {
	s.l.Close()
	s.mu.Lock()
	for _, c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// drain counts what arrives.
func drain(r io.Reader, count *atomic.Int64) {
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		count.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// pour writes until the other side is closed.
func pour(w io.Writer, size int) {
	buf := make([]byte, size)
	for {
		if _, err := w.Write(buf); err != nil {
			return
		}
	}
}

func echo(c net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// patience is how long a transfer may go without a byte before it counts as stalled.
const patience = 500 * time.Millisecond

// throughput measures for the time of the bench what the counter gains and what the programs use meanwhile, once something has arrived. A transfer that comes to a stop is an error.
func (b *bench) throughput(p *program, relay *proc, count *atomic.Int64) ([]figure, error) {
	if err := until("data at the end", 5*time.Second, func() bool { return count.Load() > 0 }); err != nil {
		return nil, failed(err, relay)
	}
	begin, first, used := time.Now(), count.Load(), b.group.cpu()
	for last, since := first, begin; time.Since(begin) < b.seconds; time.Sleep(20 * time.Millisecond) {
		if now := count.Load(); now != last {
			last, since = now, time.Now()
		} else if time.Since(since) > patience {
			return nil, failed(errors.Errorf("%s: no byte for %v after %d bytes", stalls, patience, now), relay)
		}
	}
	passed, gained, took := time.Since(begin), count.Load()-first, b.group.cpu()-used
	figures := rate(float64(gained), passed, took)
	if p.reference {
		figures = figures[:1]
	}
	return figures, nil
}

func rate(bytes float64, passed time.Duration, took float64) []figure {
	return []figure{{gbits, bytes * 8 / passed.Seconds() / 1e9, true}, {cpuGB, took / (bytes / 1e9), false}}
}

// relayed pours through a relay, and with twoWays back too.
func (b *bench) relayed(p *program, t relayTask, connections int, twoWays bool) ([]figure, error) {
	var count atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	both := func(c net.Conn) {
		if twoWays {
			wg.Go(func() { pour(c, 256<<10) })
		}
		drain(c, &count)
	}
	receive, err := b.receiver(p, t, both)
	if err != nil {
		return nil, err
	}
	s, err := b.serve(t.to, receive)
	if err != nil {
		return nil, err
	}
	defer s.close()
	relay, dial, err := b.relay(p, t, s.address)
	if err != nil {
		return nil, err
	}
	for range connections {
		c, err := dial()
		if err != nil {
			return nil, failed(err, relay)
		}
		defer c.Close()
		wg.Go(func() { pour(c, 256<<10) })
		if twoWays {
			wg.Go(func() { drain(c, &count) })
		}
	}
	return b.throughput(p, relay, &count)
}

// receiver returns f, behind TLS where the connection comes with it: from the relay, or directly from the client.
func (b *bench) receiver(p *program, t relayTask, f func(net.Conn)) (func(net.Conn), error) {
	if !t.tlsOut && !(t.tlsIn && p.reference) {
		return f, nil
	}
	id, err := b.identity("near")
	if err != nil {
		return nil, err
	}
	return func(c net.Conn) { f(tlsServer(c, id)) }, nil
}

func (b *bench) fileTCP(p *program) ([]figure, error) {
	const size = 512 << 20
	file := b.work + "/file"
	if err := makeFile(file, size); err != nil {
		return nil, err
	}
	var count atomic.Int64
	s, err := b.serve("tcp", func(c net.Conn) { drain(c, &count) })
	if err != nil {
		return nil, err
	}
	defer s.close()
	begin, used, sent := time.Now(), b.group.cpu(), int64(0)
	for time.Since(begin) < b.seconds {
		c, err := b.start("", nil, p.with("-u", "OPEN:"+file+",rdonly", tcpTo(s.address))...)
		if err != nil {
			return nil, err
		}
		select {
		case <-c.done:
		case <-time.After(b.seconds + 10*time.Second):
			return nil, failed(errors.Errorf("%s: the copy did not end", stalls), c)
		}
		if !c.cmd.ProcessState.Success() {
			return nil, failed(errors.New("the copy failed"), c)
		}
		sent += size
	}
	if err := until("the last bytes", 2*time.Second, func() bool { return count.Load() == sent }); err != nil {
		return nil, errors.Wrapf(err, "%d of %d bytes came", count.Load(), sent)
	}
	return rate(float64(sent), time.Since(begin), b.group.cpu()-used), nil
}

// makeFile makes a file without holes, once.
func makeFile(name string, size int) error {
	if info, err := os.Stat(name); err == nil && info.Size() == int64(size) {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i)
	}
	for range size / len(block) {
		if _, err := f.Write(block); err != nil {
			f.Close()
			return err
		}
	}
	return f.Close()
}

func (b *bench) tcpCat(p *program) ([]figure, error) {
	relay, dial, err := b.listen(p, relayTask{}, "EXEC:cat")
	if err != nil {
		return nil, err
	}
	c, err := dial()
	if err != nil {
		return nil, failed(err, relay)
	}
	var count atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.Close()
	wg.Go(func() { pour(c, 256<<10) })
	wg.Go(func() { drain(c, &count) })
	return b.throughput(p, relay, &count)
}

func (b *bench) stdinTCP(p *program) ([]figure, error) {
	var count atomic.Int64
	s, err := b.serve("tcp", func(c net.Conn) { drain(c, &count) })
	if err != nil {
		return nil, err
	}
	defer s.close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	relay, err := b.start("", r, p.with("-u", "-", tcpTo(s.address))...)
	r.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer w.Close()
	if err != nil {
		return nil, err
	}
	wg.Go(func() { pour(w, 64<<10) })
	return b.throughput(p, relay, &count)
}

func (b *bench) udpRelay(p *program) ([]figure, error) {
	const perSecond, size = 50000, 200
	end, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	end.SetReadBuffer(4 << 20) // losses are to be the relay's
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end.Close()
	var came atomic.Int64
	wg.Go(func() {
		var buf [2 * size]byte
		for {
			if _, err := end.Read(buf[:]); err != nil {
				return
			}
			came.Add(1)
		}
	})
	port := b.newPort()
	relay, err := b.start("", nil, p.with(fmt.Sprintf("UDP-LISTEN:%d", port), "UDP:"+end.LocalAddr().String())...)
	if err != nil {
		return nil, err
	}
	c, err := net.Dial("udp", local(port))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var buf [size]byte
	if err := ready("the first datagram", func() bool {
		c.Write(buf[:]) // refused until the relay is there
		return came.Load() > 0
	}, relay); err != nil {
		return nil, err
	}
	settled := quiet(&came) // datagrams of the warm-up still under way
	used, sent := b.group.cpu(), 0
	for begin := time.Now(); ; time.Sleep(500 * time.Microsecond) {
		passed := time.Since(begin)
		if passed >= b.seconds {
			break
		}
		for ; float64(sent) < passed.Seconds()*perSecond; sent++ {
			if _, err := c.Write(buf[:]); err != nil {
				return nil, failed(err, relay)
			}
		}
	}
	got := float64(quiet(&came) - settled)
	if got == 0 {
		return nil, failed(errors.New("nothing arrived"), relay)
	}
	return []figure{{"CPU µs/packet", (b.group.cpu() - used) * 1e6 / got, false}, {"loss %", 100 * (1 - got/float64(sent)), false}}, nil
}

// quiet waits until the counter rests, and returns it.
func quiet(count *atomic.Int64) int64 {
	for last := int64(-1); ; time.Sleep(50 * time.Millisecond) {
		now := count.Load()
		if now == last {
			return now
		}
		last = now
	}
}
