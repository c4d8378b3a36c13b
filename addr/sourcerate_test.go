package addr

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSourceRateBuckets(t *testing.T) {
	now := time.Unix(1000, 0)
	s := mustBind(t, "TCP-LISTEN:1,source-rate=3/60", ReadWrite).Read.newSourceRate()
	s.now = func() time.Time { return now }
	from := func(ip string) source {
		peer := inetSockaddr(netip.MustParseAddr(ip), 1, 0)
		return sourceOf(-1, &peer)
	}
	took := func(ip string, n int) (taken int) {
		for range n {
			if s.take(from(ip)) {
				taken++
			}
		}
		return taken
	}
	if n := took("10.0.0.1", 5); n != 3 {
		t.Errorf("%d of 5", n)
	}
	if n := took("10.0.0.2", 2); n != 2 {
		t.Errorf("another source: %d of 2", n)
	}
	now = now.Add(20 * time.Second)
	if n := took("::ffff:10.0.0.1", 5); n != 1 {
		t.Errorf("after a third of the time: %d of 5", n)
	}
	now = now.Add(time.Hour)
	if n := took("10.0.0.1", 5); n != 3 {
		t.Errorf("after an hour: %d of 5", n)
	}
	if n := took("fd00::1", 2) + took("fd00::ffff:1", 2) + took("fd00:0:0:1::1", 2); n != 3+2 {
		t.Errorf("a /64 and another: %d of 6", n)
	}
	for i := range 3 * maxSources {
		took("10."+strconv.Itoa(i>>16)+"."+strconv.Itoa(i>>8&255)+"."+strconv.Itoa(i&255), 1)
	}
	if len(s.sources) != maxSources || s.recent.Len() != maxSources {
		t.Errorf("%d sources", len(s.sources))
	}
	if s.total == 0 {
		t.Error("nothing was counted")
	}
}

func TestSourceRate(t *testing.T) {
	path := tempSocket(t)
	port := freePort(t, "tcp")
	for _, v := range []struct{ listen, network, address string }{
		{"TCP-LISTEN:" + port, "tcp", "127.0.0.1:" + port},
		{"UNIX-LISTEN:" + path, "unix", path},
	} {
		h := newHost(t)
		src := h.source(v.listen+",fork,backlog=50,source-rate=2/1000", ReadWrite)
		var conns []net.Conn
		for range 20 {
			c, err := net.Dial(v.network, v.address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conns = append(conns, c)
		}
		for range 2 {
			ep := h.next(src)
			defer ep.Close()
		}
		got := accepting(h, src)
		for _, c := range conns[2:] {
			ended(t, c)
		}
		src.Close()
		if <-got != nil {
			t.Error("a third one was let in")
		}
		h.waitLog("due to source-rate option")
		h.mu.Lock()
		refusals := 0
		for _, l := range h.lines {
			if strings.Contains(l, "due to source-rate option") {
				refusals++
			}
		}
		h.mu.Unlock()
		if refusals > 3 {
			t.Errorf("%d lines about it", refusals)
		}
	}
	var anonymous sockaddr
	anonymous.setFamily(unix.AF_VSOCK, 16)
	if sourceOf(-1, &anonymous) != (source{}) {
		t.Error("a source without address")
	}
}

func TestSourceRateMistakes(t *testing.T) {
	for _, text := range []string{"0", "x", "5/0", "5/", "5/1e99", "-1/5", "5/x"} {
		if _, err := kindRate.parse(text, true); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	for text, want := range map[string]string{"5": "5/1", "10/60": "10/60", "3/0.5": "3/0.5"} {
		if r, err := kindRate.parse(text, true); err != nil || r.String() != want {
			t.Errorf("%q: %s, %v", text, r, err)
		}
	}
}
