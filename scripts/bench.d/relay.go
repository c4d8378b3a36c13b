package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// Relays run on the loopback device. This process is the client in front of the relay and the server behind it, in goroutines; both cost the same for every program, and so draw the
// ratios nearer to 1 than they would be with client and server on other machines.

func relayCases() []benchCase {
	var cases []benchCase
	add := func(name, doc string, run func(*bench, *program) ([]figure, error)) {
		cases = append(cases, benchCase{name: name, doc: doc, suits: func(p *program) bool { return p.command != nil }, run: run})
	}
	add("relay-tcp", "TCP to TCP, one connection", func(b *bench, p *program) ([]figure, error) { return b.relay(p, "tcp", 1) })
	add("relay-tcp-16", "TCP to TCP, 16 connections of one program with fork", func(b *bench, p *program) ([]figure, error) { return b.relay(p, "tcp", 16) })
	add("relay-unix-tcp", "UNIX to TCP, one connection", func(b *bench, p *program) ([]figure, error) { return b.relay(p, "unix", 1) })
	add("file-tcp", "a file of 512 MiB in the page cache to TCP, start included", (*bench).fileTCP)
	add("tcp-cat", "TCP to EXEC:cat and back; what came back", (*bench).tcpCat)
	add("stdin-tcp", "standard input, a pipe, to TCP", (*bench).stdinTCP)
	add("connect", "connect, one byte there and back, close; 8 at a time, with fork", (*bench).connect)
	add("pingpong", "64 bytes there and back on one connection", (*bench).pingPong)
	add("idle-1000", "memory of 1000 idle connections with fork", (*bench).idle)
	add("start", "start to end of PROGRAM -u /dev/null /dev/null", (*bench).startToEnd)
	add("udp-relay", "datagrams of 200 bytes, 50 000 a second, UDP to UDP", (*bench).udpRelay)
	return cases
}

// A server accepts connections, each in a goroutine with f, until it is closed.
type server struct {
	l     net.Listener
	port  int
	mu    sync.Mutex
	conns []net.Conn
	wg    sync.WaitGroup
}

