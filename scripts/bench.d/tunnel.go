package main

import (
	"encoding/json"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"github.com/pkg/errors"
)

// Tunnels run between the two namespaces. The near end listens. The near device has nearInside, the far one farInside. What is sent goes from near to far.
//
// What goes through UDP gets an MTU that fits the wire with the outer headers, so that peers are not measured by IP fragmentation; tunsplice over TCP keeps 1500.

const (
	nearWire, farWire     = "10.99.0.1", "10.99.0.2"
	nearInside, farInside = "172.31.0.1", "172.31.0.2"
	farBehindEdge         = "172.30.0.2" // reached over the interfaces of scripts/bench
)

type tunnelCase struct {
	tap     bool
	framing string   // of tunsplice and its like; "": the default
	secret  string   // "": clear text; "psk", "tls": how tunsplice keeps it, while peers have one way of their own
	iperf   []string // more options
	pi      bool     // the device has packet information
	udp     bool     // tunsplice and its like go over UDP too
	streams int      // connections of tunsplice and its like, 0: one
	edge    bool     // their ends are interfaces
	// A case of datagrams instead of streams: the size of the payload, and how many go in one packet with UDP GSO; 0: the case has streams.
	datagram, segments int
}

func tunnelCases() []benchCase {
	var cases []benchCase
	add := func(name, doc string, t tunnelCase, peers string, aims ...aim) {
		measure := (*bench).streams
		if t.datagram > 0 {
			measure = (*bench).datagrams
		}
		cases = append(cases, benchCase{name: name, doc: doc, peers: peers, aims: aims,
			suits: func(p *program) bool {
				return p.tunnel != nil && p.carries(t) && (peers == "" || p.command != nil)
			},
			run: func(b *bench, p *program) ([]figure, error) {
				near, far, err := b.dig(p, t)
				if err != nil {
					return nil, err
				}
				figures, err := measure(b, p, t)
				return figures, failed(err, near, far)
			}})
	}
	var (
		twelve = aim{gbits, best, 12}
		direct = aim{gbits, "direct", 0.4}
		cheap  = aim{cpuBothGB, best, 0.1}
		queue  = []aim{{loadedMedian, best, 1}, {loadedWorst, best, 1}, {loadedMedian, itself, 1}, {loadedWorst, itself, 3}, {idleMedian, "socat", 1.2}}
		framed = aim{gbits, best, 2.5}
		safe   = []aim{{gbits, "wireguard-go", 3}, {gbits, "openvpn", 3}}
		udp    = aim{perSecond, best, 2.5}
	)
	add("tunnel-l3", "TUN tunnel over TCP, one TCP stream through it, and ping before and beside the stream (peers: over UDP; direct: the veth itself)", tunnelCase{}, "",
		append([]aim{twelve, direct, cheap}, queue...)...)
	add("tunnel-l2", "the same with TAP", tunnelCase{tap: true}, "", append([]aim{twelve, direct, cheap}, queue...)...)
	add("tunnel-4", "TUN tunnel, four streams", tunnelCase{iperf: []string{"-P", "4"}}, "", twelve, cheap)
	add("tunnel-bidir", "TUN tunnel, a stream in each direction at once; the sum of both", tunnelCase{iperf: []string{"--bidir"}}, "", twelve, cheap)
	add("tunnel-4-streams", "the tunnel of tunnel-4 with streams=2 (peers: those of tunnel-4)", tunnelCase{iperf: []string{"-P", "4"}, streams: 2}, "tunnel-4")
	add("tunnel-bidir-streams", "the tunnel of tunnel-bidir with streams=2 (peers: those of tunnel-bidir)", tunnelCase{iperf: []string{"--bidir"}, streams: 2}, "tunnel-bidir")
	add("tunnel-u16", "TAP tunnel with framing=u16: no offloads on the wire (peers: those of tunnel-l2)", tunnelCase{tap: true, framing: "u16"}, "tunnel-l2", framed)
	add("tunnel-qemu", "TAP tunnel with framing=qemu: no offloads on the wire (peers: those of tunnel-l2)", tunnelCase{tap: true, framing: "qemu"}, "tunnel-l2", framed)
	add("tunnel-udp-64", "TUN tunnel, datagrams of 64 bytes as fast as they can be sent; those that came", tunnelCase{datagram: 64}, "", udp)
	add("tunnel-udp-1400", "TUN tunnel, datagrams of 1372 bytes: packets of 1400", tunnelCase{datagram: 1372}, "", udp)
	add("tunnel-udp-gso", "TUN tunnel, the same handed to the kernel 45 at a time with UDP_SEGMENT", tunnelCase{datagram: 1372, segments: 45}, "", udp)
	add("tunnel-psk", "TUN tunnel with a key, one stream (openvpn: AES-256-GCM)", tunnelCase{secret: "psk"}, "", safe...)
	add("tunnel-tls", "TUN tunnel over TLS, one stream (peers: those of tunnel-psk)", tunnelCase{secret: "tls"}, "tunnel-psk", safe...)
	add("tunnel-pi", "TUN tunnel without iff-no-pi, as most tutorials have it (peers: those of tunnel-l3)", tunnelCase{pi: true}, "tunnel-l3")
	add("tunnel-interface", "the same as tunnel-l2, with an INTERFACE at either end (peers: those of tunnel-l2)", tunnelCase{tap: true, edge: true}, "tunnel-l2")
	add("tunnel-udp", "TUN tunnel over UDP, one stream (peers: those of tunnel-l3)", tunnelCase{udp: true}, "tunnel-l3")
	add("tunnel-udp-psk", "the same with a key (peers: those of tunnel-psk)", tunnelCase{udp: true, secret: "psk"}, "tunnel-psk")
	return cases
}

