package addr

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

func TestTCPAgainstSocat(t *testing.T) {
	for _, v := range []struct{ digit, host string }{{"", "127.0.0.1"}, {"4", "127.0.0.1"}, {"6", "[::1]"}, {"", "localhost"}} {
		t.Run("connect"+v.digit+v.host, func(t *testing.T) {
			port := freePort(t, "tcp")
			s := plainSocat(t, "TCP"+v.digit+"-LISTEN:"+port+",reuseaddr", "-")
			s.stderr.wait(t, "listening on")
			h := newHost(t)
			ep := h.open("TCP"+v.digit+":"+v.host+":"+port, ReadWrite)
			h.waitLog("N successfully connected from local address AF=")
			writeText(t, ep.W, "to socat")
			if err := ep.W.CloseWrite(); err != nil {
				t.Error(err)
			}
			io.WriteString(s.in, "from socat")
			s.in.Close()
			if got := readAll(t, ep.R); got != "from socat" {
				t.Errorf("read %q", got)
			}
			if got := s.end(); got != "to socat" {
				t.Errorf("socat read %q", got)
			}
		})
		t.Run("listen"+v.digit+v.host, func(t *testing.T) {
			h := newHost(t)
			port := freePort(t, "tcp")
			src := h.source("TCP"+v.digit+"-LISTEN:"+port, ReadWrite)
			h.waitLog("N listening on AF=")
			s := plainSocat(t, "-", "TCP"+v.digit+":"+v.host+":"+port)
			ep := h.next(src)
			io.WriteString(s.in, "from socat")
			s.in.Close()
			if got := readAll(t, ep.R); got != "from socat" {
				t.Errorf("read %q", got)
			}
			writeText(t, ep.W, "to socat")
			ep.W.CloseWrite()
			if got := s.end(); got != "to socat" {
				t.Errorf("socat read %q", got)
			}
			if !ep.CanAnswer || ep.Traffic != relay.Stream {
				t.Errorf("endpoint: %+v", ep)
			}
			// Its one peer came: the port is closed.
			if _, err := src.Next(h.ctx); err != io.EOF {
				t.Errorf("second Next: %v", err)
			}
			if _, err := mustBind(t, "TCP"+v.digit+":"+v.host+":"+port, ReadWrite).Open(h.ctx, h.env); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("second connection: %v", err)
			}
		})
	}
}

func TestTCPEnv(t *testing.T) {
	for _, v := range []struct{ listen, connect, addr string }{
		{"TCP4-LISTEN", "TCP4:127.0.0.1", "127.0.0.1"},
		{"TCP6-LISTEN", "TCP6:[::1]", "[0000:0000:0000:0000:0000:0000:0000:0001]"},
	} {
		h := newHost(t)
		port, from := freePort(t, "tcp"), freePort(t, "tcp")
		src := h.source(v.listen+":"+port, ReadWrite)
		h.open(v.connect+":"+port+",sourceport="+from, ReadWrite)
		want := []string{"SOCKADDR=" + v.addr, "SOCKPORT=" + port, "PEERADDR=" + v.addr, "PEERPORT=" + from}
		if ep := h.next(src); !slices.Equal(ep.Env, want) {
			t.Errorf("env %q, want %q", ep.Env, want)
		}
		h.waitLog("N accepting connection from AF=")
	}
}

func TestTCPFork(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "tcp")
	src := h.source("TCP-LISTEN:"+port+",fork,backlog=64", ReadWrite)
	if !src.Many() {
		t.Fatal("not many")
	}
	const clients = 50
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			c, err := mustBind(t, "TCP:127.0.0.1:"+port, ReadWrite).Open(h.ctx, h.env)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			ep, err := c.Next(h.ctx)
			if err != nil {
				t.Error(err)
				return
			}
			defer ep.Close()
			io.WriteString(ep.W, "hello")
			ep.W.CloseWrite()
			if got, err := io.ReadAll(ep.R); err != nil || string(got) != "hello" {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
	for range clients {
		ep := h.next(src)
		wg.Go(func() {
			io.Copy(ep.W, ep.R)
			ep.W.CloseWrite()
			ep.Close()
		})
	}
	wg.Wait()
}

func TestTCPMaxChildren(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "tcp")
	src := h.source("TCP-LISTEN:"+port+",fork,max-children=2", ReadWrite)
	for range 3 {
		h.open("TCP:127.0.0.1:"+port, ReadWrite)
	}
	first, _ := h.next(src), h.next(src)
	ctx, cancel := context.WithTimeout(h.ctx, 50*time.Millisecond)
	defer cancel()
	if ep, err := src.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a third session began: %v %v", ep, err)
	}
	first.Close()
	first.Close() // closing twice counts once
	h.next(src)
}

