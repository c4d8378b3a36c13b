package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/errors"
)

// A tunnel starts both ends. The caller waits until packets pass.
type tunnel func(b *bench, t tunnelCase) (near, far *proc, err error)

const (
	device   = "tunnel0" // in both namespaces
	outerMTU = "1400"
)

// both starts one end in each namespace, the far one once f is true.
func (b *bench) both(nearArgs, farArgs []string, f func() bool) (near, far *proc, err error) {
	if near, err = b.start("", nil, nearArgs...); err != nil {
		return nil, nil, err
	}
	if err := ready("near end", f, near); err != nil {
		return nil, nil, err
	}
	far, err = b.start(b.far, nil, farArgs...)
	return near, far, err
}

func (t tunnelCase) device(inside string) string {
	s := "TUN:" + inside + "/24,tun-name=" + device + ",up"
	if !t.pi {
		s += ",iff-no-pi"
	}
	if t.tap {
		s += ",tun-type=tap"
	}
	if t.udp {
		s += ",mtu=" + outerMTU
	}
	return s
}

// tunnelTCP is that of tunsplice.
func tunnelTCP(p *program) tunnel {
	return func(b *bench, t tunnelCase) (near, far *proc, err error) {
		options := ""
		if t.framing != "" {
			options = ",framing=" + t.framing
		}
		port := b.newPort()
		left, right := fmt.Sprintf("TCP-LISTEN:%d,reuseaddr", port), fmt.Sprintf("TCP:%s:%d", nearWire, port)
		there := func() bool { return listens(port) }
		if t.udp {
			left = fmt.Sprintf("UDP-SENDTO:%s:%d,bind=%s:%d", farWire, port, nearWire, port)
			right = fmt.Sprintf("UDP-SENDTO:%s:%d,bind=%s:%d", nearWire, port, farWire, port)
			there = func() bool { return true } // either may begin
		}
		if t.streams > 0 {
			options += fmt.Sprintf(",streams=%d", t.streams)
		}
		switch t.secret {
		case "psk":
			key, err := b.keyFile()
			if err != nil {
				return nil, nil, err
			}
			options += ",psk=" + key
		case "tls":
			id, err := b.identity("near")
			if err != nil {
				return nil, nil, err
			}
			left = fmt.Sprintf("OPENSSL-LISTEN:%d,reuseaddr,cert=%s,key=%s,verify=0", port, id.cert, id.key)
			right = fmt.Sprintf("OPENSSL:%s:%d,verify=0", nearWire, port)
		}
		nearDevice, farDevice := t.device(nearInside), t.device(farInside)
		if t.edge {
			nearDevice, farDevice = "INTERFACE:edge,netns="+b.near+"-edge", "INTERFACE:edge,netns="+b.far+"-edge"
		}
		return b.both(p.with(left+options, nearDevice), p.with(right+options, farDevice), there)
	}
}

// keyFile returns a key that tunsplice has made, the same for all tunnels of the run.
func (b *bench) keyFile() (string, error) {
	file := b.work + "/psk"
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := run("", b.work+"/tunsplice", "keygen", file); err != nil {
		return "", errors.Errorf("%s: %v", notAvailable, err)
	}
	return file, nil
}

// tunnelUDP is that of plain socat.
func tunnelUDP(p *program) tunnel {
	return func(b *bench, t tunnelCase) (near, far *proc, err error) {
		port := b.newPort()
		near, far, err = b.both(p.with(fmt.Sprintf("UDP-DATAGRAM:%s:%d,bind=%s:%d", farWire, port, nearWire, port), t.device(nearInside)),
			p.with(fmt.Sprintf("UDP-DATAGRAM:%s:%d,bind=%s:%d", nearWire, port, farWire, port), t.device(farInside)),
			func() bool { return run("", "ip", "link", "set", device, "mtu", outerMTU) == nil })
		if err != nil {
			return nil, nil, err
		}
		return near, far, ready("far device", func() bool { return run(b.far, "ip", "link", "set", device, "mtu", outerMTU) == nil }, far)
	}
}

// tunnelVtun has one command a line within up: vtund takes all quoted strings of a line for one.
func tunnelVtun(path string) tunnel {
	return func(b *bench, t tunnelCase) (near, far *proc, err error) {
		kind := "tun"
		if t.tap {
			kind = "ether"
		}
		port := b.newPort()
		config := func(end, inside string) (string, error) {
			name := b.work + "/vtun-" + end
			text := fmt.Sprintf(`options {
	port %d;
	timeout 10;
	ip /sbin/ip;
}
bench {
	passwd bench;
	type %s;
	proto udp;
	device %s;
	compress no;
	encrypt no;
	stat no;
	keepalive no;
	multi yes;
	up {
		ip "addr add %s/24 dev %%%%";
		ip "link set %%%% up mtu %s";
	};
}
`, port, kind, device, inside, outerMTU)
			return name, os.WriteFile(name, []byte(text), 0o600)
		}
		nearFile, err := config("near", nearInside)
		if err != nil {
			return nil, nil, err
		}
		farFile, err := config("far", farInside)
		if err != nil {
			return nil, nil, err
		}
		return b.both([]string{path, "-n", "-s", "-f", nearFile, "-P", strconv.Itoa(port)},
			[]string{path, "-n", "-f", farFile, "-P", strconv.Itoa(port), "bench", nearWire},
			func() bool { return listens(port) })
	}
}

