package addr

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

func TestUDPAgainstSocat(t *testing.T) {
	for _, v := range []struct{ digit, host string }{{"", "127.0.0.1"}, {"4", "127.0.0.1"}, {"6", "[::1]"}} {
		// Ours sends first.
		for _, c := range []struct{ ours, theirs string }{
			{"UDP%s:%s:%s", "UDP%s-LISTEN:%s"}, {"UDP%s-SENDTO:%s:%s", "UDP%s-RECVFROM:%s"}, {"UDP%s-DATAGRAM:%s:%s", "UDP%s-LISTEN:%s"},
		} {
			t.Run(c.ours+v.digit, func(t *testing.T) {
				port := freePort(t, "udp")
				s := plainSocat(t, fmt.Sprintf(c.theirs, v.digit, port), "SYSTEM:cat; echo bye")
				if strings.Contains(c.theirs, "LISTEN") {
					s.stderr.wait(t, "listening on")
				} else {
					s.stderr.wait(t, "receiving on")
				}
				h := newHost(t)
				ep := h.open(fmt.Sprintf(c.ours, v.digit, v.host, port), ReadWrite)
				if ep.Traffic != relay.Datagrams || ep.CanAnswer {
					t.Errorf("traffic %s, can answer %t", ep.Traffic, ep.CanAnswer)
				}
				writeText(t, ep.W, "packet")
				if got := readOne(t, ep.R); got != "packet" {
					t.Errorf("read %q", got)
				}
			})
		}
		// Theirs sends first.
		for _, c := range []struct{ ours, theirs string }{
			{"UDP%s-LISTEN:%s", "UDP%s:%s:%s"}, {"UDP%s-RECVFROM:%s", "UDP%s-SENDTO:%s:%s"}, {"UDP%s-LISTEN:%s,fork", "UDP%s-SENDTO:%s:%s"},
			{"UDP%s-RECVFROM:%s,fork", "UDP%s-DATAGRAM:%s:%s"},
		} {
			t.Run(c.ours+v.digit, func(t *testing.T) {
				h := newHost(t)
				port := freePort(t, "udp")
				src := h.source(fmt.Sprintf(c.ours, v.digit, port), ReadWrite)
				s := plainSocat(t, "-", fmt.Sprintf(c.theirs, v.digit, v.host, port))
				io.WriteString(s.in, "packet")
				ep := h.next(src)
				if got := readOne(t, ep.R); got != "packet" {
					t.Errorf("read %q", got)
				}
				if strings.Contains(c.ours, "RECVFROM") {
					if got := readAll(t, ep.R); got != "" {
						t.Errorf("then read %q", got)
					}
				}
				writeText(t, ep.W, "answer")
				if got := s.end(); got != "answer" {
					t.Errorf("socat read %q", got)
				}
			})
		}
		t.Run("RECV"+v.digit, func(t *testing.T) {
			h := newHost(t)
			port := freePort(t, "udp")
			ep := h.open("UDP"+v.digit+"-RECV:"+port, Read)
			for i := range 3 {
				s := plainSocat(t, "-", "UDP"+v.digit+":"+v.host+":"+port)
				text := fmt.Sprint("packet ", i)
				io.WriteString(s.in, text)
				if got := readOne(t, ep.R); got != text {
					t.Errorf("read %q", got)
				}
				s.end()
			}
		})
	}
}

// udpSender is a peer that sends from a port of its own.
func udpSender(t *testing.T, port string) net.Conn {
	t.Helper()
	c, err := net.Dial("udp4", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(testTimeout))
	return c
}

func readConn(t *testing.T, c net.Conn) string {
	t.Helper()
	buf := make([]byte, 2000)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// Many senders begin at the same time, each with a burst. Each session must get all of its sender's datagrams, in order, and nobody else's.
func TestUDPListenFork(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "udp")
	src := h.source("UDP-LISTEN:"+port+",fork", ReadWrite)
	const senders, burst = 10, 20 // few enough for the kernel's default limit of a receive buffer
	var wg sync.WaitGroup
	for i := range senders {
		c := udpSender(t, port)
		wg.Go(func() {
			for n := range burst {
				fmt.Fprintf(c, "%d %d", i, n)
			}
			buf := make([]byte, 100)
			if n, err := c.Read(buf); err != nil || string(buf[:n]) != fmt.Sprint("answer ", i) {
				t.Errorf("sender %d got %q, %v", i, buf[:n], err)
			}
		})
	}
	for range senders {
		ep := h.next(src)
		wg.Go(func() {
			sender := -1
			buf := make([]byte, 2000)
			for n := range burst {
				var got int
				k, err := ep.R.Read(buf)
				if err != nil {
					t.Errorf("sender %d, datagram %d: %v", sender, n, err)
					return
				}
				s := sender
				if _, err := fmt.Sscan(string(buf[:k]), &s, &got); err != nil || sender >= 0 && s != sender || got != n {
					t.Errorf("sender %d, datagram %d: got %q", sender, n, buf[:k])
					return
				}
				sender = s
			}
			fmt.Fprint(ep.W, "answer ", sender)
		})
	}
	wg.Wait()
}

