package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The scripts in testdata/script run the program itself: "exec tunsplice ..." is this test binary, so under -race it is a race build. Besides testscript's own commands
// they have those of scriptCommands. A test never sleeps: it waits for a port, a socket, a line in a file.

// nextPort counts what must not be given out twice.
var nextPort atomic.Uint32

var update = flag.Bool("update", false, "write the golden parts of scripts and the generated pages anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tunsplice": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Cmds:                scriptCommands,
		Condition:           scriptCondition,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Deadline:            time.Now().Add(2 * time.Minute),
		Setup: func(e *testscript.Env) error {
			// "$tag" is different in each script: for names that the whole machine shares, such as abstract sockets.
			// A race build sleeps for a second before it exits unless told otherwise.
			e.Vars = append(e.Vars, "tag="+strconv.FormatInt(time.Now().UnixNano(), 36), "GORACE=atexit_sleep_ms=0 halt_on_error=1")
			return nil
		},
	})
}

var scriptCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"waitport": waitPort,
	"waitsock": waitSocket,
	"waitfile": waitFile,
	"waitlog":  waitFile,
	"netns":    makeNamespaces,
	"signal":   sendSignal,
	"freeport": freePorts,
}

// scriptCondition knows [root], [userns] and [tun].
func scriptCondition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Geteuid() == 0, nil
	case "userns":
		return exec.Command("unshare", "-Urn", "true").Run() == nil, nil
	case "tun":
		f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		if err == nil {
			f.Close()
		}
		return err == nil, nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// patience is how long a script waits for a condition.
const patience = 20 * time.Second

// await polls a condition until it holds.
func await(ts *testscript.TestScript, what string, cond func() bool) {
	for end := time.Now().Add(patience); !cond(); time.Sleep(3 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("waited %s for %s", patience, what)
		}
	}
}

func arguments(ts *testscript.TestScript, neg bool, args []string, least, most int, usage string) {
	if neg || len(args) < least || len(args) > most {
		ts.Fatalf("usage: %s", usage)
	}
}

// waitPort waits until a TCP port listens or a UDP port is bound: waitport [netns] PORT. Nothing connects, so a listener without fork keeps its peer.
func waitPort(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, 2, "waitport [netns] PORT")
	ns, text := "", args[len(args)-1]
	if len(args) == 2 {
		ns = args[0]
	}
	port, err := strconv.ParseUint(text, 10, 16)
	ts.Check(err)
	// proc(5): local address, foreign address, state; 0A is LISTEN
	open := regexp.MustCompile(fmt.Sprintf(`(?m)^ *\d+: [0-9A-F]+:%04X [0-9A-F]+:[0-9A-F]+ (0A|07|01)`, port))
	await(ts, "port "+text, func() bool {
		tables, err := socketTables(ns)
		ts.Check(err)
		return open.Match(tables)
	})
}

// socketTables returns the kernel's tables of TCP and UDP sockets in a named network namespace, "" for our own.
func socketTables(ns string) (tables []byte, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if ns != "" {
			var h netns.NsHandle
			if h, err = netns.GetFromName(ns); err != nil {
				return
			}
			defer h.Close()
			if err = netns.Set(h); err != nil {
				return
			}
		}
		for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
			text, rerr := os.ReadFile("/proc/thread-self/net/" + table)
			if rerr != nil && !os.IsNotExist(rerr) { // no IPv6 in this kernel
				err = rerr
				return
			}
			tables = append(tables, text...)
		}
	}()
	<-done
	return tables, err
}

// waitSocket waits until something exists at a path: waitsock PATH.
func waitSocket(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, 1, "waitsock PATH")
	await(ts, args[0], func() bool { _, err := os.Lstat(ts.MkAbs(args[0])); return err == nil })
}

// waitFile waits until the content of a file matches: waitfile PATH REGEXP. waitlog is the same for logs.
func waitFile(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, 2, "waitfile PATH REGEXP")
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	var text []byte
	defer func() {
		if !re.Match(text) {
			ts.Logf("%s:\n%s", args[0], text)
		}
	}()
	await(ts, fmt.Sprintf("%s to match %s", args[0], args[1]), func() bool {
		text, _ = os.ReadFile(ts.MkAbs(args[0])) // not there yet: no match
		return re.Match(text)
	})
}

// sendSignal sends a signal to the process whose number is in a file, as the lock file of -L: signal NAME FILE.
func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, 2, "signal NAME FILE")
	sig := unix.SignalNum("SIG" + args[0])
	if sig == 0 {
		ts.Fatalf("unknown signal %s", args[0])
	}
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[1])))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, sig))
}

// freePorts sets each variable to the number of a TCP and UDP port that was free a moment ago, outside the range that the kernel gives to others: freeport NAME...
func freePorts(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, 9, "freeport NAME...")
	for _, name := range args {
		port := 0
		for port == 0 {
			candidate := 20000 + int(nextPort.Add(1)+uint32(os.Getpid()))%10000
			if bindable(unix.SOCK_STREAM, candidate) && bindable(unix.SOCK_DGRAM, candidate) {
				port = candidate
			}
		}
		ts.Setenv(name, strconv.Itoa(port))
	}
}

func bindable(kind, port int) bool {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet4{Port: port}) == nil
}

// makeNamespaces makes one or two network namespaces: netns NAME [NAME]. The variable NAME holds the real name. Two are joined by a wire: 10.74.68.1 on the first,
// 10.74.68.100 on the second. They go at the end of the script.
func makeNamespaces(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, 2, "netns NAME [NAME]")
	run := func(argv ...string) {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			ts.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, bytes.TrimSpace(out))
		}
	}
	var names []string
	for _, a := range args {
		name := fmt.Sprintf("tss%d-%d", os.Getpid(), nextPort.Add(1))
		run("ip", "netns", "add", name)
		ts.Defer(func() { exec.Command("ip", "netns", "del", name).Run() })
		run("ip", "-n", name, "link", "set", "lo", "up")
		ts.Setenv(a, name)
		names = append(names, name)
	}
	if len(names) < 2 {
		return
	}
	run("ip", "link", "add", "wire", "netns", names[0], "type", "veth", "peer", "name", "wire", "netns", names[1])
	for i, ip := range []string{"10.74.68.1/24", "10.74.68.100/24"} {
		run("ip", "-n", names[i], "addr", "add", ip, "dev", "wire")
		run("ip", "-n", names[i], "link", "set", "wire", "up")
	}
}