// tunnelOpenVPN has no cipher at all, or AES-256-GCM, for which there must be TLS to agree on keys. Data go through the program and not through the kernel module.
func tunnelOpenVPN(path string) tunnel {
	return func(b *bench, t tunnelCase) (near, far *proc, err error) {
		port := strconv.Itoa(b.newPort())
		end := func(local, remote, inside, otherInside, name, otherName string, role ...string) ([]string, error) {
			kind, second := "tun", otherInside
			if t.tap {
				kind, second = "tap", "255.255.255.0"
			}
			args := []string{path, "--proto", "udp", "--local", local, "--remote", remote, "--port", port, "--dev", device, "--dev-type", kind,
				"--ifconfig", inside, second, "--tun-mtu", outerMTU, "--verb", "1", "--disable-dco"}
			if t.secret == "" {
				return append(args, "--cipher", "none", "--auth", "none"), nil
			}
			id, err := b.identity(name)
			if err != nil {
				return nil, err
			}
			other, err := b.identity(otherName)
			if err != nil {
				return nil, err
			}
			return append(append(args, role...), "--cert", id.cert, "--key", id.key, "--peer-fingerprint", other.fingerprint, "--data-ciphers", "AES-256-GCM"), nil
		}
		nearArgs, err := end(nearWire, farWire, nearInside, farInside, "near", "far", "--tls-server", "--dh", "none")
		if err != nil {
			return nil, nil, err
		}
		farArgs, err := end(farWire, nearWire, farInside, nearInside, "far", "near", "--tls-client")
		if err != nil {
			return nil, nil, err
		}
		return b.both(nearArgs, farArgs, func() bool { return exists("", device) })
	}
}

func exists(ns, name string) bool { return run(ns, "ip", "link", "show", "dev", name) == nil }

// tunnelWireGuard has a name of its own for each end: it makes a socket of that name for its settings, where all namespaces see it.
func tunnelWireGuard(path string) tunnel {
	return func(b *bench, t tunnelCase) (near, far *proc, err error) {
		const directory = "/var/run/wireguard/"
		nearName, farName := "tsbench-near", "tsbench-far"
		port := b.newPort()
		var keys [2]*ecdh.PrivateKey
		for i := range keys {
			if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
				return nil, nil, err
			}
		}
		near, far, err = b.both([]string{path, "-f", nearName}, []string{path, "-f", farName}, func() bool { return settable(directory + nearName + ".sock") })
		if err != nil {
			return nil, nil, err
		}
		if err := ready("far end", func() bool { return settable(directory + farName + ".sock") }, far); err != nil {
			return nil, nil, err
		}
		up := func(ns, name string, key *ecdh.PrivateKey, other *ecdh.PublicKey, otherWire, address string) error {
			settings := fmt.Sprintf("set=1\nprivate_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%s:%d\nallowed_ip=0.0.0.0/0\n\n",
				hex.EncodeToString(key.Bytes()), port, hex.EncodeToString(other.Bytes()), otherWire, port)
			if err := set(directory+name+".sock", settings); err != nil {
				return err
			}
			if err := run(ns, "ip", "addr", "add", address+"/24", "dev", name); err != nil {
				return err
			}
			return run(ns, "ip", "link", "set", name, "up") // its own MTU, 1420, fits
		}
		if err := up("", nearName, keys[0], keys[1].PublicKey(), farWire, nearInside); err != nil {
			return nil, nil, failed(err, near)
		}
		return near, far, failed(up(b.far, farName, keys[1], keys[0].PublicKey(), nearWire, farInside), far)
	}
}

// settable tells whether a program listens on the socket; one that an ended program left behind does not count.
func settable(socket string) bool {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// set hands settings to wireguard-go, in the language of https://www.wireguard.com/xplatform/.
func set(socket, settings string) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte(settings)); err != nil {
		return err
	}
	answer := make([]byte, 100)
	n, err := c.Read(answer)
	if err != nil {
		return err
	}
	if text := strings.TrimSpace(string(answer[:n])); text != "errno=0" {
		return errors.Errorf("settings refused: %s", text)
	}
	return nil
}

// tunnelNone is the veth itself.
func tunnelNone(*bench, tunnelCase) (near, far *proc, err error) { return nil, nil, nil }