// A sender whose session has ended gets a new one.
func TestUDPListenForkAgain(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "udp")
	src := h.source("UDP-LISTEN:"+port+",fork", ReadWrite)
	c := udpSender(t, port)
	for i := range 3 {
		fmt.Fprint(c, "hello ", i)
		ep := h.next(src)
		if got := readOne(t, ep.R); got != fmt.Sprint("hello ", i) {
			t.Errorf("read %q", got)
		}
		ep.Close()
	}
}

// A datagram that comes to the waiting socket although its sender has a session.
func TestUDPListenHandsOver(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "udp")
	src := h.source("UDP-LISTEN:"+port+",fork", ReadWrite)
	c := udpSender(t, port)
	fmt.Fprint(c, "one")
	ep := h.next(src)
	if got := readOne(t, ep.R); got != "one" {
		t.Fatalf("read %q", got)
	}
	got := make(chan string)
	go func() {
		buf := make([]byte, 100)
		n, _ := ep.R.Read(buf)
		got <- string(buf[:n])
	}()
	l := src.(*watched).Source.(*udpListener)
	var peer sockaddr
	onFile(fileOf(ep), func(fd int) (err error) { peer, err = getpeername(fd); return err })
	if !l.deliver(datagram{peer, []byte("two")}) {
		t.Fatal("no session known")
	}
	if s := <-got; s != "two" {
		t.Errorf("read %q", s)
	}
	fmt.Fprint(c, "three")
	if s := readOne(t, ep.R); s != "three" {
		t.Errorf("read %q", s)
	}
	ep.R.SetReadDeadline(time.Unix(1, 0))
	if _, err := ep.R.Read(make([]byte, 10)); err == nil {
		t.Error("deadline is not kept")
	}
}

// Without fork, the datagrams of others that came before the first one was read do not get into the session.
func TestUDPListenOnePeer(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "udp")
	src := h.source("UDP-LISTEN:"+port, ReadWrite)
	a, b := udpSender(t, port), udpSender(t, port)
	fmt.Fprint(a, "a1")
	fmt.Fprint(b, "b1")
	fmt.Fprint(a, "a2")
	ep := h.next(src)
	fmt.Fprint(b, "b2")
	fmt.Fprint(a, "a3")
	for _, want := range []string{"a1", "a2", "a3"} {
		if got := readOne(t, ep.R); got != want {
			t.Errorf("read %q, want %q", got, want)
		}
	}
	if _, err := src.Next(h.ctx); err != io.EOF {
		t.Errorf("second Next: %v", err)
	}
	want := []string{"SOCKADDR=127.0.0.1", "SOCKPORT=" + port, "PEERADDR=127.0.0.1", "PEERPORT=" + fmt.Sprint(a.LocalAddr().(*net.UDPAddr).Port)}
	if !slices.Equal(ep.Env, want) {
		t.Errorf("env %q, want %q", ep.Env, want)
	}
}

func TestUDPRange(t *testing.T) {
	h := newHost(t)
	for _, c := range []struct{ addr, options string }{{"UDP-LISTEN", ""}, {"UDP-LISTEN", ",fork"}, {"UDP-RECVFROM", ""}} {
		port := freePort(t, "udp")
		src := h.source(c.addr+":"+port+",range=127.0.0.2/32"+c.options, ReadWrite)
		bad, good := h.open("UDP:127.0.0.1:"+port, ReadWrite), h.open("UDP:127.0.0.1:"+port+",bind=127.0.0.2", ReadWrite)
		writeText(t, bad.W, "bad")
		writeText(t, good.W, "good")
		if got := readOne(t, h.next(src).R); got != "good" {
			t.Errorf("%v: read %q", c, got)
		}
		h.waitLog("due to range option")
	}
	port := freePort(t, "udp")
	recv := h.open("UDP-RECV:"+port+",range=127.0.0.2/32", Read)
	bad, good := h.open("UDP:127.0.0.1:"+port, ReadWrite), h.open("UDP:127.0.0.1:"+port+",bind=127.0.0.2", ReadWrite)
	writeText(t, bad.W, "bad")
	writeText(t, good.W, "good")
	if got := readOne(t, recv.R); got != "good" {
		t.Errorf("read %q", got)
	}
	h.waitLog("W refusing packets from AF=2 127.0.0.1:")
}

