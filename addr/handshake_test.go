package addr

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
)

// shakingListener opens a TCP-LISTEN address whose peers have to say "y".
func shakingListener(h *host, options string) (Source, string) {
	h.t.Helper()
	b := mustBind(h.t, "TCP-LISTEN:0,bind=127.0.0.1"+options, ReadWrite).Read
	src, err := b.Type.Open(h.ctx, b, h.env)
	if err != nil {
		h.t.Fatal(err)
	}
	local := src.(*listener).localAddress()
	src = b.withHandshake(h.env, src.(*listener), func(_ context.Context, ep *relay.Endpoint) (*relay.Endpoint, error) {
		var p [1]byte
		if _, err := io.ReadFull(ep.R, p[:]); err != nil {
			return nil, err
		}
		if p[0] != 'y' {
			return nil, errors.New("wrong word")
		}
		return ep, nil
	})
	return src, local.text()
}

func dialTest(t *testing.T, address, say string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, say); err != nil {
		t.Fatal(err)
	}
	return c
}

// ended waits until the other side has closed a connection.
func ended(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(testTimeout))
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || strings.Contains(err.Error(), "timeout") {
		t.Fatalf("still open: %d %v", n, err)
	}
}

func TestHandshakeOneOfMany(t *testing.T) {
	h := newHost(t)
	src, address := shakingListener(h, "")
	silent := dialTest(t, address, "")
	wrong := dialTest(t, address, "n")
	got := make(chan error, 1)
	var ep *relay.Endpoint
	go func() {
		var err error
		ep, err = src.Next(h.ctx)
		got <- err
	}()
	h.waitLog("peer refused: wrong word")
	dialTest(t, address, "yes")
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	ended(t, silent)
	ended(t, wrong)
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("the port is still open")
	}
	var p [2]byte
	if _, err := io.ReadFull(ep.R, p[:]); err != nil || string(p[:]) != "es" {
		t.Errorf("%q %v", p, err)
	}
	ep.Close()
	if _, err := src.Next(h.ctx); err != io.EOF {
		t.Error(err)
	}
	src.Close()
}

func TestHandshakeCrowd(t *testing.T) {
	h := newHost(t)
	src, address := shakingListener(h, ",fork,backlog=2000,max-children=1")
	var silent []net.Conn
	got := make(chan error, 1)
	var ep *relay.Endpoint
	go func() {
		var err error
		ep, err = src.Next(h.ctx)
		got <- err
	}()
	for range 2 * maxHandshakes {
		silent = append(silent, dialTest(t, address, ""))
	}
	ended(t, silent[0])
	dialTest(t, address, "y")
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	// With max-children=1 the second one waits, welcome or not.
	dialTest(t, address, "y")
	ctx, cancel := context.WithTimeout(h.ctx, 50*time.Millisecond)
	if _, err := src.Next(ctx); err != context.DeadlineExceeded {
		t.Error(err)
	}
	cancel()
	ep.Close()
	if ep, err := src.Next(h.ctx); err != nil {
		t.Error(err)
	} else {
		ep.Close()
	}
	src.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	refusals := 0
	for _, l := range h.lines {
		if strings.Contains(l, "peer refused") {
			refusals++
		}
	}
	if refusals == 0 || refusals > 3 {
		t.Errorf("%d lines about %d peers", refusals, maxHandshakes)
	}
}

func TestHandshakeTimeouts(t *testing.T) {
	h := newHost(t)
	src, address := shakingListener(h, ",handshake-timeout=0.05,accept-timeout=0.3")
	silent := dialTest(t, address, "")
	if _, err := src.Next(h.ctx); err != ErrAcceptTimeout {
		t.Error(err)
	}
	ended(t, silent)
	h.waitLog(fmt.Sprintf("peer refused: %s", handshakeTimeout(50*time.Millisecond)))
	src.Close()
}