func TestTCPRange(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "tcp")
	src := h.source("TCP-LISTEN:"+port+",range=127.0.0.2/32", ReadWrite)
	refused := h.open("TCP:127.0.0.1:"+port, ReadWrite)
	h.open("TCP:127.0.0.1:"+port+",bind=127.0.0.2", ReadWrite)
	ep := h.next(src)
	if !slices.Contains(ep.Env, "PEERADDR=127.0.0.2") {
		t.Errorf("peer: %q", ep.Env)
	}
	line := h.waitLog("refusing connection from AF=2 127.0.0.1:")
	if !strings.HasPrefix(line, "W ") || !strings.HasSuffix(line, "due to range option") {
		t.Errorf("log line %q", line)
	}
	if got := readAll(t, refused.R); got != "" {
		t.Errorf("refused peer read %q", got)
	}
}

func TestTCPSourcePorts(t *testing.T) {
	needRoot(t) // low ports
	h := newHost(t)
	port, from := freePort(t, "tcp"), freePort(t, "tcp")
	src := h.source("TCP-LISTEN:"+port+",fork,sourceport="+from, ReadWrite)
	h.open("TCP:127.0.0.1:"+port, ReadWrite)
	h.open("TCP:127.0.0.1:"+port+",bind=:"+from, ReadWrite)
	if ep := h.next(src); !slices.Contains(ep.Env, "PEERPORT="+from) {
		t.Errorf("peer: %q", ep.Env)
	}
	h.waitLog("due to sourceport option")

	port = freePort(t, "tcp")
	src = h.source("TCP-LISTEN:"+port+",fork,lowport", ReadWrite)
	h.open("TCP:127.0.0.1:"+port, ReadWrite)
	client := h.open("TCP:127.0.0.1:"+port+",lowport", ReadWrite)
	h.next(src)
	h.waitLog("due to lowport option")
	onFile(fileOf(client), func(fd int) error {
		if local, err := getsockname(fd); err != nil || local.port() < 640 || local.port() > 1023 {
			t.Errorf("local port %d, %v", local.port(), err)
		}
		return nil
	})
}

func TestTCPAcceptTimeout(t *testing.T) {
	h := newHost(t)
	src := h.source("TCP-LISTEN:0,accept-timeout=0.05", ReadWrite)
	if _, err := src.Next(h.ctx); !errors.Is(err, ErrAcceptTimeout) {
		t.Errorf("error %v", err)
	}
	h.waitLog("W accept: Connection timed out")
}

func TestTCPNextObeysContext(t *testing.T) {
	h := newHost(t)
	src := h.source("TCP-LISTEN:0,fork", ReadWrite)
	ctx, cancel := context.WithCancel(h.ctx)
	go cancel()
	if _, err := src.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// fillBacklog makes a listener that answers no further connection requests.
func fillBacklog(t *testing.T, h *host) (port string) {
	port = freePort(t, "tcp")
	h.source("TCP-LISTEN:"+port+",backlog=1", ReadWrite)
	for range 2 {
		h.open("TCP:127.0.0.1:"+port, ReadWrite)
	}
	return port
}

func TestTCPConnectTimeout(t *testing.T) {
	h := newHost(t)
	port := fillBacklog(t, h)
	begin := time.Now()
	_, err := mustBind(t, "TCP:127.0.0.1:"+port+",connect-timeout=0.1", ReadWrite).Open(h.ctx, h.env)
	if took := time.Since(begin); !errors.Is(err, unix.ETIMEDOUT) || took < 100*time.Millisecond || took > 5*time.Second {
		t.Errorf("after %s: %v", took, err)
	}
	ctx, cancel := context.WithTimeout(h.ctx, 50*time.Millisecond)
	defer cancel()
	_, err = mustBind(t, "TCP:127.0.0.1:"+port, ReadWrite).Open(ctx, h.env)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestTCPRefused(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "tcp")
	_, err := mustBind(t, "TCP:127.0.0.1:"+port, ReadWrite).Open(h.ctx, h.env)
	if want := "TCP-CONNECT:127.0.0.1:" + port + ": connect 127.0.0.1:" + port + ": connection refused"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if Hint(err) == "" {
		t.Error("no hint")
	}
	h.waitLog("N opening connection to AF=2 127.0.0.1:" + port)
}

func TestTCPRetry(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "tcp")
	a := mustBind(t, "TCP:127.0.0.1:"+port+",forever,interval=0.02", ReadWrite)
	result := make(chan error, 1)
	go func() {
		src, err := a.Open(h.ctx, h.env)
		if err == nil {
			var ep *relay.Endpoint
			if ep, err = src.Next(h.ctx); err == nil {
				ep.Close()
			}
		}
		result <- err
	}()
	h.waitLog("trying again in 20ms")
	h.source("TCP-LISTEN:"+port, ReadWrite)
	if err := <-result; err != nil {
		t.Error(err)
	}
	b := mustBind(t, "TCP:127.0.0.1:"+freePort(t, "tcp")+",retry=2,interval=0.01", ReadWrite)
	if _, err := b.Open(h.ctx, h.env); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("error %v", err)
	}
}

