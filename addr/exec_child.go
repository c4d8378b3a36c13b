package addr

import (
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// The times a program gets to end: after the end of its input at least this, if -t says no more; after SIGTERM; then comes SIGKILL.
const (
	childLinger = 500 * time.Millisecond
	childTerm   = time.Second
)

// child is a running program.
type child struct {
	pid   int
	group int           // what signals are sent to: the PID, or negative the process group that is its own
	done  chan struct{} // closed when the program has ended and its status is known

	mu      sync.Mutex
	reaped  bool // the PID may be somebody else's by now
	stopped bool // its end is wanted: our ends of the link are closed
	cut     bool // its end is wanted, and output of it was thrown away
	killed  bool // we have sent it a signal
	ended   unix.WaitStatus
}

// startProgram forks and executes. It runs on a thread that Bound.inside has prepared, whose namespace, directory and umask the program inherits.
func (b *Bound) startProgram(env *Env, c command, l *link) (*child, error) {
	var who *account
	for _, k := range []Key[*account]{optSuD, optSu} {
		if a, ok := k.Get(b); ok {
			who = a
		}
	}
	sys, own := b.processAttributes(who)
	pidfd := -1
	sys.PidFD = &pidfd
	attr := &syscall.ProcAttr{Env: b.environment(env, who), Sys: sys}
	for _, fd := range b.descriptors(l) {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	if sys.Chroot != "" {
		attr.Dir = "/" // else its working directory would be outside its root
	}
	pid, err := syscall.ForkExec(c.path, c.argv, attr)
	if err == syscall.ENOEXEC { // a script without "#!" runs in a shell, as execvp(3) has it
		pid, err = syscall.ForkExec("/bin/sh", append([]string{"sh", c.path}, c.argv[1:]...), attr)
	}
	if err != nil {
		return nil, errors.Wrapf(err, "exec %s", c.path)
	}
	p := &child{pid: pid, group: pid, done: make(chan struct{})}
	if own {
		p.group = -pid
	}
	go p.reap(pidfd, env)
	return p, nil
}

// processAttributes returns what the options say about the program's process. own says that it leads a process group of its own.
func (b *Bound) processAttributes(who *account) (sys *syscall.SysProcAttr, own bool) {
	sys = &syscall.SysProcAttr{Chroot: optChroot.Or(b, "")}
	pgid, havePgid := optPgid.Get(b)
	if pgid == 1 { // as socat has it; no other program can join the group of init
		pgid = 0
	}
	switch {
	case optSetsid.Or(b, false): // which makes a group, too: a wish for another one was refused by checkExec
		sys.Setsid, own = true, true
	case havePgid:
		sys.Setpgid, sys.Pgid, own = true, pgid, pgid == 0
	case !inForeground():
		sys.Setpgid, own = true, true
	}
	uid, haveUID := optSetuid.Get(b)
	gid, haveGID := optSetgid.Get(b)
	switch {
	case who != nil:
		sys.Credential = &syscall.Credential{Uid: who.uid, Gid: who.gid, Groups: who.groups}
	case haveUID || haveGID:
		sys.Credential = &syscall.Credential{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid()), NoSetGroups: true}
	}
	if haveUID {
		sys.Credential.Uid = uint32(uid)
	}
	if haveGID {
		sys.Credential.Gid = uint32(gid)
	}
	return sys, own
}

// inForeground says whether our process group is the one that its terminal talks to.
func inForeground() bool {
	tty, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false // there is no terminal
	}
	defer unix.Close(tty)
	group, err := unix.IoctlGetInt(tty, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// reap waits for the program's end and reports it. It owns pidfd, which is -1 on a kernel without pidfds (before Linux 5.4).
func (p *child) reap(pidfd int, env *Env) {
	if pidfd < 0 || !waitReadable(pidfd) {
		// This blocks a thread for each program.
		for unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
	}
	p.mu.Lock()
	for {
		if _, err := unix.Wait4(p.pid, &p.ended, 0, nil); err != unix.EINTR {
			break
		}
	}
	p.reaped = true
	p.mu.Unlock()
	p.report(env)
	close(p.done)
}

// report tells of a program that failed, unless it ended as we wanted it to.
func (p *child) report(env *Env) {
	p.mu.Lock()
	ws, stopped, killed, cut := p.ended, p.stopped, p.killed, p.cut
	p.mu.Unlock()
	status, how := ws.ExitStatus(), "with status "+strconv.Itoa(ws.ExitStatus())
	if ws.Signaled() {
		status, how = 128+int(ws.Signal()), "on signal "+strconv.Itoa(int(ws.Signal()))
	}
	// A shell says 128+N of itself, too, when signal N ended what it ran.
	switch unix.Signal(status - 128) {
	case unix.SIGTERM, unix.SIGKILL:
		cut = cut || killed
	case unix.SIGPIPE:
		cut = cut || stopped
	}
	switch {
	case status == 0:
	case cut:
		env.Log.Infof("waitpid(): child %d exited %s", p.pid, how)
	default:
		env.Log.Warnf("waitpid(): child %d exited %s", p.pid, how)
		if env.ChildFailed != nil {
			env.ChildFailed(status)
		}
	}
}

// waitReadable waits in the runtime's poller until a descriptor is readable, and closes it. It returns false at once if that can't be waited for.
func waitReadable(fd int) bool {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return false
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
	return err == nil
}

// expectEnd is called before our ends of the link are closed: that the program dies of it is no failure from now on. cut says that output of it is thrown away; then it may
// complain about that in its own way.
func (p *child) expectEnd(cut bool) {
	p.mu.Lock()
	p.stopped, p.cut = true, cut
	p.mu.Unlock()
}

// end waits for the program, whose input has ended, and makes it end if it does not.
func (p *child) end(env *Env) {
	for _, step := range []struct {
		wait   time.Duration
		signal unix.Signal
	}{{max(env.Linger, childLinger), unix.SIGTERM}, {childTerm, unix.SIGKILL}} {
		if p.endedWithin(step.wait) {
			return
		}
		env.Log.Infof("child %d has not ended, sending signal %d", p.pid, int(step.signal))
		p.signal(step.signal)
	}
	<-p.done
}

func (p *child) endedWithin(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.done:
		return true
	case <-t.C:
		return false
	}
}

// signal sends a signal, unless the program is gone.
func (p *child) signal(sig unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		p.killed = true
		unix.Kill(p.group, sig)
	}
}

// DropInherited keeps what the program was started with, beyond standard input, output and error, from the programs that it starts. Opening an address does so too.
func DropInherited() { dropInherited() }

// dropInherited keeps what we were started with, beyond standard input, output and error, from the programs that we start.
var dropInherited = sync.OnceFunc(func() {
	if unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC) == nil { // Linux 5.11
		return
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range fds {
		if n, err := parseUint(e.Name(), 1<<31-1); err == nil && n > 2 {
			unix.CloseOnExec(int(n))
		}
	}
})
