package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"tunsplice/relay"
	"tunsplice/tundev"

	"golang.org/x/sys/unix"
)

// What INTERFACE receives and sends, byte by byte: the interface is a TUN or TAP device, and the test is what its wire leads to. What the test writes is received by the interface, what
// is sent over the interface the test reads.

// allOffloads of a wire: it takes all GSO packets whole.
const allOffloads = tundev.OffloadCsum | tundev.OffloadTSO4 | tundev.OffloadTSO6 | tundev.OffloadTSOECN | tundev.OffloadUSO4 | tundev.OffloadUSO6

// wire makes an interface with the given offloads and nobody else on it.
func (l *lab) wire(ns, name string, kind tundev.Kind, offloads int) *tundev.Device {
	l.t.Helper()
	l.run(on(ns, "sysctl", "-q", "-w", "net.ipv6.conf.default.disable_ipv6=1")...)
	d, err := tundev.Open(tundev.Config{Name: name, Kind: kind, NetNS: ns, VNetHdr: true, FlagsSet: unix.IFF_UP})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { d.Close() })
	if err := d.SetOffload(offloads); err != nil {
		l.t.Skipf("the kernel lacks an offload: %v", err) // USO: Linux 6.2
	}
	return d
}

// gsoKind is a kind of GSO packet.
type gsoKind struct {
	v6, udp, ecn bool
	tags         int // VLAN tags
}

func (k gsoKind) String() string {
	s := []string{"TCP", "UDP"}[index(k.udp)] + []string{" over IPv4", " over IPv6"}[index(k.v6)]
	if k.ecn {
		s += ", CWR"
	}
	if k.tags > 0 {
		s += fmt.Sprintf(", %d tags", k.tags)
	}
	return s
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// linkLen is the length of the Ethernet header, if the device has one.
func (k gsoKind) linkLen(kind tundev.Kind) int {
	if kind == tundev.TUN {
		return 0
	}
	return 14 + 4*k.tags
}

func (k gsoKind) ipLen() int { return 20 + 20*index(k.v6) }

func (k gsoKind) transportLen() int { return 20 - 12*index(k.udp) }

// cap is what a peer says that takes such packets.
func (k gsoKind) cap() relay.Caps {
	switch {
	case k.udp:
		return relay.CapUSO4 | relay.CapUSO6
	case k.v6:
		return relay.CapTSO6
	}
	return relay.CapTSO4
}

// packet makes a GSO packet with the payload given, size bytes of it in each segment.
func (k gsoKind) packet(kind tundev.Kind, payload []byte, size int) (h tundev.VNetHdr, pkt []byte) {
	if kind == tundev.TAP {
		pkt = append(pkt, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1)
		for i := range k.tags {
			pkt = append(pkt, 0x81, 0, 0x20, byte(5+i)) // priority 1
		}
		pkt = append(pkt, []byte{8, 0, 0x86, 0xdd}[2*index(k.v6):][:2]...)
	}
	l3 := len(pkt)
	proto := byte(unix.IPPROTO_TCP)
	if k.udp {
		proto = unix.IPPROTO_UDP
	}
	l4len := k.transportLen() + len(payload)
	var pseudo []byte
	if k.v6 {
		pkt = append(pkt, 0x60, 0, 0, 0, byte(l4len>>8), byte(l4len), proto, 64)
		addresses := append(net.ParseIP("fd07::1"), net.ParseIP("fd07::2")...)
		pkt, pseudo = append(pkt, addresses...), addresses
	} else {
		pkt = append(pkt, 0x45, 0, byte((20+l4len)>>8), byte(20+l4len), 0, 7, 0x40, 0, 64, proto, 0, 0, 172, 0, 0, 1, 172, 0, 0, 2)
		binary.BigEndian.PutUint16(pkt[l3+10:], tundev.Checksum(pkt[l3:]))
		pseudo = bytes.Clone(pkt[l3+12:])
	}
	pseudo = append(pseudo, 0, proto, byte(l4len>>8), byte(l4len))
	l4 := len(pkt)
	h = tundev.VNetHdr{Flags: tundev.VNetNeedsCsum, GSOSize: uint16(size), CsumStart: uint16(l4)}
	if k.udp {
		h.GSOType, h.CsumOffset = tundev.GSOUDPL4, 6
		pkt = append(pkt, 0x30, 0x39, 0x30, 0x3a, byte(l4len>>8), byte(l4len), 0, 0)
	} else {
		h.GSOType, h.CsumOffset = []uint8{tundev.GSOTCPv4, tundev.GSOTCPv6}[index(k.v6)], 16
		flags := byte(0x10) // ACK
		if k.ecn {
			flags |= 0x80
			h.GSOType |= tundev.GSOECN
		}
		pkt = append(pkt, 0x30, 0x39, 0x30, 0x3a, 0, 0, 0, 1, 0, 0, 0, 1, 5<<4, flags, 0x10, 0, 0, 0, 0, 0)
	}
	h.HdrLen = uint16(len(pkt))
	binary.BigEndian.PutUint16(pkt[l4+int(h.CsumOffset):], ^tundev.Checksum(pseudo))
	return h, append(pkt, payload...)
}

// complete says what is wrong with a packet that is to need nothing more done, and returns its payload.
func (k gsoKind) complete(kind tundev.Kind, pkt []byte) ([]byte, error) {
	l3 := k.linkLen(kind)
	l4 := l3 + k.ipLen()
	if len(pkt) < l4+k.transportLen() {
		return nil, fmt.Errorf("%d bytes", len(pkt))
	}
	for i := range k.tags * (l3 / 14) {
		if want := []byte{0x81, 0, 0x20, byte(5 + i)}; !bytes.Equal(pkt[12+4*i:][:4], want) {
			return nil, fmt.Errorf("VLAN tag %x, not %x", pkt[12+4*i:][:4], want)
		}
	}
	if !k.v6 && tundev.Checksum(pkt[l3:l4]) != 0 {
		return nil, fmt.Errorf("checksum of the IP header in %x", pkt[:l4])
	}
	pseudo := bytes.Clone(pkt[l4-8-24*index(k.v6) : l4])
	pseudo = append(pseudo, 0, []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP}[index(k.udp)], byte((len(pkt)-l4)>>8), byte(len(pkt)-l4))
	if tundev.Checksum(append(pseudo, pkt[l4:]...)) != 0 {
		return nil, fmt.Errorf("transport checksum in a packet of %d bytes", len(pkt))
	}
	return pkt[l4+k.transportLen():], nil
}