func TestTCPConnectFork(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "tcp")
	server := h.source("TCP-LISTEN:"+port+",fork", ReadWrite)
	client := h.source("TCP:127.0.0.1:"+port+",fork,interval=0.01,max-children=2", ReadWrite)
	for range 2 {
		h.next(client)
		h.next(server)
	}
}

func TestTCPReuseAddr(t *testing.T) {
	for opt, want := range map[string]int{"": 1, ",reuseaddr": 1, ",reuseaddr=0": 0, ",reuseaddr=": 0} {
		h := newHost(t)
		src := h.source("TCP-LISTEN:0"+opt, ReadWrite)
		var got int
		onFile(src.(*watched).Source.(*listener).file, func(fd int) (err error) {
			got, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
			return err
		})
		if got != want {
			t.Errorf("%q: SO_REUSEADDR is %d, want %d", opt, got, want)
		}
	}
}

func TestTCPPortTaken(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "tcp")
	h.source("TCP-LISTEN:"+port, ReadWrite)
	_, err := mustBind(t, "TCP-LISTEN:"+port, ReadWrite).Open(h.ctx, h.env)
	if !errors.Is(err, unix.EADDRINUSE) || Hint(err) == "" {
		t.Errorf("error %v, hint %q", err, Hint(err))
	}
}

func TestTCPListenVersions(t *testing.T) {
	for _, c := range []struct {
		listenIP byte
		options  string
		v4, v6   bool
	}{
		{'4', "", true, false}, {'6', "", true, true}, {'0', "", true, true}, {'0', ",pf=ip6,ipv6only=1", false, true}, {'6', ",pf=ip4", true, false},
		{'4', ",pf=ip6,ipv6only=0", true, true}, {'4', ",bind=[::1]", false, true},
	} {
		h := newHost(t)
		h.env.ListenIP = c.listenIP
		port := freePort(t, "tcp")
		h.source("TCP-LISTEN:"+port+c.options, ReadWrite)
		for host, want := range map[string]bool{"127.0.0.1": c.v4, "[::1]": c.v6} {
			src, err := mustBind(t, "TCP:"+host+":"+port, ReadWrite).Open(h.ctx, h.env)
			if (err == nil) != want {
				t.Errorf("%+v: %s: %v", c, host, err)
			}
			if err == nil {
				src.Close()
			}
		}
	}
}

func TestTCPNetns(t *testing.T) {
	name := newNetns(t)
	h := newHost(t)
	src := h.source("TCP-LISTEN:7777,netns="+name, ReadWrite)
	if _, err := mustBind(t, "TCP:127.0.0.1:7777", ReadWrite).Open(h.ctx, h.env); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("from outside: %v", err)
	}
	client := h.open("TCP:localhost:7777,netns="+name, ReadWrite)
	server := h.next(src)
	writeText(t, client.W, "inside")
	client.W.CloseWrite()
	if got := readAll(t, server.R); got != "inside" {
		t.Errorf("read %q", got)
	}
}

func TestTCPOneWay(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "tcp")
	src := h.source("TCP-LISTEN:"+port, Read)
	client := h.open("TCP:127.0.0.1:"+port, Write)
	server := h.next(src)
	if client.R != nil || server.W != nil || client.CanAnswer {
		t.Fatal("halves that nobody uses")
	}
	writeText(t, client.W, "one way")
	client.W.CloseWrite()
	if got := readAll(t, server.R); got != "one way" {
		t.Errorf("read %q", got)
	}
}

