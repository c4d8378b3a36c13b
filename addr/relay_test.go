package addr

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tunsplice/relay"
)

// The tests of address types run whole relays. What concerns standard streams, signals and exit status needs a process of its own: the test binary is then
// the program, with a command line like socat's.

func init() {
	if os.Getenv("ADDR_TEST_RELAY") != "" {
		os.Exit(relayMain(os.Args[1:]))
	}
}

// relayMain is a small tunsplice: flags -u, -U, -t and -d, two addresses.
func relayMain(args []string) int {
	os.Unsetenv("ADDR_TEST_RELAY")
	ltr, rtl, linger, level := true, true, 0.5, relay.Warn
	for len(args) > 2 {
		switch args[0] {
		case "-u":
			rtl = false
		case "-U":
			ltr = false
		case "-d":
			level = relay.Info
		case "-t":
			args = args[1:]
			fmt.Sscan(args[0], &linger)
		default:
			return 2
		}
		args = args[1:]
	}
	ctx, cancel := context.WithCancel(context.Background())
	var signalled atomic.Int32
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		signalled.Store(int32((<-sigs).(syscall.Signal)))
		cancel()
	}()
	var mu sync.Mutex
	log := relay.NewLog(level, func(l relay.Level, text string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(os.Stderr, "%c %s\n", l.Letter(), text)
	})
	var failed atomic.Bool
	env := &Env{Log: log, Program: "relay", Version: "9.9", Linger: time.Duration(linger * float64(time.Second)),
		ChildFailed: func(int) { failed.Store(true) }, PeerEnv: []string{"PEERADDR=10.0.0.1"}}
	err := relayOnce(ctx, env, args[0], args[1], ltr, rtl)
	switch n := signalled.Load(); {
	case n != 0:
		return 128 + int(n)
	case err != nil:
		log.Errorf("%v", err)
		return 1
	case failed.Load():
		return 1
	}
	return 0
}

// relayOnce binds both addresses, opens them, and joins them.
func relayOnce(ctx context.Context, env *Env, leftArg, rightArg string, ltr, rtl bool) error {
	left, err := bindArg(leftArg, mode(ltr, rtl))
	if err != nil {
		return err
	}
	right, err := bindArg(rightArg, mode(rtl, ltr))
	if err != nil {
		return err
	}
	open := func(a *Address) (*relay.Endpoint, error) {
		src, err := a.Open(ctx, env)
		if err != nil {
			return nil, err
		}
		defer src.Close()
		return src.Next(ctx)
	}
	l, err := open(left)
	if err != nil {
		return err
	}
	r, err := open(right)
	if err != nil {
		if l.Close != nil {
			l.Close()
		}
		return err
	}
	_, err = relay.Run(ctx, l, r, relay.Config{LeftToRight: ltr, RightToLeft: rtl, Linger: env.Linger, Log: env.Log})
	return err
}

func mode(read, write bool) Mode {
	var m Mode
	if read {
		m |= Read
	}
	if write {
		m |= Write
	}
	return m
}

func bindArg(arg string, m Mode) (*Address, error) {
	spec, err := Parse(arg)
	if err != nil {
		return nil, err
	}
	return Bind(spec, BindConfig{Mode: m})
}

// run is a program that was run to its end.
type run struct {
	out, err string
	status   int
}

// relayCmd returns the command that runs a relay in directory dir.
func relayCmd(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "ADDR_TEST_RELAY=1", "GORACE=atexit_sleep_ms=0")
	cmd.Dir = dir
	return cmd
}

func socatCmd(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("socat")
	if err != nil {
		t.Skip("plain socat is not installed")
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	return cmd
}

func finish(t *testing.T, cmd *exec.Cmd, stdin string) run {
	t.Helper()
	var out, errs bytes.Buffer
	if cmd.Stdin == nil {
		cmd.Stdin = strings.NewReader(stdin)
	}
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 100 * time.Millisecond // programs that outlive the relay may hold its standard error
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer stop.Stop()
	cmd.Wait()
	return run{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// relayed runs a relay to its end.
func relayed(t *testing.T, stdin string, args ...string) run {
	t.Helper()
	return finish(t, relayCmd(t, t.TempDir(), args...), stdin)
}

// likeSocat runs the same command line with plain socat and here, each in a directory prepared by prepare, and compares output, exit status, and the files that are there afterwards.
func likeSocat(t *testing.T, prepare func(dir string), stdin string, args ...string) {
	t.Helper()
	theirDir, ourDir := t.TempDir(), t.TempDir()
	if prepare != nil {
		prepare(theirDir)
		prepare(ourDir)
	}
	theirs := finish(t, socatCmd(t, theirDir, args...), stdin)
	ours := finish(t, relayCmd(t, ourDir, args...), stdin)
	if ours.out != theirs.out || ours.status != theirs.status {
		t.Errorf("%q: got %q, status %d, stderr %q; socat %q, status %d, stderr %q", args, ours.out, ours.status, ours.err, theirs.out, theirs.status, theirs.err)
	}
	if a, b := listing(t, ourDir), listing(t, theirDir); a != b {
		t.Errorf("%q: left behind\n%s\nsocat\n%s", args, a, b)
	}
}

// listing describes all that is in a directory.
func listing(t *testing.T, dir string) string {
	var sb strings.Builder
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&sb, "%s %v %d:%d %d", e.Name(), info.Mode(), st.Uid, st.Gid, st.Size)
		if info.Mode().IsRegular() {
			data, _ := os.ReadFile(filepath.Join(dir, e.Name()))
			fmt.Fprintf(&sb, " %q", data)
		}
		sb.WriteByte('\n')
	}
	return sb.String()
}

// waitFor polls until ok; the tests' way to wait for what another process does.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timeout waiting for %s", what)
		}
	}
}

// leavesNothing checks that a test leaves as many descriptors and children behind as it found.
func leavesNothing(t *testing.T) {
	t.Helper()
	dropInherited()
	before := openFiles(t)
	t.Cleanup(func() {
		var now map[string]string
		deadline := time.Now().Add(5 * time.Second)
		for {
			now = openFiles(t)
			if len(now) <= len(before) {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("descriptors: %v, before %v", now, before)
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		var ws syscall.WaitStatus
		if pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil); err != syscall.ECHILD {
			t.Errorf("a child is left: wait4 returns %d, %v", pid, err)
		}
	})
}

func openFiles(t *testing.T) map[string]string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "/proc/") {
			m[e.Name()] = to
		}
	}
	return m
}

// endpoint opens an address in this process.
func endpoint(t *testing.T, env *Env, m Mode, arg string) *relay.Endpoint {
	t.Helper()
	ep, err := tryEndpoint(env, m, arg)
	if err != nil {
		t.Fatalf("%s: %v", arg, err)
	}
	return ep
}

func tryEndpoint(env *Env, m Mode, arg string) (*relay.Endpoint, error) {
	a, err := bindArg(arg, m)
	if err != nil {
		return nil, err
	}
	src, err := a.Open(context.Background(), env)
	if err != nil {
		return nil, err
	}
	return src.Next(context.Background())
}
