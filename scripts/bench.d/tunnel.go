package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/errors"
)

// Tunnels run between the two namespaces. The near end listens. Devices are called tunnel0, the near one has nearInside, the far one farInside. iperf3 sends from near to far.
//
// What goes through UDP gets an MTU that fits the wire with the outer headers, so that peers are not measured by IP fragmentation; tunsplice over TCP keeps 1500.

const (
	nearWire, farWire     = "10.99.0.1", "10.99.0.2"
	nearInside, farInside = "172.31.0.1", "172.31.0.2"
	device                = "tunnel0"
	outerMTU              = "1400"
)

// A tunnel starts both ends.
type tunnel func(b *bench, t tunnelCase) (near, far *proc, err error)

type tunnelCase struct {
	tap     bool
	framing string   // of tunsplice and its like; "": the default
	iperf   []string // more options
}

func tunnelCases() []benchCase {
	var cases []benchCase
	add := func(name, doc string, t tunnelCase) {
		cases = append(cases, benchCase{name: name, doc: doc,
			suits: func(p *program) bool { return p.tunnel != nil },
			run:   func(b *bench, p *program) ([]figure, error) { return b.runTunnel(p, t) }})
	}
	add("tunnel-l3", "TUN tunnel over TCP, one TCP stream through it, and ping beside the stream (peers: over UDP; direct: the veth itself)", tunnelCase{})
	add("tunnel-l2", "the same with TAP", tunnelCase{tap: true})
	add("tunnel-4", "TUN tunnel, four streams", tunnelCase{iperf: []string{"-P", "4"}})
	add("tunnel-bidir", "TUN tunnel, a stream in each direction at once; the sum of both", tunnelCase{iperf: []string{"--bidir"}})
	add("tunnel-qemu", "TAP tunnel with framing=qemu: no offloads on the wire", tunnelCase{tap: true, framing: "qemu"})
	return cases
}

// runTunnel makes the tunnel, loads it with iperf3 and pings through it meanwhile.
func (b *bench) runTunnel(p *program, t tunnelCase) ([]figure, error) {
	near, far, err := p.tunnel(b, t)
	if err != nil {
		return nil, err
	}
	target := farInside
	if p.reference {
		target = farWire
	}
	if err := until("ping through the tunnel", 10*time.Second, func() bool {
		return exec.Command("ping", "-q", "-c", "1", "-W", "1", target).Run() == nil
	}); err != nil {
		return nil, failed(err, near, far)
	}
	idle, err := ping(target, 10*time.Millisecond, 500*time.Millisecond)
	if err != nil {
		return nil, failed(errors.Wrap(err, "idle ping"), near, far)
	}

	if _, err := b.start(b.far, nil, "iperf3", "-s", "-1", "-p", "5201", "--logfile", "/dev/null"); err != nil {
		return nil, err
	}
	if err := until("iperf3 listens", 5*time.Second, func() bool {
		text, err := exec.Command("ip", "netns", "exec", b.far, "ss", "-Hltn", "sport = 5201").Output()
		return err == nil && len(text) > 0
	}); err != nil {
		return nil, err
	}
	type answer struct {
		times []float64
		err   error
	}
	pings := make(chan answer, 1)
	before := cpu(near, far)
	go func() {
		times, err := ping(target, 10*time.Millisecond, b.seconds)
		pings <- answer{times, err}
	}()
	bits, bytes, err := iperf(target, b.seconds, t.iperf)
	used := cpu(near, far) - before
	loaded := <-pings
	if err != nil {
		return nil, failed(err, near, far)
	}
	if loaded.err != nil {
		return nil, failed(errors.Wrap(loaded.err, "ping under load"), near, far)
	}
	figures := []figure{{"Gbit/s", bits / 1e9, true}}
	if !p.reference {
		figures = append(figures, figure{"CPU s/GB, both ends", used / (bytes / 1e9), false})
	}
	return append(figures,
		figure{"ping idle ms, median", quantile(idle, 0.5), false},
		figure{"ping loaded ms, median", quantile(loaded.times, 0.5), false},
		figure{"ping loaded ms, 99 %", quantile(loaded.times, 0.99), false}), nil
}

var pingTime = regexp.MustCompile(`time=([0-9.]+) ms`)

// ping returns the round trip times in ms. It ends after the time even where answers are lost.
func ping(target string, every, time time.Duration) ([]float64, error) {
	seconds := func(d interface{ Seconds() float64 }) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }
	text, _ := exec.Command("ping", "-n", "-i", seconds(every), "-c", strconv.Itoa(int(time/every)), "-W", "1", target).Output() // status 1: some were lost
	var times []float64
	for _, m := range pingTime.FindAllSubmatch(text, -1) {
		t, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return nil, err
		}
		times = append(times, t)
	}
	if len(times) == 0 {
		return nil, errors.New("no answer")
	}
	return times, nil
}

