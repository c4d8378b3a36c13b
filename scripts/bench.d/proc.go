package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/errors"
)

// A proc is a program that was started, in a process group of its own.
type proc struct {
	name string
	cmd  *exec.Cmd
	log  tail
	done chan struct{} // closed once the process was waited for
}

// start starts a program under measurement, inside the control group. With ns it runs in that namespace. Each wrapper becomes the program, so that the process id is the program's.
func (b *bench) start(ns string, stdin *os.File, args ...string) (*proc, error) {
	name := filepath.Base(args[0])
	return b.launch(name, stdin, nil, b.group.enter(inside(ns, args)))
}

// helper starts a program that makes load or waits for it, outside the control group.
func (b *bench) helper(ns string, args ...string) (*proc, error) {
	return b.launch(filepath.Base(args[0]), nil, nil, inside(ns, args))
}

// inside returns the command that runs args in a network namespace, by name; "": the one of the bench. `ip netns exec` is no good: it hides the control groups.
func inside(ns string, args []string) []string {
	if ns == "" {
		return args
	}
	return append([]string{"nsenter", "--net=/run/netns/" + ns, "--"}, args...)
}

func (b *bench) launch(name string, stdin *os.File, env, args []string) (*proc, error) {
	p := &proc{name: name, cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	if stdin != nil {
		p.cmd.Stdin = stdin
	}
	if env != nil {
		p.cmd.Env = append(os.Environ(), env...)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = time.Second // children may hold the log open
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.cmd.Wait() // the exit status of a program that is killed at the end says nothing
		close(p.done)
	}()
	b.procs = append(b.procs, p)
	return p, nil
}

// endAll ends what the measurement started, children included, and waits for it: the devices of a tunnel are gone then.
func (b *bench) endAll() {
	for _, p := range b.procs {
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	}
	b.group.end()
	for _, p := range b.procs {
		select {
		case <-p.done:
		case <-time.After(2 * time.Second):
			syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
			<-p.done
		}
	}
	b.mu.Lock()
	b.procs = nil
	b.mu.Unlock()
}

// ended tells whether the program has ended.
func (p *proc) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// failed tells why a measurement did not come about, with the last words of the programs. Where a program does not know an address or option, the case is not available with it.
func failed(err error, procs ...*proc) error {
	if err == nil {
		return nil
	}
	for _, p := range procs {
		if p == nil {
			continue
		}
		words := p.log.String()
		for _, l := range strings.Split(words, "\n") {
			if strings.Contains(l, "unknown option") || strings.Contains(l, "unknown device/address") {
				return errors.Errorf("%s: %s", notAvailable, l)
			}
		}
		if p.ended() {
			err = errors.Wrapf(err, "%s ended", p.name)
		}
		if last := lastLine(words); last != "" {
			err = errors.Errorf("%v; last words of %s: %s", err, p.name, last)
		}
	}
	return err
}

// What an error starts with that is a result of its own in the table.
const (
	notAvailable = "not available"
	stalls       = "stalls"
)

// lastLine returns the last line, or the last one that is an error or a warning where the log says so as socat's does.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.Contains(lines[i], "] E ") {
			return lines[i]
		}
	}
	return lines[len(lines)-1]
}

// A tail keeps the first and the last part of what is written to it.
type tail struct {
	mu          sync.Mutex
	first, last bytes.Buffer
}

const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	if room := tailSize - t.first.Len(); room > 0 {
		room = min(room, len(p))
		t.first.Write(p[:room])
		p = p[room:]
	}
	t.last.Write(p)
	if over := t.last.Len() - tailSize; over > 0 {
		t.last.Next(over)
	}
	return n, nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.first.String() + t.last.String()
}

// until calls f every 5 ms until it is true.
func until(what string, limit time.Duration, f func() bool) error {
	for end := time.Now().Add(limit); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return errors.Errorf("%s: not within %v", what, limit)
		}
	}
	return nil
}

// ready waits until f is true or one of the programs has ended.
func ready(what string, f func() bool, procs ...*proc) error {
	gone := false
	err := until(what, 5*time.Second, func() bool {
		for _, p := range procs {
			gone = gone || p != nil && p.ended()
		}
		return gone || f()
	})
	if gone {
		err = errors.Errorf("%s: in vain", what)
	}
	return failed(err, procs...)
}

// run runs a short command to its end, in the namespace if there is one, and gives what it wrote with the error.
func run(ns string, args ...string) error {
	args = inside(ns, args)
	if text, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return errors.Wrapf(err, "%s: %s", strings.Join(args, " "), lastLine(string(text)))
	}
	return nil
}

// listens tells whether somebody listens on the port, without connecting: a listener without fork would take that for its client.
func listens(port int) bool {
	text, _ := os.ReadFile("/proc/net/tcp")
	text6, _ := os.ReadFile("/proc/net/tcp6")
	for _, l := range strings.Split(string(text)+string(text6), "\n") {
		words := strings.Fields(l)
		if len(words) > 3 && words[3] == "0A" && strings.HasSuffix(words[1], fmt.Sprintf(":%04X", port)) {
			return true
		}
	}
	return false
}

// newPort returns a port nobody used in this run, below the range of ephemeral ports.
func (b *bench) newPort() int {
	b.port++
	if b.port > 9900 {
		b.port = 4101
	}
	return b.port
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
