package relay

import (
	"strings"
	"testing"
)

// First frames and packets such as honest devices send.
var (
	honestFrames = map[string]string{
		"ARP request": "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000002",
		"ARP padded":  "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000002 000000000000000000000000000000000000",
		"DHCP": "ffffffffffff 525400123456 0800 4500 0148 0000 0000 40 11 79a6 00000000 ffffffff 0044 0043 0134 0000" +
			"01 01 06 00 3903f326 0000 0000 00000000 00000000 00000000 00000000 525400123456",
		"IPv6 router solicitation": "333300000002 525400123456 86dd 60000000 0010 3a ff fe80000000000000505400fffe123456 ff020000000000000000000000000002 8500 7bb8 00000000 0101 525400123456",
		"MLDv2":                    "333300000016 525400123456 86dd 60000000 0024 00 01 00000000000000000000000000000000 ff020000000000000000000000000016 3a00 0502 0000 0100 8f00 2b02 0000 0001 04000000 ff0200000000000000000001ff123456",
		"LLDP":                     "0180c200000e 525400123456 88cc 0207 04 525400123456 0403 05 6531 0602 0078 0000",
		"STP":                      "0180c2000000 020000000001 0026 424203 0000 00 00 00 8000020000000001 00000000 8000020000000001 8001 0000 1400 0200 0f00",
		"PVST+":                    "01000ccccccd 020000000001 0032 aaaa03 00000c 010b 0000 02 02 3c",
		"CDP":                      "01000ccccccc 020000000001 0100 aaaa03 00000c 2000 02b4",
		"IS-IS":                    "0180c2000014 020000000001 05dc fefe03 83 1b 01 00 0f",
		"VLAN and ARP":             "ffffffffffff 020000000001 8100 0064 0806 0001 0800 06 04 0001 020000000001",
		"QinQ and IPv6":            "333300000001 020000000001 88a8 0064 8100 0065 86dd 60000000 0010 3a ff",
		"to a MAC like a length":   "002a00000002 020000000001 0800 4500 0054 0000 4000 40 01 26a7 0a000001 0a000002",
		"to a MAC like TLS":        "160301000502 020000000001 0806 0001 0800 06 04 0001",
		"to a MAC like SLIP":       "c0c045000054 020000000001 0806 0001 0800 06 04 0001",
		"LACP":                     "0180c2000002 020000000001 8809 01 01 01 14",
		"802.1X":                   "0180c2000003 020000000001 888e 01 01 0000",
		"pause":                    "0180c2000001 020000000001 8808 0001 ffff 00000000",
		"unknown EtherType":        "020000000002 020000000001 fe00 0102030405060708090a0b0c0d0e0f",
		"header alone":             "020000000002 020000000001 0800",
		"a hello":                  "0180c200000e a2a2a3a4a5a6 88b5 89545350 4c494345 0100",
	}
	honestPackets = map[string]string{
		"ping":                     "4500 0054 0000 4000 40 01 26a7 0a000001 0a000002 0800",
		"DHCP":                     "4500 0148 0000 0000 40 11 79a6 00000000 ffffffff 0044 0043 0134",
		"router alert (IGMP)":      "46c0 0028 0000 4000 01 02 41fa 0a000001 e0000016 94040000 2200 f9ff 0000 0001",
		"IPv6 router solicitation": "60000000 0008 3a ff fe80000000000000505400fffe123456 ff020000000000000000000000000002 8500",
		"MLDv2":                    "60000000 0024 00 01 00000000000000000000000000000000 ff020000000000000000000000000016 3a00 0502 0000 0100",
		"IPv6 of a rare protocol":  "60000000 0008 fd 40 fd000000000000000000000000000001 fd000000000000000000000000000002 00",
	}
)

func TestForeignLeavesHonestPeersAlone(t *testing.T) {
	for name, s := range honestFrames {
		if got := Foreign(unhex(t, s), DeviceTAP); got != "" {
			t.Errorf("tap, %s: %q", name, got)
		}
	}
	for name, s := range honestPackets {
		if got := Foreign(unhex(t, s), DeviceTUN); got != "" {
			t.Errorf("tun, %s: %q", name, got)
		}
	}
	headAlone := append([]byte("00"), unhex(t, "303030303030 303030303030 0800")...) // ends where the length would be
	for _, b := range [][]byte{nil, {0}, {0x45}, {1, 0x80}, make([]byte, 64), headAlone} {
		for _, kind := range []DeviceKind{0, DeviceTUN, DeviceTAP} {
			if got := Foreign(b, kind); got != "" {
				t.Errorf("% x on %s: %q", b, kind, got)
			}
		}
	}
}