// SENDTO takes nothing from others than its peer, DATAGRAM does.
func TestUDPOtherSenders(t *testing.T) {
	h := newHost(t)
	for addr, want := range map[string]string{"UDP-SENDTO": "from the peer", "UDP-DATAGRAM": "from another"} {
		peerPort, ownPort := freePort(t, "udp"), freePort(t, "udp")
		ep := h.open(addr+":127.0.0.1:"+peerPort+",bind=:"+ownPort, ReadWrite)
		writeText(t, h.open("UDP:127.0.0.1:"+ownPort, ReadWrite).W, "from another")
		writeText(t, h.open("UDP:127.0.0.1:"+ownPort+",sourceport="+peerPort, ReadWrite).W, "from the peer")
		if got := readOne(t, ep.R); got != want {
			t.Errorf("%s read %q", addr, got)
		}
	}
}

func TestUDPErrors(t *testing.T) {
	h := newHost(t)
	ep := h.open("UDP:127.0.0.1:"+freePort(t, "udp"), ReadWrite)
	writeText(t, ep.W, "nobody listens")
	_, err := ep.R.Read(make([]byte, 10))
	if !errors.Is(err, unix.ECONNREFUSED) || !ep.OnePack(err) {
		t.Errorf("error %v", err)
	}
	_, err = ep.W.Write(make([]byte, 65508))
	if !errors.Is(err, unix.EMSGSIZE) || !ep.OnePack(err) {
		t.Errorf("error %v", err)
	}
	if ep.OnePack(unix.EBADF) || ep.OnePack(io.EOF) {
		t.Error("too many errors count as one packet's")
	}
}

// Empty datagrams are datagrams, and with null-eof the end.
func TestUDPEmpty(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "udp")
	ep := h.open("UDP-RECV:"+port, Read)
	c := udpSender(t, port)
	c.Write(nil)
	fmt.Fprint(c, "x")
	for _, want := range []string{"", "x"} {
		if got := readOne(t, ep.R); got != want {
			t.Errorf("read %q, want %q", got, want)
		}
	}
	port = freePort(t, "udp")
	ep = h.open("UDP-RECV:"+port+",null-eof", Read)
	udpSender(t, port).Write(nil)
	if got := readAll(t, ep.R); got != "" {
		t.Errorf("read %q", got)
	}
	// shut-null sends one at the end of writing.
	port = freePort(t, "udp")
	ep = h.open("UDP-RECV:"+port+",null-eof", Read)
	out := h.open("UDP:127.0.0.1:"+port+",shut-null", ReadWrite)
	writeText(t, out.W, "last")
	out.W.CloseWrite()
	if got := readAll(t, ep.R); got != "last" {
		t.Errorf("read %q", got)
	}
}

func TestUDPBatch(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "udp")
	ep := h.open("UDP-RECV:"+port, Read)
	c := udpSender(t, port)
	for i := range 10 {
		fmt.Fprint(c, "packet ", i)
	}
	b := relay.NewBatch(8)
	seen := 0
	for seen < 10 {
		b.Reset()
		if err := ep.R.(relay.BatchReader).ReadBatch(b); err != nil {
			t.Fatal(err)
		}
		for i := range b.Len() {
			if got, want := string(b.Packet(i)), fmt.Sprint("packet ", seen); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			seen++
		}
	}
	fmt.Fprint(c, "short buffer")
	if _, err := ep.R.Read(make([]byte, 5)); !errors.Is(err, errLongPacket) || !ep.OnePack(err) {
		t.Errorf("error %v", err)
	}
	// Packets cost no allocation.
	buf := make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() {
		c.Write(buf[:50])
		ep.R.Read(buf)
	}); n > 0 {
		t.Errorf("%v allocations a packet", n)
	}
}

