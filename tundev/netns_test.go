package tundev

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// here returns what the calling thread's network namespace is.
func here(t testing.TB) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestInNetNS(t *testing.T) {
	needDevices(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	outside := here(t)
	path := newNS(t)
	var inside string
	within(t, path, func() { inside = here(t) })
	if inside == outside || here(t) != outside {
		t.Errorf("outside %s, inside %s, after %s", outside, inside, here(t))
	}

	// by process ID
	var child *exec.Cmd
	within(t, path, func() {
		child = exec.Command("cat")
		in, err := child.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close(); child.Wait() })
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
	})
	within(t, fmt.Sprint(child.Process.Pid), func() {
		if now := here(t); now != inside {
			t.Errorf("by process ID: %s, want %s", now, inside)
		}
	})

	// by name
	name := fmt.Sprintf("tundev-test-%d", os.Getpid())
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err == nil {
		defer netns.DeleteNamed(name)
		within(t, name, func() {
			if now := here(t); now == inside || now == outside {
				t.Errorf("by name: %s", now)
			}
		})
		d := mustOpen(t, Config{NetNS: name, Bridge: "br", Kind: TAP})
		if err := netns.DeleteNamed(name); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Counters(); err != nil { // the device keeps its namespace alive
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	} else {
		t.Logf("without ip netns: %s", out)
	}

	// one's own needs no move; the function's error comes back
	wanted := errors.New("wanted")
	for _, ns := range []string{"", path, "/proc/thread-self/ns/net"} {
		if err := InNetNS(ns, func() error { return wanted }); err != wanted {
			t.Errorf("%q: %v", ns, err)
		}
	}
	if err := InNetNS(path, func() error { runtime.Goexit(); return nil }); err != errEnded {
		t.Errorf("goroutine ended: %v", err)
	}

	for _, test := range []struct {
		ns, want string
		errno    error
	}{
		{"no-such-namespace", "ip netns add no-such-namespace", unix.ENOENT},
		{"4194999", "no process", unix.ENOENT},
		{"/no/such/file", "no such file", unix.ENOENT},
		{"/dev/null", "not a network namespace", unix.EINVAL},
		{"..", "", unix.ENOENT},
	} {
		err := InNetNS(test.ns, func() error { t.Errorf("%s: entered", test.ns); return nil })
		if !errors.Is(err, test.errno) || !strings.Contains(err.Error(), test.ns) || !strings.Contains(Advice(err), test.want) {
			t.Errorf("%s: %v (%s)", test.ns, err, Advice(err))
		}
	}
	if here(t) != outside {
		t.Error("not back")
	}
}
