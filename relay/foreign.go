package relay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// The first message of an end that has a key (docs/security.md) begins with this. To an end that has none it says what is missing.
const (
	keyMagic  = "\x89TSKEY"
	keySpeech = "tunsplice with a key, which is missing here (psk=FILE)"
)

// foreignTexts are beginnings that name a protocol by themselves. Some would pass for
// an IPv4 header by their first byte ("GET " has 0x47: version 4, 28 bytes), so they are
// looked for before anything else.
var foreignTexts = []struct{ prefix, name string }{
	{keyMagic, keySpeech},
	{"GET /", "HTTP"}, {"GET http", "HTTP"}, {"POST /", "HTTP"}, {"HEAD /", "HTTP"},
	{"PUT /", "HTTP"}, {"DELETE /", "HTTP"}, {"OPTIONS ", "HTTP"}, {"CONNECT ", "HTTP"},
	{"PRI * HTTP/2", "HTTP"}, {"HTTP/", "HTTP"},
	{"<!DOCTYPE", "HTML"}, {"<!doctype", "HTML"}, {"<html", "HTML"}, {"<HTML", "HTML"},
	{"SSH-", "SSH"},
	{"220 ", "SMTP or FTP"}, {"220-", "SMTP or FTP"}, {"EHLO ", "SMTP"}, {"HELO ", "SMTP"},
	{"+OK ", "POP3"}, {"* OK ", "IMAP"},
	{"RFB 00", "VNC (RFB)"},
	{"VTUN server", "vtun"},
	{"PROXY TCP", "the PROXY protocol"}, {"PROXY UNKNOWN", "the PROXY protocol"},
	{"\r\n\r\n\x00\r\nQUIT\n", "the PROXY protocol"},
}

// Foreign names what the first bytes of a peer look like, in words that go on after
// "the peer speaks": "HTTP", "framing qemu (Ethernet frames)". It returns "" for what it
// does not know, and for what is honest on a device of the given kind: an
// Ethernet frame on a TAP, an IP packet on a TUN. With kind 0 neither is honest, as where a
// framing was to come.
//
// It is a guess for an error message and never decides what is done with the bytes.
// The more bytes there are, the surer it is; 64 are plenty. The text may quote the
// peer, made printable.
func Foreign(first []byte, kind DeviceKind) string {
	if name := foreignByText(first); name != "" {
		return name
	}
	if _, n, _, _ := FindHello(first); n > 0 {
		return "the link protocol (framing auto or link)"
	}
	if (kind == DeviceTAP && looksEthernet(first)) || (kind == DeviceTUN && looksIP(first)) {
		return ""
	}
	for _, guess := range []func([]byte) string{foreignBinary, foreignPI, foreignFraming} {
		if name := guess(first); name != "" {
			return name
		}
	}
	switch {
	case looksIP(first):
		return "bare IP packets, as from a TUN device without framing"
	case looksEthernet(first):
		return "bare Ethernet frames, as from a TAP device without framing"
	}
	return foreignText(first)
}

// foreignProtocol names a protocol that carries no packets, whatever the framing: text that some lengths would pass for, or TLS and the like.
func foreignProtocol(first []byte) string {
	if name := foreignByText(first); name != "" {
		return name
	}
	return foreignBinary(first)
}

// doubt warns of a peer whose first bytes look like another framing or device than ours: some of their lengths pass for ours, and wait for packets that never end.
func (d *direction) doubt(fr Framer, first []byte) {
	if fr == nil || !d.dst.IsDevice() {
		return
	}
	what := "Ethernet frames"
	if d.dst.Traffic == TUN {
		what = "IP packets"
	}
	ours := "framing " + fr.Name() + " (" + what + ")"
	speaks := Foreign(first, 0)
	// The END in front of a packet is good custom in slip, not a must: a bare packet may be its first.
	if speaks == "" || speaks == ours || d.src.Framing == FramingSlip && strings.HasPrefix(speaks, "bare ") {
		return
	}
	d.s.cfg.Log.Warnf("%s: the peer seems to speak %s, not %s: the same is needed at both ends", d.src.Label, speaks, ours)
}

