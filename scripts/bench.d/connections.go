package main

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
)

// Cases of many or short connections: rates, delays, memory.

func connectionCases() []benchCase {
	const memory, wakeUps = "KiB/connection", "wake-ups/s"
	idle := func(n int) func(*bench, *program) ([]figure, error) {
		return func(b *bench, p *program) ([]figure, error) { return b.idle(p, n) }
	}
	return []benchCase{
		{name: "connect", doc: "connect, one byte there and back, close; 8 at a time, with fork", suits: relaysPlain,
			run:  func(b *bench, p *program) ([]figure, error) { return b.connect(p, relayTask{fork: true}) },
			aims: []aim{{"connections/s", "socat", 3.3}, {"connections/s", "nginx", 0.8}}},
		{name: "pingpong", doc: "64 bytes there and back on one connection", suits: relaysPlain,
			run:  func(b *bench, p *program) ([]figure, error) { return b.pingPong(p, 1) },
			aims: []aim{{"µs, median", "socat", 1}, {"µs, 99 %", "socat", 1}}},
		{name: "pingpong-100", doc: "the same on 100 connections at once, with fork", suits: relaysPlain,
			run:  func(b *bench, p *program) ([]figure, error) { return b.pingPong(p, 100) },
			aims: []aim{{"requests/s", "socat", 1.5}, {"worst µs", itself, 50000}}},
		{name: "idle-1000", doc: "1000 idle connections with fork: memory of the control group, and how often something wakes up", suits: speaksPlain, run: idle(1000),
			aims: []aim{{memory, "socat", 1. / 9}, {wakeUps, itself, 0}}},
		{name: "idle-5000", doc: "the same with 5000", suits: speaksPlain, run: idle(5000),
			aims: []aim{{memory, "socat", 1. / 9}, {memory, itself, 17}, {wakeUps, itself, 0}}},
		{name: "start", doc: "start to end of PROGRAM -u /dev/null /dev/null", suits: speaksPlain, run: (*bench).startToEnd, aims: []aim{{"ms, median", "socat", 1.5}}},
	}
}