func TestUDPRecvfromFork(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "udp")
	src := h.source("UDP-RECVFROM:"+port+",fork,max-children=3", ReadWrite)
	c := udpSender(t, port)
	for i := range 4 {
		fmt.Fprint(c, "question ", i)
	}
	var first *relay.Endpoint
	for i := range 3 {
		ep := h.next(src)
		if first == nil {
			first = ep
		}
		q := readAll(t, ep.R)
		if want := fmt.Sprint("question ", i); q != want {
			t.Errorf("read %q, want %q", q, want)
		}
		writeText(t, ep.W, "answer to "+q)
		if got := readConn(t, c); got != "answer to "+q {
			t.Errorf("sender got %q", got)
		}
	}
	ctx, cancel := context.WithTimeout(h.ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := src.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a fourth session: %v", err)
	}
	// The interrupted end of one session leaves the others alone.
	first.W.SetWriteDeadline(time.Unix(1, 0))
	first.Close()
	if got := readAll(t, h.next(src).R); got != "question 3" {
		t.Errorf("read %q", got)
	}
}

func TestUDPListenTimeout(t *testing.T) {
	h := newHost(t)
	if _, err := h.source("UDP-LISTEN:0,accept-timeout=0.05", ReadWrite).Next(h.ctx); !errors.Is(err, ErrAcceptTimeout) {
		t.Errorf("error %v", err)
	}
}

// A session of UDP against a stream, as the program runs it.
func TestUDPSession(t *testing.T) {
	h := newHost(t)
	port, echo := freePort(t, "udp"), freePort(t, "tcp")
	server := h.source("TCP-LISTEN:"+echo, ReadWrite)
	c := udpSender(t, port)
	src := h.source("UDP-LISTEN:"+port, ReadWrite)
	fmt.Fprint(c, "over tcp")
	left, right := h.next(src), h.open("TCP:127.0.0.1:"+echo, ReadWrite)
	done := make(chan error, 1)
	go func() {
		_, err := relay.Run(h.ctx, left, right, relay.Config{LeftToRight: true, RightToLeft: true, Linger: 100 * time.Millisecond, Log: h.env.Log})
		done <- err
	}()
	ep := h.next(server)
	if got := readOne(t, ep.R); got != "over tcp" {
		t.Errorf("read %q", got)
	}
	writeText(t, ep.W, "back")
	if got := readConn(t, c); got != "back" {
		t.Errorf("sender got %q", got)
	}
	ep.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestUDPMulticast(t *testing.T) {
	name := newNetns(t)
	h := newHost(t)
	recv := h.open("UDP-RECV:7777,ip-add-membership=239.1.2.3:lo,netns="+name, Read)
	send := h.open("UDP-DATAGRAM:239.1.2.3:7777,ip-multicast-if=lo,ip-multicast-ttl=0,netns="+name, ReadWrite)
	writeText(t, send.W, "to the group")
	if got := readOne(t, recv.R); got != "to the group" {
		t.Errorf("read %q", got)
	}
	recv = h.open("UDP-RECV:7778,ip-add-source-membership=239.1.2.4:lo:127.0.0.1,netns="+name, Read)
	send = h.open("UDP-DATAGRAM:239.1.2.4:7778,ip-multicast-if=127.0.0.1,netns="+name, ReadWrite)
	writeText(t, send.W, "from me")
	if got := readOne(t, recv.R); got != "from me" {
		t.Errorf("read %q", got)
	}
	for _, line := range []string{"link add d0 type veth peer name d1", "link set d0 up", "link set d1 up", "addr add fd00::1/64 dev d0 nodad"} {
		if out, err := exec.Command("ip", append([]string{"-n", name}, strings.Fields(line)...)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	recv = h.open("UDP6-RECV:7779,ipv6-join-group=[ff02::7777]:d0,netns="+name, Read)
	send = h.open("UDP6-DATAGRAM:[ff02::7777%d0]:7779,bind=[fd00::1],netns="+name, ReadWrite)
	writeText(t, send.W, "to the group")
	if got := readOne(t, recv.R); got != "to the group" {
		t.Errorf("read %q", got)
	}
	recv = h.open("UDP6-RECV:7780,ipv6-join-source-group=[ff02::7778]:d0:[fd00::1],netns="+name, Read)
	send = h.open("UDP6-DATAGRAM:[ff02::7778%d0]:7780,bind=[fd00::1],netns="+name, ReadWrite)
	writeText(t, send.W, "from me")
	if got := readOne(t, recv.R); got != "from me" {
		t.Errorf("read %q", got)
	}
}
