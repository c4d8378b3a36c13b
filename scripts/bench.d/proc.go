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
	"syscall"
	"time"

	"github.com/pkg/errors"
)

// A proc is a program under measurement, in a process group of its own.
type proc struct {
	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan struct{} // closed once the process was waited for
}

// start starts a program. With ns it runs in that namespace. `ip netns exec` becomes the program, so that the process id is the program's.
func (b *bench) start(ns string, stdin *os.File, args ...string) (*proc, error) {
	if ns != "" {
		args = append([]string{"ip", "netns", "exec", ns}, args...)
	}
	p := &proc{cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	if stdin != nil {
		p.cmd.Stdin = stdin
	}
	p.cmd.Stderr = &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = time.Second // children may hold the log open
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
		tree := descendants(p.cmd.Process.Pid)
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			syscall.Kill(-p.cmd.Process.Pid, sig)
			for _, pid := range tree[1:] {
				syscall.Kill(pid, sig)
			}
			select {
			case <-p.done:
			case <-time.After(2 * time.Second):
			}
		}
		<-p.done
	}
	b.procs = nil
}

// failed tells why a measurement did not come about, with the last line a program wrote.
func failed(err error, procs ...*proc) error {
	if err == nil {
		return nil
	}
	for _, p := range procs {
		if p == nil {
			continue
		}
		select {
		case <-p.done:
			lines := strings.Split(strings.TrimSpace(p.log.String()), "\n")
			return errors.Wrapf(err, "%s ended: %s", filepath.Base(p.cmd.Path), lines[len(lines)-1])
		default:
		}
	}
	return err
}

// descendants returns pid and all processes below it.
func descendants(pid int) []int {
	pids := []int{pid}
	for i := 0; i < len(pids); i++ {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i])) // a pattern of ours can't be malformed
		for _, file := range files {
			text, _ := os.ReadFile(file) // gone: no children
			for _, word := range strings.Fields(string(text)) {
				if child, err := strconv.Atoi(word); err == nil {
					pids = append(pids, child)
				}
			}
		}
	}
	return pids
}

// cpu returns the processor time in seconds that the processes and all below them have taken, those already waited for included. The unit of /proc/PID/stat is 10 ms.
func cpu(procs ...*proc) float64 {
	var ticks float64
	for _, p := range procs {
		if p == nil {
			continue
		}
		for _, pid := range descendants(p.cmd.Process.Pid) {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil {
				continue
			}
			// The name may hold spaces and brackets; utime, stime, cutime, cstime are fields 14 to 17, proc_pid_stat(5).
			words := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
			for _, word := range words[11:15] {
				n, _ := strconv.ParseFloat(word, 64)
				ticks += n
			}
		}
	}
	return ticks / 100
}

// pss returns the memory of a process and all below it in KiB, shared pages divided among their users.
func pss(p *proc) (float64, error) {
	var sum float64
	for _, pid := range descendants(p.cmd.Process.Pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, err
		}
		_, rest, ok := strings.Cut(string(text), "\nPss:")
		words := strings.Fields(rest)
		if !ok || len(words) == 0 {
			return 0, errors.Errorf("no Pss of process %d", pid)
		}
		n, err := strconv.ParseFloat(words[0], 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
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