func (b *bench) serve(f func(net.Conn)) (*server, error) {
	s := &server{port: b.newPort()}
	var err error
	if s.l, err = net.Listen("tcp", local(s.port)); err != nil {
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

// sink counts what arrives.
func (b *bench) sink(count *atomic.Int64) (*server, error) {
	return b.serve(func(c net.Conn) { drain(c, count) })
}

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

// throughput measures for the time of the bench what the counter gains and what the program uses meanwhile, once something has arrived.
func (b *bench) throughput(p *proc, count *atomic.Int64) ([]figure, error) {
	if err := until("data at the end", 5*time.Second, func() bool { return count.Load() > 0 }); err != nil {
		return nil, failed(err, p)
	}
	begin, bytes, used := time.Now(), count.Load(), cpu(p)
	time.Sleep(b.seconds)
	passed, gained, took := time.Since(begin), count.Load()-bytes, cpu(p)-used
	if gained == 0 {
		return nil, failed(errors.New("nothing arrived"), p)
	}
	return rate(float64(gained), passed, took), nil
}

func rate(bytes float64, passed time.Duration, took float64) []figure {
	return []figure{{"Gbit/s", bytes * 8 / passed.Seconds() / 1e9, true}, {"CPU s/GB", took / (bytes / 1e9), false}}
}

// listen starts a relay that listens on TCP or a UNIX socket, and returns how to reach it.
func (b *bench) listen(p *program, network, options, right string) (relay *proc, address string, err error) {
	var left string
	var ready func() bool
	if network == "unix" {
		address = fmt.Sprintf("%s/socket-%d", b.work, b.newPort())
		left, ready = "UNIX-LISTEN:"+address, func() bool { _, err := os.Stat(address); return err == nil }
	} else {
		port := b.newPort()
		address = local(port)
		left, ready = "TCP-LISTEN:"+strconv.Itoa(port)+",reuseaddr", func() bool { return listens(port) }
	}
	if relay, err = b.start("", nil, p.with(left+options, right)...); err != nil {
		return nil, "", err
	}
	return relay, address, failed(until("relay listens", 5*time.Second, ready), relay)
}

func tcpTo(port int) string { return "TCP:" + local(port) }

func (b *bench) relay(p *program, network string, connections int) ([]figure, error) {
	var count atomic.Int64
	s, err := b.sink(&count)
	if err != nil {
		return nil, err
	}
	defer s.close()
	options := ""
	if connections > 1 {
		options = ",fork,backlog=64"
	}
	relay, address, err := b.listen(p, network, options, tcpTo(s.port))
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for range connections {
		c, err := dial(network, address)
		if err != nil {
			return nil, failed(err, relay)
		}
		defer c.Close()
		wg.Go(func() { pour(c, 256<<10) })
	}
	return b.throughput(relay, &count)
}

// dial tries again while a UNIX socket is bound and not yet listening.
func dial(network, address string) (c net.Conn, err error) {
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		if c, err = net.Dial(network, address); err == nil || time.Now().After(end) {
			return c, err
		}
	}
}

func (b *bench) fileTCP(p *program) ([]figure, error) {
	const size = 512 << 20
	file := b.work + "/file"
	if _, err := os.Stat(file); err != nil {
		f, err := os.Create(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = byte(i)
		}
		for range size / len(block) {
			if _, err := f.Write(block); err != nil {
				return nil, err
			}
		}
	}
	var count atomic.Int64
	s, err := b.sink(&count)
	if err != nil {
		return nil, err
	}
	defer s.close()
	var took float64
	begin := time.Now()
	for time.Since(begin) < b.seconds {
		c, err := b.start("", nil, p.with("-u", "OPEN:"+file+",rdonly", tcpTo(s.port))...)
		if err != nil {
			return nil, err
		}
		<-c.done
		took += (c.cmd.ProcessState.UserTime() + c.cmd.ProcessState.SystemTime()).Seconds()
		if !c.cmd.ProcessState.Success() {
			return nil, failed(errors.New("the copy failed"), c)
		}
	}
	sent := int64(len(b.procs)) * size
	if err := until("the last bytes", 2*time.Second, func() bool { return count.Load() == sent }); err != nil {
		return nil, errors.Wrapf(err, "%d of %d bytes came", count.Load(), sent)
	}
	return rate(float64(sent), time.Since(begin), took), nil
}

func (b *bench) tcpCat(p *program) ([]figure, error) {
	relay, address, err := b.listen(p, "tcp", "", "EXEC:cat")
	if err != nil {
		return nil, err
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, failed(err, relay)
	}
	var count atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.Close()
	wg.Go(func() { pour(c, 256<<10) })
	wg.Go(func() { drain(c, &count) })
	return b.throughput(relay, &count)
}

func (b *bench) stdinTCP(p *program) ([]figure, error) {
	var count atomic.Int64
	s, err := b.sink(&count)
	if err != nil {
		return nil, err
	}
	defer s.close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	relay, err := b.start("", r, p.with("-u", "-", tcpTo(s.port))...)
	r.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer w.Close()
	if err != nil {
		return nil, err
	}
	wg.Go(func() { pour(w, 64<<10) })
	return b.throughput(relay, &count)
}

func (b *bench) connect(p *program) ([]figure, error) {
	s, err := b.serve(echo)
	if err != nil {
		return nil, err
	}
	defer s.close()
	relay, address, err := b.listen(p, "tcp", ",fork,backlog=128", tcpTo(s.port))
	if err != nil {
		return nil, err
	}
	var done atomic.Int64
	errs := make(chan error, 8)
	begin, used := time.Now(), cpu(relay)
	for range cap(errs) {
		go func() {
			for time.Since(begin) < b.seconds {
				if err := oneByte(address); err != nil {
					errs <- err
					return
				}
				done.Add(1)
			}
			errs <- nil
		}()
	}
	for range cap(errs) {
		if e := <-errs; e != nil {
			err = e
		}
	}
	if err != nil {
		return nil, failed(err, relay)
	}
	passed, took, n := time.Since(begin), cpu(relay)-used, float64(done.Load())
	return []figure{{"connections/s", n / passed.Seconds(), true}, {"CPU ms/connection", took * 1000 / n, false}}, nil
}

func oneByte(address string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	var buf [1]byte
	if _, err := c.Write(buf[:]); err != nil {
		return err
	}
	_, err = io.ReadFull(c, buf[:])
	return err
}

func (b *bench) pingPong(p *program) ([]figure, error) {
	s, err := b.serve(echo)
	if err != nil {
		return nil, err
	}
	defer s.close()
	relay, address, err := b.listen(p, "tcp", "", tcpTo(s.port))
	if err != nil {
		return nil, err
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, failed(err, relay)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(b.seconds + 5*time.Second))
	var buf [64]byte
	var times []float64
	for begin := time.Now(); time.Since(begin) < b.seconds; {
		sent := time.Now()
		if _, err := c.Write(buf[:]); err != nil {
			return nil, failed(err, relay)
		}
		if _, err := io.ReadFull(c, buf[:]); err != nil {
			return nil, failed(err, relay)
		}
		times = append(times, float64(time.Since(sent).Nanoseconds())/1e3)
	}
	return []figure{{"µs, median", quantile(times, 0.5), false}, {"µs, 99 %", quantile(times, 0.99), false}}, nil
}

func (b *bench) idle(p *program) ([]figure, error) {
	const connections = 1000
	var accepted atomic.Int64
	s, err := b.serve(func(c net.Conn) {
		var buf [1]byte
		if _, err := io.ReadFull(c, buf[:]); err != nil {
			return
		}
		accepted.Add(1)
		io.ReadFull(c, buf[:]) // until it is closed
	})
	if err != nil {
		return nil, err
	}
	defer s.close()
	relay, address, err := b.listen(p, "tcp", ",fork,backlog=1024", tcpTo(s.port))
	if err != nil {
		return nil, err
	}
	before, err := pss(relay)
	if err != nil {
		return nil, err
	}
	for range connections {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return nil, failed(err, relay)
		}
		defer c.Close()
		if _, err := c.Write([]byte{0}); err != nil { // each has carried something, as idle connections have
			return nil, failed(err, relay)
		}
	}
	if err := until("all connections", 30*time.Second, func() bool { return accepted.Load() == connections }); err != nil {
		return nil, failed(err, relay)
	}
	after, err := pss(relay)
	if err != nil {
		return nil, err
	}
	return []figure{{"KiB/connection", (after - before) / connections, false}}, nil
}

