package addr

import (
	"runtime"
	"time"

	"tunsplice/relay"
	"tunsplice/tundev"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// The options that every address type takes, and those of whole families.
var (
	optNetns = declare(kindString, Option{Name: "netns", Groups: GPROCESS, Phase: PhInit,
		Doc: "open the address in this network namespace: a name of ip netns, a path, or the PID of a process"})
	optUmask = declare(kindMode, Option{Name: "umask", Groups: GPROCESS, Phase: PhInit, Doc: "file mode mask while the address is opened, and of programs"})
	optChdir = declare(kindString, Option{Name: "chdir", Aliases: "cd", Groups: GPROCESS, Phase: PhInit,
		Doc: "working directory while the address is opened, and of programs"})

	optRetry    = declare(kindUint, Option{Name: "retry", Groups: GRETRY, Phase: PhInit, Doc: "number of further attempts after the first has failed"})
	optForever  = declare(kindBool, Option{Name: "forever", Groups: GRETRY, Phase: PhInit, Doc: "try without limit"})
	optInterval = declare(kindDuration, Option{Name: "interval", Aliases: "intervall", Groups: GRETRY, Phase: PhInit,
		Doc: "pause between attempts in seconds (default 1)"})

	optFraming = declare(kindFraming, Option{Name: "framing", Groups: GPACKETS, Phase: PhOffset, Ours: true,
		Doc: "how packets travel over this byte stream: auto, link, none, u16, qemu or slip (default auto where the peer can answer, else none)"})
	optHelloTimeout = declare(kindDuration, Option{Name: "hello-timeout", Groups: GPACKETS, Phase: PhOffset, Ours: true,
		Doc: "how long packets wait for the peer's hello before they go unframed, in seconds (default 1)"})
)

var kindFraming = kindOf[relay.Framing]{"FRAMING", need(func(s string) (relay.Framing, error) {
	f, ok := relay.ParseFraming(s)
	if !ok {
		return 0, withHint{errors.Errorf("unknown framing %q (auto, link, none, u16, qemu, slip)", s), "did you mean " + Suggest(s, relay.FramingNames()) + "?"}
	}
	return f, nil
})}

// checkEvery checks the options that every address takes.
func (b *Bound) checkEvery() error {
	if optFraming.Or(b, 0) == relay.FramingLink && b.Mode != ReadWrite {
		return errors.New("framing=link needs both directions: the peer must be able to answer")
	}
	if err := b.hostsAccess().check(); err != nil {
		return errors.Wrap(err, "option "+optTCPWrap.opt.Name)
	}
	if err := b.checkRange(); err != nil {
		return err
	}
	if err := b.bindKey(); err != nil {
		return err
	}
	if ns, given := optNetns.Get(b); given && ns == "" {
		return errors.New("netns is empty: a name, a path or a process ID is wanted")
	}
	if err := b.checkHub(); err != nil {
		return err
	}
	if err := b.checkStreams(); err != nil {
		return err
	}
	return b.checkHalves()
}

// inside calls fn as the options netns, umask and chdir demand. These belong to a thread here, not to the process: other addresses see nothing of it. What fn
// leaves open (sockets, files, programs) keeps what it was made with.
func (b *Bound) inside(fn func() error) error {
	if ns, ok := optNetns.Get(b); ok {
		// A thread that is chosen in there: so the other options come inside.
		return tundev.InNetNS(ns, func() error { return b.insideFS(fn) })
	}
	return b.insideFS(fn)
}

// insideFS is inside without netns.
func (b *Bound) insideFS(fn func() error) error {
	mask, haveMask := optUmask.Get(b)
	dir, haveDir := optChdir.Get(b)
	if !haveMask && !haveDir {
		return fn()
	}
	return withOwnFS(func() error {
		if haveDir {
			if err := unix.Chdir(dir); err != nil {
				return errors.Wrapf(err, "chdir %s", dir)
			}
		}
		if haveMask {
			unix.Umask(int(mask))
		}
		return fn()
	})
}

// withOwnFS runs fn on a thread that has a working directory and umask of its own (CLONE_FS). Both are put back afterwards: the thread will do other work, and the first thread of
// the process is what /proc shows of it.
func withOwnFS(fn func() error) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		runtime.UnlockOSThread()
		return errors.Wrap(err, "unshare")
	}
	here, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return errors.Wrap(err, "open the working directory")
	}
	defer unix.Close(here)
	mask := unix.Umask(0)
	unix.Umask(mask)
	err = fn()
	unix.Umask(mask)
	if unix.Fchdir(here) == nil {
		runtime.UnlockOSThread()
	} // else the thread stays locked and ends with this goroutine
	return err
}

// packetOptions puts the options that govern packets over a byte stream into an endpoint.
func (b *Bound) packetOptions(ep *relay.Endpoint) {
	ep.Framing = optFraming.Or(b, relay.FramingUnset)
	ep.HelloTimeout = optHelloTimeout.Or(b, time.Duration(0))
	b.keepUp(ep)
}