// foreignByText knows protocols by a beginning that names them.
func foreignByText(first []byte) string {
	for _, t := range foreignTexts {
		if bytes.HasPrefix(first, []byte(t.prefix)) {
			return t.name
		}
	}
	return ""
}

// foreignBinary knows protocols that begin with other than text.
func foreignBinary(b []byte) string {
	if looksTLS(b) {
		return "TLS"
	}
	if len(b) >= 3 && b[0] == 0xff && b[1] >= 0xfb && b[1] <= 0xfe {
		return "TELNET" // IAC WILL, WONT, DO, DONT (RFC 854)
	}
	if len(b) >= 8 {
		// The magic of microseconds and of nanoseconds, then version 2.4.
		for _, order := range []binary.ByteOrder{binary.BigEndian, binary.LittleEndian} {
			magic := order.Uint32(b)
			if (magic == 0xa1b2c3d4 || magic == 0xa1b23c4d) && order.Uint16(b[4:]) == 2 {
				return "pcap"
			}
		}
	}
	if len(b) >= 12 && binary.BigEndian.Uint32(b) == 0x0a0d0d0a {
		if m := binary.BigEndian.Uint32(b[8:]); m == 0x1a2b3c4d || m == 0x4d3c2b1a {
			return "pcapng"
		}
	}
	return ""
}

// looksTLS knows the record of a client's or server's hello, or of an alert (RFC 8446, 5.1).
func looksTLS(b []byte) bool {
	if len(b) < 6 || b[1] != 3 || b[2] > 4 {
		return false
	}
	n := int(binary.BigEndian.Uint16(b[3:]))
	switch b[0] {
	case 21:
		return n == 2 && (b[5] == 1 || b[5] == 2) // alert: warning or fatal
	case 22:
		if n < 4 || n > 1<<14 || (b[5] != 1 && b[5] != 2) {
			return false
		}
		// The handshake message begins the record and is mostly alone in it; the
		// high byte of its 24 bit length is 0.
		return len(b) < 9 || b[6] == 0
	}
	return false
}

// foreignPI knows packets of a device that puts packet information in front.
func foreignPI(b []byte) string {
	if len(b) < piLen || b[0] != 0 || b[1] != 0 {
		return ""
	}
	proto, rest := binary.BigEndian.Uint16(b[2:]), b[piLen:]
	switch {
	case proto == etherIPv4 && looksIP(rest) && rest[0]>>4 == 4, proto == etherIPv6 && looksIP(rest) && rest[0]>>4 == 6:
		return "IP packets behind packet information, as from a TUN device without iff-no-pi"
	case looksEthernet(rest) && binary.BigEndian.Uint16(rest[12:]) == proto:
		return "Ethernet frames behind packet information, as from a TAP device without iff-no-pi"
	}
	return ""
}

// foreignFraming knows the framings, by a length that fits the packet behind it.
func foreignFraming(b []byte) string {
	if len(b) >= 4 {
		n := binary.BigEndian.Uint32(b)
		if n <= MaxPacket {
			if what := framed(int(n), b[4:]); what != "" {
				return "framing qemu (" + what + ")"
			}
		}
	}
	if len(b) >= 2 {
		if what := framed(int(binary.BigEndian.Uint16(b)), b[2:]); what != "" {
			return "framing u16 (" + what + ")"
		}
	}
	if len(b) > 0 && b[0] == slipEnd {
		rest := b
		for len(rest) > 0 && rest[0] == slipEnd {
			rest = rest[1:]
		}
		switch {
		case looksIP(rest):
			return "framing slip (IP packets)"
		case looksEthernet(rest):
			return "framing slip (Ethernet frames)"
		}
	}
	return ""
}

// framed says what b is if it begins with one whole packet of n bytes; b may end
// before that.
func framed(n int, b []byte) string {
	if looksIP(b) {
		if total, why := ipLength(b); why == "" && total == n {
			return "IP packets"
		}
	}
	if n >= MinEthernet && looksEthernet(b) {
		// What is within the frame must not be longer; it may be shorter,
		// by padding. Without it there is too little to go by.
		typ, body := etherPayload(b)
		if len(body) < 4 {
			return ""
		}
		if typ == etherIPv4 || typ == etherIPv6 {
			if total, _ := ipLength(body); total > n-MinEthernet {
				return ""
			}
		}
		return "Ethernet frames"
	}
	return ""
}