var gsoKinds = []gsoKind{{}, {v6: true}, {udp: true}, {udp: true, v6: true}, {ecn: true}, {v6: true, ecn: true}, {tags: 1}, {tags: 1, v6: true}, {tags: 1, udp: true}}

func TestInterfaceOnTheWire(t *testing.T) {
	for _, kind := range []tundev.Kind{tundev.TAP, tundev.TUN} {
		t.Run(kind.String(), func(t *testing.T) { interfaceOnTheWire(t, kind) })
	}
}

// interfaceOnTheWire joins an interface of host a to several of host b, one after the other: one that takes everything whole, and others that take nothing unfinished, behind a framing
// with offload and behind one without, where packets are split here and merged there.
func interfaceOnTheWire(t *testing.T, kind tundev.Kind) {
	l := newLab(t)
	in := l.wire(l.a, "in", kind, allOffloads)
	for _, c := range []struct {
		name, framing string
		offloads      int
	}{{"whole", "link", allOffloads}, {"pieces", "link", 0}, {"merged", "u16", 0}} {
		name, offloads := c.name, c.offloads
		out := l.wire(l.b, name, kind, offloads)
		a := l.start(on(l.a, "tunsplice", "-d", "-d", "--statistics", "TCP-LISTEN:4200,reuseaddr,framing="+c.framing, "INTERFACE:in")...)
		b := l.start(on(l.b, "tunsplice", "-d", "-d", "--statistics", "TCP:10.74.68.1:4200,retry=100,interval=0.05,framing="+c.framing, "INTERFACE:"+name)...)
		say := func() string { return "a:\n" + a.output() + "\nb:\n" + b.output() }
		up := map[string]string{"link": "packets are framed", "u16": "starting data transfer loop"}[c.framing]
		eventually(t, "a link", func() bool { return strings.Count(say(), up) == 2 }, say)
		payload := make([]byte, 10000)
		for i := range payload {
			payload[i] = byte(i * i >> 8)
		}
		sent := 0
		for _, k := range gsoKinds {
			if kind == tundev.TUN && k.tags > 0 {
				continue
			}
			size := 1500 - k.ipLen() - k.transportLen()
			writePacket(t, in, k, kind, payload, size)
			sent++
			var got []byte
			for packets := 0; len(got) < len(payload); {
				h, pkt := readPacket(t, out, say)
				if offloads != 0 {
					want, whole := k.packet(kind, payload, size)
					if h.GSOType != want.GSOType || h.GSOSize != want.GSOSize || h.CsumStart != want.CsumStart || !bytes.Equal(pkt, whole) {
						t.Fatalf("%s: %+v in front of %d bytes arrived, not %+v in front of %d\n%s", k, h, len(pkt), want, len(whole), say())
					}
					break
				}
				if packets++; h != (tundev.VNetHdr{}) || len(pkt)-k.linkLen(kind) > 1500 {
					t.Fatalf("%s: packet %d left with header %+v and %d bytes", k, packets, h, len(pkt))
				}
				data, err := k.complete(kind, pkt)
				if err != nil {
					t.Fatalf("%s: packet %d: %v", k, packets, err)
				}
				if got = append(got, data...); !bytes.HasPrefix(payload, got) {
					t.Fatalf("%s: packet %d has other data", k, packets)
				}
			}
		}
		// The MTU of the interface is less than that of the sender's: as a packet that is not GSO, it does not go.
		l.run("ip", "-n", l.b, "link", "set", name, "mtu", "1400")
		writePacket(t, in, gsoKind{}, kind, payload, 1460)
		eventually(t, "the packet is refused", func() bool { return strings.Contains(b.output(), "Message too long") }, say)
		writePacket(t, in, gsoKind{}, kind, payload, 1360)
		for size := 0; size != 1360; {
			h, pkt := readPacket(t, out, say)
			if size = int(h.GSOSize); size == 0 {
				data, err := gsoKind{}.complete(kind, pkt)
				if err != nil {
					t.Fatal(err)
				}
				size = len(data)
			}
			if size > 1360 {
				t.Fatalf("segments with %d bytes of data left over an MTU of 1400", size)
			}
		}
		a.stop(syscall.SIGTERM)
		b.ended()
		if c.framing != "link" {
			continue
		}
		if want := fmt.Sprintf("right to left: %d packets", sent+2); !strings.Contains(a.output(), want) {
			t.Errorf("host a did not send %d packets whole:\n%s", sent+2, say())
		}
		if strings.Count(say(), "packet lost") != 1 || !strings.Contains(say(), "segments of 1500 bytes, MTU 1400: Message too long") {
			t.Error(say())
		}
	}
}