// iperf returns bits a second and bytes as the receivers saw them, both directions added.
func iperf(target string, d time.Duration, more []string) (bits, bytes float64, err error) {
	args := append([]string{"-J", "-c", target, "-t", strconv.Itoa(max(1, int(d.Seconds()))), "--connect-timeout", "3000"}, more...)
	cmd := exec.Command("timeout", append([]string{"-k", "1", strconv.Itoa(int(d.Seconds()) + 15), "iperf3"}, args...)...)
	text, runErr := cmd.Output()
	type sum struct {
		Bits  float64 `json:"bits_per_second"`
		Bytes float64 `json:"bytes"`
	}
	var result struct {
		Error string `json:"error"`
		End   struct {
			There sum `json:"sum_received"`
			Back  sum `json:"sum_received_bidir_reverse"`
		} `json:"end"`
	}
	if err := json.Unmarshal(text, &result); err != nil {
		if runErr != nil {
			return 0, 0, errors.Wrap(runErr, "iperf3")
		}
		return 0, 0, errors.Wrap(err, "answer of iperf3")
	}
	if result.Error != "" {
		return 0, 0, errors.Errorf("iperf3: %s", result.Error)
	}
	end := result.End
	if end.There.Bytes == 0 {
		return 0, 0, errors.New("iperf3: nothing arrived")
	}
	return end.There.Bits + end.Back.Bits, end.There.Bytes + end.Back.Bytes, nil
}

// both starts one end in each namespace.
func (b *bench) both(nearArgs, farArgs []string, ready func() bool) (near, far *proc, err error) {
	if near, err = b.start("", nil, nearArgs...); err != nil {
		return nil, nil, err
	}
	if err := until("near end", 5*time.Second, ready); err != nil {
		return nil, nil, failed(err, near)
	}
	far, err = b.start(b.far, nil, farArgs...)
	return near, far, err
}

func (t tunnelCase) device(inside string) string {
	s := "TUN:" + inside + "/24,tun-name=" + device + ",iff-no-pi,up"
	if t.tap {
		s += ",tun-type=tap"
	}
	return s
}

func tunnelTCP(p *program) tunnel {
	return func(b *bench, t tunnelCase) (near, far *proc, err error) {
		option := ""
		if t.framing != "" {
			option = ",framing=" + t.framing
		}
		port := b.newPort()
		return b.both(p.with(fmt.Sprintf("TCP-LISTEN:%d,reuseaddr%s", port, option), t.device(nearInside)),
			p.with(fmt.Sprintf("TCP:%s:%d%s", nearWire, port, option), t.device(farInside)),
			func() bool { return listens(port) })
	}
}

func tunnelUDP(p *program) tunnel {
	return func(b *bench, t tunnelCase) (near, far *proc, err error) {
		port := b.newPort()
		near, far, err = b.both(p.with(fmt.Sprintf("UDP-DATAGRAM:%s:%d,bind=%s:%d", farWire, port, nearWire, port), t.device(nearInside)),
			p.with(fmt.Sprintf("UDP-DATAGRAM:%s:%d,bind=%s:%d", nearWire, port, farWire, port), t.device(farInside)),
			func() bool { return exec.Command("ip", "link", "set", device, "mtu", outerMTU).Run() == nil })
		if err != nil {
			return nil, nil, err
		}
		return near, far, until("far device", 5*time.Second, func() bool {
			return exec.Command("ip", "-n", b.far, "link", "set", device, "mtu", outerMTU).Run() == nil
		})
	}
}

func tunnelVtun(path string) tunnel {
	return func(b *bench, t tunnelCase) (near, far *proc, err error) {
		kind := "tun"
		if t.tap {
			kind = "ether"
		}
		port := b.newPort()
		config := func(end, inside string) (string, error) {
			name := b.work + "/vtun-" + end
			return name, os.WriteFile(name, []byte(fmt.Sprintf(`options { port %d; timeout 10; ip /sbin/ip; }
bench {
	passwd bench; type %s; proto udp; device %s; compress no; encrypt no; stat no; keepalive no;
	up { ip "addr add %s/24 dev %%%%"; ip "link set %%%% up mtu %s"; };
}
`, port, kind, device, inside, outerMTU)), 0o600)
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

func tunnelOpenVPN(path string) tunnel {
	return func(b *bench, t tunnelCase) (near, far *proc, err error) {
		port := strconv.Itoa(b.newPort())
		end := func(local, remote, inside, otherInside string) []string {
			kind, second := "tun", otherInside
			if t.tap {
				kind, second = "tap", "255.255.255.0"
			}
			return []string{path, "--proto", "udp", "--local", local, "--remote", remote, "--port", port, "--dev", device, "--dev-type", kind,
				"--ifconfig", inside, second, "--tun-mtu", outerMTU, "--cipher", "none", "--auth", "none", "--verb", "1", "--log", "/dev/stderr"}
		}
		return b.both(end(nearWire, farWire, nearInside, farInside), end(farWire, nearWire, farInside, nearInside), func() bool { return true })
	}
}

// tunnelNone is the veth itself.
func tunnelNone(*bench, tunnelCase) (near, far *proc, err error) { return nil, nil, nil }

// with returns the command with arguments behind it; `{args}` in the command stands for them.
func (p *program) with(args ...string) []string {
	var words []string
	placed := false
	for _, w := range p.command {
		if w == "{args}" {
			words, placed = append(words, args...), true
		} else if strings.Contains(w, "{args}") {
			words, placed = append(words, strings.ReplaceAll(w, "{args}", strings.Join(args, " "))), true
		} else {
			words = append(words, w)
		}
	}
	if !placed {
		words = append(words, args...)
	}
	return words
}
