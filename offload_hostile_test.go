package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"tunsplice/relay"
	"tunsplice/tundev"
)

// dial connects from host b to a program on host a, once it listens. The connection lasts for 20 s, or the test.
func (l *lab) dial(to string, p *background) (c net.Conn) {
	l.t.Helper()
	eventually(l.t, "the program listens", func() bool {
		return tundev.InNetNS(l.b, func() (err error) { c, err = net.Dial("tcp", to); return err }) == nil
	}, p.output)
	l.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// shakeHands does a peer's part of the hellos, with one that says the given. It returns what was read behind the last of them: frames.
func shakeHands(t *testing.T, c net.Conn, hello relay.Hello, say func() string) []byte {
	t.Helper()
	hello.Nonce = relay.NewNonce()
	send := func() {
		b, err := hello.AppendPacket(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	send()
	var heard []byte
	for buf := make([]byte, 2048); ; {
		h, n, _, err := relay.FindHello(heard)
		if err != nil {
			t.Fatal(err)
		}
		heard = heard[n:]
		switch {
		case n > 0 && h.Switch:
			return heard
		case n > 0 && h.Acks(hello.Nonce) && !hello.Ack:
			hello.Ack, hello.Switch, hello.Peer = true, true, h.Nonce
			send()
		case n == 0:
			n, err := c.Read(buf)
			if err != nil {
				t.Fatalf("%v\n%s", err, say())
			}
			heard = append(heard, buf[:n]...)
		}
	}
}

// A peer that speaks the link protocol and lies in virtio-net headers.
func TestHostileVNetHeaders(t *testing.T) {
	const tun = "TUN:172.0.0.1/24,up,tun-name=ts0"
	t.Run("plain", func(t *testing.T) { hostileVNetHeaders(t, nil, tun+",iff-no-pi") })
	t.Run("packet information", func(t *testing.T) { hostileVNetHeaders(t, []byte{0, 0, 8, 0}, tun) })
	t.Run("packet information from the peer", func(t *testing.T) { hostileVNetHeaders(t, []byte{0, 0, 8, 0}, tun+",iff-no-pi") })
	t.Run("packet information here", func(t *testing.T) { hostileVNetHeaders(t, nil, tun) })
	t.Run("interface", func(t *testing.T) { hostileVNetHeaders(t, nil, "INTERFACE:ts0") })
}

// hostileVNetHeaders has the liar put packet information in front of its packets. The device is ts0, made here if it is an INTERFACE.
func hostileVNetHeaders(t *testing.T, pi []byte, device string) {
	l := newLab(t)
	arrived := func(c counters) count { return c.RX }
	onWire := strings.HasPrefix(device, "INTERFACE")
	if onWire {
		arrived = func(c counters) count { return c.TX }
		wire := l.wire(l.a, "ts0", tundev.TUN, allOffloads)
		go io.Copy(io.Discard, wire) // a packet counts when it is read; ends with the device
	}
	p := l.start(on(l.a, "tunsplice", "-d", "-d", "--statistics", "TCP-LISTEN:4200,reuseaddr,framing=link", device)...)
	c := l.dial("10.74.68.1:4200", p)

	shakeHands(t, c, relay.Hello{Kind: relay.DeviceTUN, PI: pi != nil, MTU: 1500, Caps: relay.CapVNet | relay.CapTSO4, Software: "a liar"}, p.output)
	go io.Copy(io.Discard, c) // ends with the connection

	const tcpHeader = 20
	packet := func(payload int) []byte { // TCP over IPv4, the checksum unfinished and never looked at
		b := make([]byte, 20+tcpHeader+payload)
		b[0], b[8], b[9] = 0x45, 64, 6
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		copy(b[12:], []byte{172, 0, 0, 2, 172, 0, 0, 1})
		b[20+12], b[20+13] = tcpHeader/4<<4, 0x10
		binary.BigEndian.PutUint16(b[10:], tundev.Checksum(b[:20]))
		return b
	}
	good := tundev.VNetHdr{Flags: tundev.VNetNeedsCsum, GSOType: tundev.GSOTCPv4, HdrLen: 40, GSOSize: 1000, CsumStart: 20, CsumOffset: 16}
	hostile := map[string]func(h *tundev.VNetHdr, b []byte) []byte{
		"gso size 0":               func(h *tundev.VNetHdr, b []byte) []byte { h.GSOSize = 0; return b },
		"gso size by fragments":    func(h *tundev.VNetHdr, b []byte) []byte { h.GSOSize = 0xffff; return b },
		"unknown gso type":         func(h *tundev.VNetHdr, b []byte) []byte { h.GSOType = 77; return b },
		"gso type of IPv6":         func(h *tundev.VNetHdr, b []byte) []byte { h.GSOType = tundev.GSOTCPv6; return b },
		"unknown flag":             func(h *tundev.VNetHdr, b []byte) []byte { h.Flags |= 0x40; return b },
		"no checksum wanted":       func(h *tundev.VNetHdr, b []byte) []byte { h.Flags = 0; return b },
		"checksum offset outside":  func(h *tundev.VNetHdr, b []byte) []byte { h.CsumOffset = 0xfff0; return b },
		"checksum start outside":   func(h *tundev.VNetHdr, b []byte) []byte { h.CsumStart = 60000; return b },
		"checksum start elsewhere": func(h *tundev.VNetHdr, b []byte) []byte { h.CsumStart = 3; return b },
		"header beyond the packet": func(h *tundev.VNetHdr, b []byte) []byte { return b[:30] },
		"TCP header beyond":        func(h *tundev.VNetHdr, b []byte) []byte { b[32] = 0xf0; return b[:44] },
		"IP header beyond":         func(h *tundev.VNetHdr, b []byte) []byte { b[0] = 0x4f; return b },
		"length of another":        func(h *tundev.VNetHdr, b []byte) []byte { return append(b, 1, 2, 3) },
		"one byte":                 func(h *tundev.VNetHdr, b []byte) []byte { return b[:1] },
	}
	if onWire {
		hostile["segments over the MTU"] = func(h *tundev.VNetHdr, b []byte) []byte { h.GSOSize = 1461; return b }
	}
	before := arrived(l.counters(l.a, "ts0"))
	send := func(h tundev.VNetHdr, b []byte) {
		frame := make([]byte, tundev.VNetHdrLen)
		h.Encode(frame)
		frame = append(frame, pi...)
		frame, err := (&relay.Link{Send: relay.FramePacketVNet}).Append(nil, append(frame, b...))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	for _, lie := range hostile {
		h, b := good, packet(3000)
		b = lie(&h, b)
		send(h, b)
	}
	send(good, packet(3000))
	eventually(t, "the honest packet arrives", func() bool { return arrived(l.counters(l.a, "ts0")).Packets > before.Packets }, p.output)
	after := arrived(l.counters(l.a, "ts0"))
	if got := after.Packets - before.Packets; got != 1 || after.Errors+after.Dropped > before.Errors+before.Dropped {
		t.Errorf("the kernel saw %d packets, errors and drops: %+v", got, after)
	}
	p.stop(os.Interrupt)
	if want := fmt.Sprintf("%d lost", len(hostile)); !strings.Contains(p.output(), want) {
		t.Errorf("statistics do not say %q", want)
	}
	if n := strings.Count(p.output(), "packet lost"); n == 0 || n > 4 {
		t.Errorf("%d lines about lost packets", n)
	}
	if t.Failed() {
		t.Log(p.output())
	}
}