// Names of figures that aims refer to.
const (
	gbits        = "Gbit/s"
	cpuGB        = "CPU s/GB"
	cpuBothGB    = "CPU s/GB, both ends"
	idleMedian   = "ping idle ms, median"
	loadedMedian = "ping loaded ms, median"
	loadedWorst  = "ping loaded ms, 99 %"
	perSecond    = "datagrams/s"
)

// dig makes the tunnel and waits until it carries packets.
func (b *bench) dig(p *program, t tunnelCase) (near, far *proc, err error) {
	if near, far, err = p.tunnel(b, t); err != nil {
		return nil, nil, err
	}
	err = ready("ping through the tunnel", func() bool {
		return exec.Command("ping", "-q", "-c", "1", "-W", "1", p.farAddress(t)).Run() == nil
	}, near, far)
	return near, far, err
}

// farAddress is where the load goes.
func (p *program) farAddress(t tunnelCase) string {
	switch {
	case p.reference:
		return farWire
	case t.edge:
		return farBehindEdge
	}
	return farInside
}

// streams loads the tunnel with iperf3 and pings through it before and meanwhile.
func (b *bench) streams(p *program, t tunnelCase) ([]figure, error) {
	const every = 20 * time.Millisecond // ping of iputils waits busily for less, and takes a third of a processor from what is measured
	target := p.farAddress(t)
	idle, err := ping(target, every, time.Second)
	if err != nil {
		return nil, errors.Wrap(err, "idle ping")
	}
	server, err := b.helper(b.far, "iperf3", "-s", "-1", "-p", "5201")
	if err != nil {
		return nil, err
	}
	if err := ready("iperf3 listens", func() bool {
		text, err := exec.Command("nsenter", "--net=/run/netns/"+b.far, "ss", "-Hltn", "sport = 5201").Output()
		return err == nil && len(text) > 0
	}, server); err != nil {
		return nil, err
	}
	type answer struct {
		times []float64
		err   error
	}
	pings := make(chan answer, 1)
	before := b.group.cpu()
	go func() {
		const ramp = 200 * time.Millisecond // until the stream has found its pace
		time.Sleep(ramp)
		times, err := ping(target, every, b.seconds-ramp)
		pings <- answer{times, err}
	}()
	bits, bytes, err := iperf(target, b.seconds, t.iperf)
	used := b.group.cpu() - before
	loaded := <-pings
	if err != nil {
		return nil, err
	}
	if loaded.err != nil {
		return nil, errors.Wrap(loaded.err, "ping under load")
	}
	figures := []figure{{gbits, bits / 1e9, true}}
	if !p.reference {
		figures = append(figures, figure{cpuBothGB, used / (bytes / 1e9), false})
	}
	return append(figures,
		figure{idleMedian, quantile(idle, 0.5), false},
		figure{"ping idle ms, 99 %", quantile(idle, 0.99), false},
		figure{loadedMedian, quantile(loaded.times, 0.5), false},
		figure{loadedWorst, quantile(loaded.times, 0.99), false}), nil
}

var pingTime = regexp.MustCompile(`time=([0-9.]+) ms`)

// ping returns the round trip times in ms. It ends after the time even where answers are lost.
func ping(target string, every, time time.Duration) ([]float64, error) {
	seconds := strconv.FormatFloat(every.Seconds(), 'f', -1, 64)
	text, _ := exec.Command("ping", "-n", "-i", seconds, "-c", strconv.Itoa(int(time/every)), "-W", "1", target).Output() // status 1: some were lost
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
	seconds := wholeSeconds(d)
	args := append([]string{"-k", "1", strconv.Itoa(seconds + 5), "iperf3", "-J", "-c", target, "-t", strconv.Itoa(seconds), "--connect-timeout", "3000"}, more...)
	text, runErr := exec.Command("timeout", args...).Output()
	var status *exec.ExitError
	if errors.As(runErr, &status) && (status.ExitCode() == 124 || status.ExitCode() == 137) { // timeout(1)
		return 0, 0, errors.Errorf("%s: iperf3 did not come to its end", stalls)
	}
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
		return 0, 0, errors.Errorf("%s: nothing arrived through the tunnel", stalls)
	}
	return end.There.Bits + end.Back.Bits, end.There.Bytes + end.Back.Bytes, nil
}