// looksIP says whether b begins with a believable header of IPv4 or IPv6.
func looksIP(b []byte) bool {
	if len(b) < ipv4Len {
		return false
	}
	n, why := ipLength(b)
	if why != "" {
		return false
	}
	if b[0]>>4 == 4 {
		ihl := int(b[0]&15) * 4
		return n >= ihl && (len(b) < ihl || ipv4Checksum(b[:ihl]) == 0)
	}
	if len(b) < 40 || b[8] == 0xff { // no packet comes from a multicast address
		return false
	}
	switch b[6] {
	// Hop-by-hop, ICMP of IPv4 in error, IGMP, IPv4, TCP, UDP, DCCP, IPv6, routing,
	// fragment, GRE, ESP, AH, ICMPv6, none, destination options, OSPF, PIM, SCTP,
	// UDP-Lite.
	case 0, 1, 2, 4, 6, 17, 33, 41, 43, 44, 47, 50, 51, 58, 59, 60, 89, 103, 132, 136:
		return true
	}
	return false
}

// looksEthernet says whether b begins with a believable frame: from one station, and of
// a type that is in use with contents that go with it.
func looksEthernet(b []byte) bool {
	if len(b) < MinEthernet || b[6]&1 != 0 {
		return false
	}
	typ, body := etherPayload(b)
	switch typ {
	case etherIPv4:
		return len(body) == 0 || body[0]>>4 == 4 && body[0]&15 >= 5
	case etherIPv6:
		return len(body) == 0 || body[0]>>4 == 6
	case 0x0806: // ARP for Ethernet and IPv4
		return len(body) < 6 || bytes.Equal(body[:6], []byte{0, 1, 8, 0, 6, 4})
	case 0x8100, 0x88a8: // more tags than etherPayload takes off
		return false
	case 0x0842, 0x8809, 0x8847, 0x8848, 0x8863, 0x8864, 0x888e, 0x8892, 0x8899,
		0x88b5, 0x88b6, 0x88cc, 0x88e5, 0x88e7, 0x88f7, 0x8902, 0x9000, 0x9003:
		// Wake-on-LAN, slow protocols, MPLS, PPPoE, 802.1X, PROFINET, Realtek's, local
		// experiments, LLDP, MACsec, PBB, PTP, CFM, loopback, Arista's and Cisco's.
		return true
	}
	// 802.3: a length, then an LLC header (IEEE 802.2) of one of the protocols
	// that are left: STP, SNAP, IS-IS, NetBIOS, IPX.
	if typ > 1500 || typ < 3 || len(body) < 3 {
		return false
	}
	switch body[0] {
	case 0x42, 0xaa, 0xfe, 0xf0, 0xe0:
		return body[0] == body[1] && body[2] == 3
	}
	return false
}

// etherPayload returns the EtherType or length of the frame b, of MinEthernet
// bytes or more, and what is behind it, with up to two VLAN tags taken off.
func etherPayload(b []byte) (typ uint16, body []byte) {
	typ, body = binary.BigEndian.Uint16(b[12:]), b[MinEthernet:]
	for i := 0; i < 2 && (typ == 0x8100 || typ == 0x88a8) && len(body) >= 4; i++ {
		typ, body = binary.BigEndian.Uint16(body[2:]), body[4:]
	}
	return typ, body
}

// foreignText quotes a line of text, such as a program's complaint that reached the
// stream in place of packets.
func foreignText(b []byte) string {
	const enough, most = 16, 60
	line := b
	if i := bytes.IndexAny(b, "\r\n"); i >= 0 {
		line = b[:i]
	}
	cut := len(line) > most
	if cut {
		line = line[:most]
	}
	for _, c := range line {
		if (c < ' ' && c != '\t') || c >= 0x7f {
			return ""
		}
	}
	// A short line must end as a line.
	if len(line) < enough && (len(line) < 8 || len(line) == len(b)) {
		return ""
	}
	if cut {
		return fmt.Sprintf("text (%q ...)", line)
	}
	return fmt.Sprintf("text (%q)", line)
}