func writePacket(t *testing.T, d *tundev.Device, k gsoKind, kind tundev.Kind, payload []byte, size int) {
	t.Helper()
	h, pkt := k.packet(kind, payload, size)
	b := make([]byte, tundev.VNetHdrLen, tundev.VNetHdrLen+len(pkt))
	h.Encode(b)
	if _, err := d.Write(append(b, pkt...)); err != nil {
		t.Fatalf("%s: %v", k, err)
	}
}

func readPacket(t *testing.T, d *tundev.Device, say func() string) (h tundev.VNetHdr, pkt []byte) {
	t.Helper()
	d.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, tundev.VNetHdrLen+70000)
	n, err := d.Read(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, say())
	}
	if err := h.Decode(b[:n]); err != nil {
		t.Fatal(err)
	}
	return h, b[tundev.VNetHdrLen:n]
}

// What comes while the queue is full is counted.
func TestInterfaceCountsWhatItLoses(t *testing.T) {
	l := newLab(t)
	in := l.wire(l.a, "in", tundev.TAP, 0)
	p := l.start(on(l.a, "tunsplice", "TCP-LISTEN:4200,reuseaddr,framing=link", "INTERFACE:in,rcvbuf=4096")...)
	l.dial("10.74.68.1:4200", p) // it says nothing, so packets wait
	frame := make([]byte, tundev.VNetHdrLen+1000)
	copy(frame[tundev.VNetHdrLen:], "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb6")
	drops := regexp.MustCompile(`skmem:\(.*,d[1-9][0-9]*\)`)
	eventually(t, "a packet too many", func() bool {
		if _, err := in.Write(frame); err != nil {
			t.Fatal(err)
		}
		return drops.MatchString(l.run(on(l.a, "ss", "-0", "-n", "-m")...))
	}, p.output)
	p.stop(syscall.SIGTERM)
	if !regexp.MustCompile(`in: [1-9][0-9]* packets came while the queue was full`).MatchString(p.output()) {
		t.Error(p.output())
	}
}