// connect makes connections as fast as 8 clients can.
func (b *bench) connect(p *program, t relayTask) ([]figure, error) {
	answer, err := b.receiver(p, t, echo)
	if err != nil {
		return nil, err
	}
	s, err := b.serve("tcp", answer)
	if err != nil {
		return nil, err
	}
	defer s.close()
	relay, dial, err := b.relay(p, t, s.address)
	if err != nil {
		return nil, err
	}
	var done atomic.Int64
	errs := make(chan error, 8)
	begin, used := time.Now(), b.group.cpu()
	for range cap(errs) {
		go func() {
			for time.Since(begin) < b.seconds {
				if err := oneByte(dial); err != nil {
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
	passed, took, n := time.Since(begin), b.group.cpu()-used, float64(done.Load())
	figures := []figure{{"connections/s", n / passed.Seconds(), true}}
	if !p.reference {
		figures = append(figures, figure{"CPU ms/connection", took * 1000 / n, false})
	}
	return figures, nil
}

func oneByte(dial func() (net.Conn, error)) error {
	c, err := dial()
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

// pingPong sends 64 bytes and waits for them, over and over, on so many connections.
func (b *bench) pingPong(p *program, connections int) ([]figure, error) {
	s, err := b.serve("tcp", echo)
	if err != nil {
		return nil, err
	}
	defer s.close()
	relay, dial, err := b.relay(p, relayTask{fork: connections > 1}, s.address)
	if err != nil {
		return nil, err
	}
	conns := make([]net.Conn, connections)
	var buf [64]byte
	for i := range conns {
		if conns[i], err = dial(); err != nil {
			return nil, failed(err, relay)
		}
		defer conns[i].Close()
		conns[i].SetDeadline(time.Now().Add(b.seconds + 10*time.Second))
		if _, err := exchange(conns[i], buf[:]); err != nil { // the far side of the relay is there
			return nil, failed(err, relay)
		}
	}
	var mu sync.Mutex
	var times []float64
	var failure error
	var wg sync.WaitGroup
	begin := time.Now()
	for _, c := range conns {
		wg.Go(func() {
			var buf [64]byte
			var mine []float64
			var err error
			for err == nil && time.Since(begin) < b.seconds {
				var t float64
				if t, err = exchange(c, buf[:]); err == nil {
					mine = append(mine, t)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, mine...)
			if err != nil {
				failure = err
			}
		})
	}
	wg.Wait()
	passed := time.Since(begin)
	if failure != nil {
		return nil, failed(failure, relay)
	}
	figures := []figure{{"µs, median", quantile(times, 0.5), false}, {"µs, 99 %", quantile(times, 0.99), false}}
	if connections > 1 {
		figures = []figure{{"requests/s", float64(len(times)) / passed.Seconds(), true}, figures[0], figures[1], {"worst µs", quantile(times, 1), false}}
	}
	return figures, nil
}

// exchange returns how long the bytes were under way, in µs.
func exchange(c net.Conn, buf []byte) (float64, error) {
	sent := time.Now()
	if _, err := c.Write(buf); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(c, buf)
	return float64(time.Since(sent).Nanoseconds()) / 1e3, err
}

// idle opens connections that each carry a byte and then nothing.
func (b *bench) idle(p *program, connections int) ([]figure, error) {
	const perHand = 8
	var carried atomic.Int64
	s, err := b.serve("tcp", func(c net.Conn) {
		var buf [1]byte
		if _, err := io.ReadFull(c, buf[:]); err != nil {
			return
		}
		carried.Add(1)
		io.ReadFull(c, buf[:]) // until it is closed
	})
	if err != nil {
		return nil, err
	}
	defer s.close()
	relay, dial, err := b.relay(p, relayTask{fork: true}, s.address)
	if err != nil {
		return nil, err
	}
	before := b.group.memory()
	for i := range connections {
		c, err := dial()
		if err != nil {
			return nil, failed(err, relay)
		}
		defer c.Close()
		if _, err := c.Write([]byte{0}); err != nil {
			return nil, failed(err, relay)
		}
		// No more than fit the backlog: what is measured is memory.
		if err := until("the connections before", 10*time.Second, func() bool { return carried.Load() > int64(i)-perHand*100 }); err != nil {
			return nil, failed(err, relay)
		}
	}
	if err := until("all connections", 10*time.Second, func() bool { return carried.Load() == int64(connections) }); err != nil {
		return nil, failed(err, relay)
	}
	time.Sleep(b.seconds) // a program may settle its memory
	after, awake := b.group.memory(), b.group.wakeUps()
	begin := time.Now()
	time.Sleep(b.seconds)
	woken := (b.group.wakeUps() - awake) / time.Since(begin).Seconds()
	return []figure{{"KiB/connection", (after - before) / 1024 / float64(connections), false}, {"wake-ups/s", woken, false}}, nil
}

// startToEnd starts the program as a shell would; the control group would cost a shell more.
func (b *bench) startToEnd(p *program) ([]figure, error) {
	const runs = 200
	var times []float64
	for range runs {
		begin := time.Now()
		c, err := b.helper("", p.with("-u", "/dev/null", "/dev/null")...)
		if err != nil {
			return nil, err
		}
		select {
		case <-c.done:
		case <-time.After(5 * time.Second):
			return nil, failed(errors.Errorf("%s: it does not end", stalls), c)
		}
		times = append(times, float64(time.Since(begin).Microseconds())/1e3)
		if !c.cmd.ProcessState.Success() {
			return nil, failed(errors.New("it failed"), c)
		}
	}
	return []figure{{"ms, median", quantile(times, 0.5), false}}, nil
}

// slowReceiver counts what a sender can hand over to a relay whose receiver doesn't read, beyond what it can without a relay. The buffers of both ends are fixed.
func (b *bench) slowReceiver(p *program) ([]figure, error) {
	const buffer = 256 << 10
	release := make(chan struct{})
	s, err := b.serve("tcp", func(c net.Conn) {
		c.(*net.TCPConn).SetReadBuffer(buffer)
		<-release
	})
	if err != nil {
		return nil, err
	}
	defer s.close()
	defer close(release)
	// stuff writes until nothing more is taken for a while; a relay without a bound is stopped at 1 GiB.
	stuff := func(c net.Conn) (total int, err error) {
		defer c.Close()
		if err := c.(*net.TCPConn).SetWriteBuffer(buffer); err != nil {
			return 0, err
		}
		block := make([]byte, 64<<10)
		for total < 1<<30 {
			c.SetWriteDeadline(time.Now().Add(patience))
			n, err := c.Write(block)
			total += n
			if err, ok := err.(net.Error); ok && err.Timeout() {
				break
			} else if err != nil {
				return 0, err
			}
		}
		return total, nil
	}
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		return nil, err
	}
	direct, err := stuff(c)
	if err != nil {
		return nil, err
	}
	relay, dial, err := b.relay(p, relayTask{}, s.address)
	if err != nil {
		return nil, err
	}
	if c, err = dial(); err != nil {
		return nil, failed(err, relay)
	}
	through, err := stuff(c)
	if err != nil {
		return nil, failed(err, relay)
	}
	return []figure{{"MiB taken", max(0, float64(through-direct)/(1<<20)), false}}, nil
}