func (b *bench) startToEnd(p *program) ([]figure, error) {
	const runs = 200
	var times []float64
	for range runs {
		begin := time.Now()
		c, err := b.start("", nil, p.with("-u", "/dev/null", "/dev/null")...)
		if err != nil {
			return nil, err
		}
		<-c.done
		times = append(times, float64(time.Since(begin).Microseconds())/1e3)
		b.procs = nil
		if !c.cmd.ProcessState.Success() {
			return nil, failed(errors.New("it failed"), c)
		}
	}
	return []figure{{"ms, median", quantile(times, 0.5), false}}, nil
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
	relay, err := b.start("", nil, p.with("UDP-LISTEN:"+strconv.Itoa(port), "UDP:"+end.LocalAddr().String())...)
	if err != nil {
		return nil, err
	}
	c, err := net.Dial("udp", local(port))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var buf [size]byte
	if err := until("the first datagram", 5*time.Second, func() bool {
		c.Write(buf[:]) // refused until the relay is there
		return came.Load() > 0
	}); err != nil {
		return nil, failed(err, relay)
	}
	settled := came.Load()
	for { // datagrams of the warm-up still under way
		time.Sleep(20 * time.Millisecond)
		if n := came.Load(); n == settled {
			break
		} else {
			settled = n
		}
	}
	used, sent := cpu(relay), 0
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
	for last := int64(-1); last != came.Load(); { // the tail
		last = came.Load()
		time.Sleep(50 * time.Millisecond)
	}
	got := float64(came.Load() - settled)
	if got == 0 {
		return nil, failed(errors.New("nothing arrived"), relay)
	}
	return []figure{{"CPU µs/packet", (cpu(relay) - used) * 1e6 / got, false}, {"loss %", 100 * (1 - got/float64(sent)), false}}, nil
}