func TestForeignNames(t *testing.T) {
	tls := "16 0301 0200 01 0001fc 0303 6a1b2c3d 4e5f6071 8293a4b5"
	ping, mld := unhex(t, honestPackets["ping"]), unhex(t, honestPackets["MLDv2"])
	arp, dhcp := unhex(t, honestFrames["ARP request"]), unhex(t, honestFrames["DHCP"])
	whole := ip4(60)
	for _, c := range []struct {
		first []byte
		kind  DeviceKind
		want  string
	}{
		{[]byte("GET / HTTP/1.1\r\nHost: a\r\n"), DeviceTUN, "HTTP"},
		{[]byte("HTTP/1.0 400 Bad Request\r\n"), DeviceTAP, "HTTP"},
		{[]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 0, "HTTP"},
		{[]byte("SSH-2.0-OpenSSH_9.2p1\r\n"), DeviceTAP, "SSH"},
		{[]byte("220 mail.example.org ESMTP\r\n"), DeviceTAP, "SMTP or FTP"},
		{[]byte("+OK ready\r\n"), DeviceTAP, "POP3"},
		{[]byte("* OK IMAP4rev1\r\n"), DeviceTAP, "IMAP"},
		{unhex(t, tls), DeviceTUN, "TLS"},
		{unhex(t, tls), DeviceTAP, "TLS"},
		{unhex(t, "15 0303 0002 0228"), DeviceTAP, "TLS"},
		{unhex(t, "fffd18 fffd20 fffd23 fffd27"), DeviceTAP, "TELNET"},
		{unhex(t, "d4c3b2a1 0200 0400 00000000"), DeviceTAP, "pcap"},
		{unhex(t, "a1b23c4d 0002 0004 00000000"), DeviceTUN, "pcap"},
		{unhex(t, "0a0d0d0a 1c000000 4d3c2b1a 0100"), DeviceTUN, "pcapng"},
		{append(unhex(t, "0000 0800"), ping...), DeviceTUN, "IP packets behind packet information"},
		{append(unhex(t, "0000 86dd"), mld...), DeviceTUN, "IP packets behind packet information"},
		{append(unhex(t, "0000 0806"), arp...), DeviceTAP, "Ethernet frames behind packet information"},
		{ping, DeviceTAP, "bare IP packets"},
		{mld, DeviceTAP, "bare IP packets"},
		{arp, DeviceTUN, "bare Ethernet frames"},
		{mustAppend(t, QEMU(14), nil, arp), DeviceTAP, "framing qemu (Ethernet frames)"},
		{mustAppend(t, U16(0), nil, arp), DeviceTAP, "framing u16 (Ethernet frames)"},
		{append(unhex(t, "0000 0156"), dhcp...), DeviceTAP, "framing qemu (Ethernet frames)"},
		{append(unhex(t, "0156"), dhcp...), 0, "framing u16 (Ethernet frames)"},
		{mustAppend(t, QEMU(1), nil, whole), DeviceTUN, "framing qemu (IP packets)"},
		{mustAppend(t, U16(0), nil, whole), DeviceTUN, "framing u16 (IP packets)"},
		{mustAppend(t, NewSLIP(0), nil, whole), DeviceTUN, "framing slip (IP packets)"},
		{mustAppend(t, NewSLIP(0), nil, arp), DeviceTAP, "framing slip (Ethernet frames)"},
		{linkHello(t, DeviceTAP), DeviceTUN, "the link protocol"},
		{linkHello(t, DeviceTUN), 0, "the link protocol"},
		{[]byte("bash: line 1: tunsplice: command not found\n"), DeviceTAP, `text ("bash: line 1: tunsplice: command not found")`},
		{[]byte("Password: \n"), DeviceTUN, `text ("Password: ")`},
	} {
		if got := Foreign(c.first, c.kind); !strings.HasPrefix(got, c.want) {
			t.Errorf("% x on %s: %q, want %q", c.first[:min(len(c.first), 12)], c.kind, got, c.want)
		}
	}
	if got := Foreign([]byte("text with \x1b[2J in it and more\n"), DeviceTUN); got != "" {
		t.Errorf("control bytes came through: %q", got)
	}
}

// linkHello returns the hello of a device.
func linkHello(t *testing.T, kind DeviceKind) []byte {
	t.Helper()
	p, err := (&Hello{Kind: kind, MTU: 1500, Nonce: NewNonce()}).AppendPacket(nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