// Options of the connection, not of the listening socket.
func TestTCPListenerOptionsReachConnection(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "tcp")
	src := h.source("TCP-LISTEN:"+port+",nodelay,keepalive,keepidle=77,linger=3,tos=16,setsockopt-int=6:12:0", ReadWrite)
	h.open("TCP:127.0.0.1:"+port, ReadWrite)
	ep := h.next(src)
	for _, o := range [][3]int{{unix.SOL_TCP, unix.TCP_NODELAY, 1}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.SOL_TCP, unix.TCP_KEEPIDLE, 77},
		{unix.SOL_SOCKET, unix.SO_LINGER, 1}, {unix.SOL_IP, unix.IP_TOS, 16}, {unix.SOL_TCP, unix.TCP_QUICKACK, 0}} {
		if got := getInt(t, ep, o[0], o[1]); got != o[2] {
			t.Errorf("option %d of level %d is %d, want %d", o[1], o[0], got, o[2])
		}
	}
}

// A connection that packets travel over sends at once and holds little back, unless the user wants it otherwise.
func TestTCPCarriesPackets(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "tcp")
	src := h.source("TCP-LISTEN:"+port, ReadWrite)
	ours := h.open("TCP:127.0.0.1:"+port+",nodelay=0,notsent-lowat=5000", ReadWrite)
	for _, c := range []struct {
		ep             *relay.Endpoint
		nodelay, lowat int
	}{{h.next(src), 1, packetLowat}, {ours, 0, 5000}} {
		if _, err := c.ep.CarryPackets(); err != nil {
			t.Fatal(err)
		}
		if got := getInt(t, c.ep, unix.SOL_TCP, unix.TCP_NODELAY); got != c.nodelay {
			t.Errorf("tcp-nodelay is %d, want %d", got, c.nodelay)
		}
		if got := getInt(t, c.ep, unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT); got != c.lowat {
			t.Errorf("tcp-notsent-lowat is %d, want %d", got, c.lowat)
		}
	}
}

func TestTCPMistakes(t *testing.T) {
	for arg, want := range map[string]string{
		"TCP:localhost:99999":                              "port 99999 out of range",
		"TCP:localhost:nosuchservice":                      "unknown service",
		"TCP:localhost:":                                   "port is missing",
		"TCP-LISTEN:-1":                                    "port -1 out of range",
		"TCP-LISTEN:0x10000":                               "port 0x10000 out of range",
		"TCP-LISTEN:80x":                                   "unknown service",
		"TCP:127.0.0.1:80,bind=[::1]":                      "option bind: [::1] is no IPv4 address",
		"TCP:[::1]:80,bind=127.0.0.1":                      "option bind: 127.0.0.1 is no IPv6 address",
		"TCP:127.0.0.1:80,setsockopt-int=1:2:4294967296":   "out of range",
		"TCP:127.0.0.1:80,setsockopt-bin=4294967296:2:x00": "out of range",
		"TCP6:127.0.0.1:80":                                "127.0.0.1 is no IPv6 address",
		"TCP4:[::1]:80":                                    "no IPv4 address",
		"TCP:[::1:80":                                      "",
		"TCP:[::g]:80":                                     "no IPv6 address",
		"TCP:::1:80":                                       "wrong number of parameters",
		"TCP:localhost":                                    "wrong number of parameters",
		"TCP-LISTEN:80,bind=127.0.0.1:81":                  "has a port",
		"TCP:localhost:80,bind=127.0.0.1:x y":              "unknown service",
		"TCP6:localhost:80,bind=127.0.0.1":                 "no IPv6 address",
		"TCP-LISTEN:80,range=hello":                        "no range",
		"TCP-LISTEN:80,range=10.0.0.0/33":                  "0 to 32",
		"TCP-LISTEN:80,max-children=2":                     "without fork",
		"TCP-LISTEN:80,fork,max-children=-2":               "be -2 sessions",
		"TCP:localhost:80,range=127.0.0.0/8":               "not for TCP-CONNECT",
		"TCP:localhost:80,pf=ip7":                          "unknown protocol family",
		"TCP:localhost:80,connect-timeout=never":           "missing numerical value",
		"TCP:local host:80":                                "no host name",
	} {
		spec, err := Parse(arg)
		if err == nil {
			_, err = Bind(spec, BindConfig{Mode: ReadWrite})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", arg, err, want)
		}
	}
}

// Without descriptors left the listener says so, waits and goes on.
func TestTCPNoDescriptors(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "tcp")
	src := h.source("TCP-LISTEN:"+port, ReadWrite)
	h.open("TCP:127.0.0.1:"+port, ReadWrite)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	restore := func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &old) }
	defer restore()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}); err != nil {
		t.Skip(err)
	}
	got := make(chan error, 1)
	go func() {
		ep, err := src.Next(h.ctx)
		if err == nil {
			err = ep.Close()
		}
		got <- err
	}()
	h.waitLog("W accept: ")
	restore()
	if err := <-got; err != nil {
		t.Error(err)
	}
}
