package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"
)

// A group is the control group of the programs under measurement: load generators are outside. Its meters see every child, also those that ended, and the kernel's memory for them.
type group struct {
	dirs         []string // one with control groups of version 2, one a controller with version 1
	cpuFile      string
	cpuKey       string  // name of the line with the processor time; "": the file is the number
	cpuPerSecond float64 // units of that number in a second
	memoryFile   string
}

const cgroups = "/sys/fs/cgroup"

// newGroup makes the group. The caller owns it and must remove it.
func newGroup(name string) (*group, error) {
	g := &group{}
	if _, err := os.Stat(cgroups + "/cgroup.controllers"); err == nil {
		// Refused where it is on already by other means or not ours to give; then the file is missing below.
		os.WriteFile(cgroups+"/cgroup.subtree_control", []byte("+memory"), 0)
		dir := cgroups + "/" + name
		g.dirs = []string{dir}
		g.cpuFile, g.cpuKey, g.cpuPerSecond, g.memoryFile = dir+"/cpu.stat", "usage_usec", 1e6, dir+"/memory.current"
	} else {
		g.dirs = []string{cgroups + "/cpuacct/" + name, cgroups + "/memory/" + name}
		g.cpuFile, g.cpuPerSecond, g.memoryFile = g.dirs[0]+"/cpuacct.usage", 1e9, g.dirs[1]+"/memory.usage_in_bytes"
	}
	for _, dir := range g.dirs {
		if err := os.Mkdir(dir, 0o755); err != nil {
			g.remove()
			return nil, errors.Wrap(err, "a control group, the meter for processor time and memory")
		}
	}
	for _, file := range []string{g.cpuFile, g.memoryFile} {
		if _, err := os.Stat(file); err != nil {
			g.remove()
			return nil, errors.Wrap(err, "the meter of a control group")
		}
	}
	return g, nil
}

// remove takes the group away; it must be empty.
func (g *group) remove() {
	for _, dir := range g.dirs {
		os.Remove(dir)
	}
}

// enter returns the command that runs args inside the group.
func (g *group) enter(args []string) []string {
	script := ""
	for _, dir := range g.dirs {
		script += "echo $$ >" + dir + "/cgroup.procs && "
	}
	return append([]string{"sh", "-c", script + `exec "$@"`, "sh"}, args...)
}

// pids returns the processes of the group.
func (g *group) pids() []int {
	text, _ := os.ReadFile(g.dirs[0] + "/cgroup.procs") // gone: none
	var pids []int
	for _, word := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(word); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (g *group) empty() bool { return len(g.pids()) == 0 }

func (g *group) kill(sig syscall.Signal) {
	for _, pid := range g.pids() {
		syscall.Kill(pid, sig)
	}
}

// end ends all processes of the group, gently and then not.
func (g *group) end() {
	g.kill(syscall.SIGTERM)
	if until("", 2*time.Second, g.empty) == nil {
		return
	}
	until("", 10*time.Second, func() bool { // again: a program may fork meanwhile
		g.kill(syscall.SIGKILL)
		return g.empty()
	})
}

// cpu returns the processor time in seconds the group has used since it was made, kernel included.
func (g *group) cpu() float64 { return g.number(g.cpuFile, g.cpuKey) / g.cpuPerSecond }

// memory returns the bytes charged to the group now, those of the kernel included.
func (g *group) memory() float64 { return g.number(g.memoryFile, "") }

func (g *group) number(file, key string) float64 {
	text, err := os.ReadFile(file)
	if err != nil {
		panic(fmt.Sprintf("the meter is gone: %v", err))
	}
	words := strings.Fields(string(text))
	for i, w := range words {
		if key != "" {
			if w != key || i+1 == len(words) {
				continue
			}
			w = words[i+1]
		}
		if n, err := strconv.ParseFloat(w, 64); err == nil {
			return n
		}
	}
	panic(fmt.Sprintf("no number in %s", file))
}

// wakeUps returns how often threads of the group have slept and come back, proc_pid_status(5).
func (g *group) wakeUps() (sum float64) {
	for _, pid := range g.pids() {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid)) // a pattern of ours can't be malformed
		for _, file := range files {
			text, _ := os.ReadFile(file) // gone: none
			if _, rest, ok := strings.Cut(string(text), "\nvoluntary_ctxt_switches:"); ok {
				if words := strings.Fields(rest); len(words) > 0 {
					n, _ := strconv.ParseFloat(words[0], 64)
					sum += n
				}
			}
		}
	}
	return sum
}