// A peer gets whole what it has announced, and the rest in complete segments.
func TestInterfaceKeepsToCapabilities(t *testing.T) {
	for _, caps := range []relay.Caps{
		0,
		relay.CapVNet,
		relay.CapVNet | relay.CapTSO4,
		relay.CapVNet | relay.CapTSO6 | relay.CapECN,
		relay.CapVNet | relay.CapUSO4 | relay.CapUSO6,
		relay.CapVNet | relay.CapUSO4,
	} {
		t.Run(fmt.Sprintf("%#x", uint32(caps)), func(t *testing.T) { interfaceKeepsTo(t, caps) })
	}
}

func interfaceKeepsTo(t *testing.T, caps relay.Caps) {
	l := newLab(t)
	in := l.wire(l.a, "in", tundev.TAP, allOffloads)
	p := l.start(on(l.a, "tunsplice", "-d", "-d", "TCP-LISTEN:4200,reuseaddr,framing=link", "INTERFACE:in")...)
	c := l.dial("10.74.68.1:4200", p)
	heard := shakeHands(t, c, relay.Hello{Kind: relay.DeviceTAP, MTU: 1500, Caps: caps, Software: "a test"}, p.output)
	next := func() (relay.FrameType, []byte) {
		for buf := make([]byte, 1<<16); ; {
			typ, body, used, err := (&relay.Link{}).NextFrame(heard)
			if err != nil {
				t.Fatal(err)
			}
			if heard = heard[used:]; used > 0 && typ.Data() {
				return typ, body
			}
			if used > 0 {
				continue
			}
			n, err := c.Read(buf)
			if err != nil {
				t.Fatalf("%v\n%s", err, p.output())
			}
			heard = append(heard, buf[:n]...)
		}
	}
	payload := bytes.Repeat([]byte("ninety-nine"), 3000) // 330 segments: more than a batch holds
	for _, k := range gsoKinds {
		const size = 100
		payload := payload
		if k.udp {
			payload = payload[:64*size] // UDP_MAX_SEGMENTS
		}
		if caps == 0 {
			payload = payload[:5000]
		}
		writePacket(t, in, k, tundev.TAP, payload, size)
		writePacket(t, in, k, tundev.TAP, payload, size)
		whole := caps&relay.CapVNet != 0 && caps&k.cap() == k.cap() && (!k.ecn || caps&relay.CapECN != 0)
		for range 2 {
			for got := []byte(nil); len(got) < len(payload); {
				typ, body := next()
				var h tundev.VNetHdr
				if caps&relay.CapVNet != 0 {
					if typ != relay.FramePacketVNet || h.Decode(body) != nil {
						t.Fatalf("%s: a frame of type %v", k, typ)
					}
					body = body[tundev.VNetHdrLen:]
				} else if typ != relay.FramePacket {
					t.Fatalf("%s: a frame of type %v", k, typ)
				}
				if whole {
					if want, pkt := k.packet(tundev.TAP, payload, size); h.GSOType != want.GSOType || h.GSOSize != size || !bytes.Equal(body, pkt) {
						t.Fatalf("%s: %+v in front of %d bytes", k, h, len(body))
					}
					break
				}
				data, err := k.complete(tundev.TAP, body)
				if err != nil || h != (tundev.VNetHdr{}) || len(data) > size {
					t.Fatalf("%s: header %+v, %d bytes of data: %v", k, h, len(data), err)
				}
				if got = append(got, data...); !bytes.HasPrefix(payload, got) {
					t.Fatalf("%s: other data arrived", k)
				}
			}
		}
	}
	if strings.Contains(p.output(), "packet lost") {
		t.Error(p.output())
	}
}
