package addr

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// inetBytes is the address of 127.0.0.1 in socat's data language.
func inetBytes(t *testing.T, port string) string {
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("x%04x7f0000010000000000000000", n)
}

func TestSocketGeneric(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "tcp")
	src := h.source("SOCKET-LISTEN:2:6:"+inetBytes(t, port), ReadWrite)
	client := h.open("SOCKET-CONNECT:2:6:"+inetBytes(t, port), ReadWrite)
	server := h.next(src)
	writeText(t, client.W, "generic")
	client.W.CloseWrite()
	if got := readAll(t, server.R); got != "generic" {
		t.Errorf("read %q", got)
	}

	port = freePort(t, "udp")
	from := h.source("SOCKET-RECVFROM:2:2:17:"+inetBytes(t, port), ReadWrite)
	ask := h.open("SOCKET-SENDTO:2:2:17:"+inetBytes(t, port)+",bind="+inetBytes(t, freePort(t, "udp")), ReadWrite)
	writeText(t, ask.W, "question")
	answer := h.next(from)
	if got := readAll(t, answer.R); got != "question" {
		t.Errorf("read %q", got)
	}
	writeText(t, answer.W, "answer")
	if got := readOne(t, ask.R); got != "answer" {
		t.Errorf("read %q", got)
	}

	path := tempSocket(t)
	recv := h.open("SOCKET-RECV:1:2:0:"+fmt.Sprintf("x%x", path), Read)
	send := h.open("DGRAM:1:2:0:"+fmt.Sprintf("x%x", path), ReadWrite)
	writeText(t, send.W, "datagram")
	if got := readOne(t, recv.R); got != "datagram" {
		t.Errorf("read %q", got)
	}
}

// A range of generic socket addresses is two texts of the data language: bytes behind the family, and which of their bits count.
func TestSocketGenericRange(t *testing.T) {
	h := newHost(t)
	port := freePort(t, "udp")
	recv := h.open("SOCKET-RECV:2:2:17:"+inetBytes(t, port)+",range=x0000x7f000000:x0000xff0000ff", Read) // a mask with a hole: 127.*.*.0
	for _, from := range []string{"127.0.0.1", "127.1.2.0"} {
		send := h.open("UDP4:127.0.0.1:"+port+",bind="+from, Write)
		writeText(t, send.W, from)
	}
	if got := readOne(t, recv.R); got != "127.1.2.0" {
		t.Errorf("took a datagram from %s", got)
	}
}

func TestSocketGenericMistakes(t *testing.T) {
	for arg, want := range map[string]string{
		"SOCKET-CONNECT:x:6:x00":                                              `domain "x"`,
		"SOCKET-CONNECT:2:-1:x00":                                             "out of range",
		"SOCKET-CONNECT:2:6:hello":                                            `address "hello"`,
		"SOCKET-CONNECT:2:6:x" + strings.Repeat("00", 200):                    "200 bytes",
		"SOCKET-LISTEN:2:6:x00,bind=x00":                                      "binds to its parameter",
		"SOCKET-DATAGRAM:2:2:17:x00,range=x0000:xff":                          "no range of addresses",
		"TCP-LISTEN:80,range=x0000:xff00":                                     "for the SOCKET-* types",
		"SOCKET-SENDTO:2:2:17":                                                "wrong number of parameters",
		"SOCKET-SENDTO:2:2:17:x00,bind=zz":                                    "option bind",
		"SOCKET-RECVFROM:2:2:17:x1e617f0000010000000000000000,max-children=1": "without fork",
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
