package tundev

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/pkg/errors"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// errEnded is what InNetNS returns when fn ended its goroutine (runtime.Goexit, or testing's FailNow).
var errEnded = errors.New("the function ended its goroutine")

// InNetNS runs fn inside a network namespace: ns is a name as known to ip-netns(8), a path (it holds a slash, for
// instance /proc/self/fd/7) or a process ID in decimal; empty is the caller's own. What fn opens there (sockets,
// devices) stays in that namespace and works from anywhere afterwards.
//
// Unless ns is empty, fn runs on a goroutine of its own, locked to its thread; goroutines it starts are not inside.
// A thread that cannot go back to where it came from is given up, so no other goroutine ever finds itself in the
// wrong namespace.
//
// To enter needs CAP_SYS_ADMIN, here and in the user namespace that owns ns, except where ns is the caller's own.
func InNetNS(ns string, fn func() error) error {
	if ns == "" {
		return fn()
	}
	// opened here and not on the new thread: the caller may itself be on a thread of its own, and mean it
	target, err := openNetNS(ns)
	if err != nil {
		return err
	}
	defer target.Close()
	runtime.LockOSThread()
	here, err := netns.Get()
	runtime.UnlockOSThread()
	if err != nil {
		return errors.Wrap(err, "open the present network namespace")
	}
	defer here.Close()
	if here.Equal(target) {
		return fn()
	}

	result := make(chan error, 1)
	go func() {
		err := errEnded
		defer func() { result <- err }() // also if fn ends the goroutine; its thread, still locked, ends with it
		err = runThere(target, ns, fn)
	}()
	return <-result
}

// runThere is the part of InNetNS that runs on the thread that moves.
func runThere(target netns.NsHandle, ns string, fn func() error) error {
	runtime.LockOSThread()
	back, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return errors.Wrap(err, "open the present network namespace")
	}
	defer back.Close()
	if err := netns.Set(target); err != nil {
		runtime.UnlockOSThread()
		return newError("enter network namespace "+ns, err, adviseEnter(err, ns))
	}
	err = fn()
	if netns.Set(back) == nil {
		runtime.UnlockOSThread()
	} // else the thread stays locked and ends with this goroutine
	return err
}

// openNetNS opens what a namespace's name, path or process ID stands for. The caller closes it.
func openNetNS(ns string) (netns.NsHandle, error) {
	var h netns.NsHandle
	var err error
	pid, notPID := strconv.Atoi(ns)
	switch {
	case strings.Contains(ns, "/"):
		h, err = netns.GetFromPath(ns)
	case notPID == nil && pid > 0:
		h, err = netns.GetFromPid(pid)
	case ns == "." || ns == "..":
		err = unix.ENOENT
	default:
		h, err = netns.GetFromName(ns)
	}
	if err == nil {
		return h, nil
	}
	var hint string
	switch {
	case os.IsPermission(err):
		hint = "the namespace belongs to another user"
	case os.IsNotExist(err) && strings.Contains(ns, "/"):
		hint = "no such file; a namespace's file looks like /run/netns/NAME or /proc/PID/ns/net"
	case os.IsNotExist(err) && notPID == nil:
		hint = "no process has this ID"
	case os.IsNotExist(err):
		hint = "ip netns list shows the names there are; ip netns add " + ns + " makes this one"
	}
	return -1, newError("open network namespace "+ns, err, hint)
}

func adviseEnter(err error, ns string) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return "entering a network namespace needs CAP_SYS_ADMIN here and in the user namespace that owns it"
	case errors.Is(err, unix.EINVAL):
		return ns + " is not a network namespace"
	}
	return ""
}
