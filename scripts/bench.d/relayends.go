package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// A relayTask says between what a relay stands.
type relayTask struct {
	from, to      string // "unix"; "" is TCP
	fork          bool   // more than one connection
	tlsIn, tlsOut bool

	listen, server string // addresses in Go's form, set by bench.relay
}

// relay starts the program as a relay to the server, and returns how to connect to it. Direct, that is the server itself.
func (b *bench) relay(p *program, t relayTask, server string) (*proc, func() (net.Conn, error), error) {
	if p.command == nil {
		t.server = server
		t.listen = b.listenAddress(t)
		if p.reference {
			t.listen, t.from, t.tlsIn = server, t.to, t.tlsIn || t.tlsOut
			return nil, t.dial, nil
		}
		relay, err := p.relay(b, t)
		if err != nil {
			return nil, nil, err
		}
		return relay, t.dial, ready(p.name+" listens", t.listens, relay)
	}
	right := tcpTo(server)
	if t.to == "unix" {
		right = "UNIX:" + server
	} else if t.tlsOut {
		right = "OPENSSL:" + server + ",verify=0"
	}
	return b.listen(p, t, right)
}

// listen starts a speaker that listens for the left side of the task.
func (b *bench) listen(p *program, t relayTask, right string) (*proc, func() (net.Conn, error), error) {
	t.listen = b.listenAddress(t)
	left := "UNIX-LISTEN:" + t.listen
	if t.from != "unix" {
		_, port, err := net.SplitHostPort(t.listen)
		if err != nil {
			return nil, nil, err
		}
		left = "TCP-LISTEN:" + port + ",reuseaddr"
		if t.tlsIn {
			id, err := b.identity("near")
			if err != nil {
				return nil, nil, err
			}
			left = fmt.Sprintf("OPENSSL-LISTEN:%s,reuseaddr,cert=%s,key=%s,verify=0", port, id.cert, id.key)
		}
	}
	if t.fork {
		left += ",fork,backlog=1024"
	}
	relay, err := b.start("", nil, p.with(left, right)...)
	if err != nil {
		return nil, nil, err
	}
	return relay, t.dial, ready("relay listens", t.listens, relay)
}

func (b *bench) listenAddress(t relayTask) string {
	if t.from == "unix" {
		return fmt.Sprintf("%s/socket-%d", b.work, b.newPort())
	}
	return local(b.newPort())
}

// listens tells whether the relay is there.
func (t relayTask) listens() bool {
	if t.from == "unix" {
		_, err := os.Stat(t.listen)
		return err == nil
	}
	_, port, _ := net.SplitHostPort(t.listen)
	n, err := strconv.Atoi(port)
	return err == nil && listens(n)
}

// dial connects to the relay. It tries again while a UNIX socket is bound and not yet listening.
func (t relayTask) dial() (c net.Conn, err error) {
	network := "tcp"
	if t.from == "unix" {
		network = "unix"
	}
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		if c, err = net.Dial(network, t.listen); err == nil {
			break
		} else if network == "tcp" || time.Now().After(end) {
			return nil, err
		}
	}
	if t.tlsIn {
		return tlsClient(c)
	}
	return c, nil
}

func tcpTo(address string) string { return "TCP:" + address }

// relayNginx is the stream module with its own settings for everything that isn't asked for.
func relayNginx(path string) func(*bench, relayTask) (*proc, error) {
	return func(b *bench, t relayTask) (*proc, error) {
		const module = "/usr/lib/nginx/modules/ngx_stream_module.so" // Debian's; elsewhere it is built in
		text := ""
		if _, err := os.Stat(module); err == nil {
			text = "load_module " + module + ";\n"
		}
		unix := func(network, address string) string {
			if network == "unix" {
				return "unix:" + address
			}
			return address
		}
		in, out := "", ""
		if t.tlsIn {
			id, err := b.identity("near")
			if err != nil {
				return nil, err
			}
			in = fmt.Sprintf(" ssl; ssl_certificate %s; ssl_certificate_key %s", id.cert, id.key)
		}
		if t.tlsOut {
			out = " proxy_ssl on;"
		}
		text += fmt.Sprintf(`daemon off; user root; worker_processes auto; worker_rlimit_nofile 16384; pid %s/nginx.pid; error_log stderr;
events { worker_connections 4096; }
stream { server { listen %s%s; proxy_pass %s;%s } }
`, b.work, unix(t.from, t.listen), in, unix(t.to, t.server), out)
		file := b.work + "/nginx.conf"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
		return b.start("", nil, path, "-p", b.work, "-c", file, "-e", "stderr")
	}
}

func relayHAProxy(path string) func(*bench, relayTask) (*proc, error) {
	return func(b *bench, t relayTask) (*proc, error) {
		unix := func(network, address string) string {
			if network == "unix" {
				return "unix@" + address
			}
			return address
		}
		in, out := "", ""
		if t.tlsIn {
			id, err := b.identity("near")
			if err != nil {
				return nil, err
			}
			in = " ssl crt " + id.both
		}
		if t.tlsOut {
			out = " ssl verify none"
		}
		text := fmt.Sprintf(`global
	maxconn 4096
defaults
	mode tcp
	timeout connect 5s
	timeout client 1h
	timeout server 1h
frontend in
	bind %s backlog 1024%s
	default_backend out
backend out
	server s %s%s
`, unix(t.from, t.listen), in, unix(t.to, t.server), out)
		file := b.work + "/haproxy.cfg"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
		return b.start("", nil, path, "-db", "-f", file)
	}
}

// relayNone only marks that direct takes part: bench.relay connects to the server.
func relayNone(*bench, relayTask) (*proc, error) { return nil, nil }
