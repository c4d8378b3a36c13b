package tundev

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAdvice: errors that can't be brought about here, but in containers and on broken machines.
func TestAdvice(t *testing.T) {
	for _, test := range []struct {
		errno      unix.Errno
		path, want string
	}{
		{unix.ENOENT, DefaultClonePath, "mknod -m 0666 /dev/net/tun c 10 200"},
		{unix.ENOENT, "/elsewhere", "/dev/net/tun"},
		{unix.ENODEV, DefaultClonePath, "modprobe tun"},
		{unix.ENXIO, DefaultClonePath, "modprobe tun"},
		{unix.EACCES, DefaultClonePath, "chmod 0666 /dev/net/tun"},
		{unix.EPERM, DefaultClonePath, "--device /dev/net/tun"},
	} {
		err := fmt.Errorf("TUN: %w", newError("open "+test.path, test.errno, adviseClone(test.path, test.errno)))
		if hint := Advice(err); !strings.Contains(hint, test.want) {
			t.Errorf("%v: %q", err, hint)
		}
	}
	for _, errno := range []unix.Errno{unix.E2BIG, unix.ENFILE} {
		if adviseAttach(&Config{}, errno) == "" {
			t.Errorf("%v: no advice", errno)
		}
	}
	if Advice(nil) != "" || Advice(os.ErrClosed) != "" {
		t.Error("advice without reason")
	}
	if adviseRoute("x", Route{}, unix.EPERM) == "" || adviseAddr("x", 1500, address("fd00::1/64"), unix.EOPNOTSUPP) == "" || adviseUndo(unix.EPERM) == "" {
		t.Error("no advice")
	}
	if got := flagWords(unix.IFF_UP, 0) + "; " + flagWords(0, unix.IFF_UP) + "; " + flagWords(unix.IFF_UP, unix.IFF_MULTICAST); got != "up; up off; up on, multicast off" {
		t.Error(got)
	}
}

// TestHolder: who has a busy device is named.
func TestHolder(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	prepared(t, Config{Name: "held", NetNS: ns})
	var holder *exec.Cmd
	within(t, ns, func() {
		// socat as the foreign holder, its standard input kept open
		holder = exec.Command("socat", "STDIO", "TUN,tun-name=held,iff-no-pi")
		in, err := holder.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := holder.Start(); err != nil {
			t.Skipf("needs socat: %v", err)
		}
		t.Cleanup(func() { holder.Process.Kill(); in.Close(); holder.Wait() })
	})
	want := fmt.Sprintf("in use by process %d (socat)", holder.Process.Pid)
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		if info, err := find(ns, "held"); err != nil || time.Now().After(deadline) {
			t.Fatalf("%+v, %v", info, err)
		} else if info.InUse {
			break
		}
	}
	d, err := Open(Config{Name: "held", NetNS: ns})
	if err == nil {
		d.Close()
	}
	if !errors.Is(err, unix.EBUSY) || !strings.Contains(Advice(err), want) {
		t.Errorf("%v (%s), want %q", err, Advice(err), want)
	}
}
