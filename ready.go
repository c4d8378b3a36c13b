package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"tunsplice/addr"
	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Ready: told once to whoever asked for it (--ready-fd, --ready-file, --background, the service manager that NOTIFY_SOCKET names), when the program does what it was started for.

// readiness tells that the program is ready.
type readiness struct {
	log    *relay.Log
	cancel func(error) // ends the program: nobody would ever hear that it is ready

	fd       int           // of --ready-fd, -1: none
	file     *ownFile      // of --ready-file
	notify   *net.UnixConn // to the service manager, nil: none
	starter  *starter      // of --background
	once     sync.Once
	mu       sync.Mutex
	told     bool // the service manager knows that we are ready
	released bool
}

// notifyVariable names the socket of the service manager (sd_notify(3)).
const notifyVariable = "NOTIFY_SOCKET"

// checkReadyFD looks whether the descriptor of --ready-fd can be used.
func (p *invocation) checkReadyFD(left, right *addr.Address) error {
	fd := int(p.ReadyFD)
	if fd < 0 {
		return nil
	}
	for _, a := range []*addr.Address{left, right} {
		for _, used := range a.Descriptors() {
			if used == fd {
				return errors.Errorf("--ready-fd: descriptor %d is used by address %q", fd, a.Text)
			}
		}
	}
	if p.Background && fd <= 2 {
		return hinted{errors.Errorf("--ready-fd: --background makes /dev/null of descriptor %d", fd), "take a higher number, as in --ready-fd=3 3>FILE"}
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	switch {
	case err != nil:
		return hinted{errors.Wrapf(err, "--ready-fd: descriptor %d is not open", fd), "open it in the shell, as with " + strconv.Itoa(fd) + ">FILE"}
	case flags&unix.O_ACCMODE == unix.O_RDONLY || flags&unix.O_PATH != 0:
		return errors.Errorf("--ready-fd: descriptor %d is not open for writing", fd)
	}
	return nil
}

// prepareReady takes hold of all that readiness is told through. It comes before anything is opened, and before the process changes root directory or user.
func (p *invocation) prepareReady(cancel func(error)) (r *readiness, err error) {
	r = &readiness{log: p.log, cancel: cancel, starter: p.starter, fd: int(p.ReadyFD)}
	if p.ReadyFile != "" {
		if r.file, err = ownPath(p.ReadyFile); err == nil {
			err = r.file.removeStale()
		}
		if err != nil {
			return r, errors.Wrapf(unwrapPath(err), "--ready-file %s", p.ReadyFile)
		}
	}
	if r.fd > 2 {
		unix.CloseOnExec(r.fd)
	}
	if name := os.Getenv(notifyVariable); name != "" {
		os.Unsetenv(notifyVariable) // it is not for programs that we start
		if r.notify, err = dialNotify(name); err != nil {
			p.log.Warnf("%s %s: %s: the service manager is told nothing", notifyVariable, name, unwrapPath(err))
		}
	}
	return r, nil
}

// dialNotify connects to the socket of the service manager; a name that begins with "@" is abstract. Connected, it can be reached from any root directory.
func dialNotify(name string) (*net.UnixConn, error) {
	if !strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "@") {
		return nil, errors.New("no path and no abstract name")
	}
	return net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
}

// notifyPatience is how long the service manager may take to hear that we are ready.
const notifyPatience = 5 * time.Second

// send tells the service manager something that it can do without: if its queue is full, nothing.
func (r *readiness) send(message string) {
	if r.notify == nil {
		return
	}
	raw, err := r.notify.SyscallConn()
	if err != nil {
		return // closed: the program ends
	}
	raw.Write(func(fd uintptr) bool {
		_, err = unix.Write(int(fd), []byte(message))
		return true
	})
	if err != nil && err != unix.EAGAIN {
		r.log.Infof("%s: %s", notifyVariable, err)
	}
}

// status shows the service manager's user how far we are.
func (r *readiness) status(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.told {
		r.send("STATUS=" + strings.ReplaceAll(text, "\n", " "))
	}
}

// reached tells that the program is ready, the first time it is called. It does not wait for anybody.
func (r *readiness) reached() {
	r.once.Do(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.released {
			return
		}
		if err := r.tell(); err != nil {
			r.cancel(err)
		}
	})
}

// tell is the work of reached.
func (r *readiness) tell() error {
	if r.file != nil {
		if err := r.file.write(strconv.Itoa(os.Getpid()) + "\n"); err != nil {
			return errors.Wrapf(unwrapPath(err), "--ready-file %s", r.file.path)
		}
	}
	if r.fd >= 0 {
		if err := r.tellFD(); err != nil {
			return errors.Wrapf(err, "--ready-fd: descriptor %d", r.fd)
		}
	}
	if r.notify != nil {
		r.notify.SetWriteDeadline(time.Now().Add(notifyPatience))
		if _, err := r.notify.Write([]byte("READY=1\nSTATUS=ready\nMAINPID=" + strconv.Itoa(os.Getpid()))); err != nil {
			return errors.Wrap(unwrapPath(err), notifyVariable)
		}
	}
	r.told = true
	r.starter.ready(r.log)
	return nil
}

// tellFD writes to the descriptor of --ready-fd and closes it. The numbers of the standard descriptors are not set free: /dev/null takes their place.
func (r *readiness) tellFD() error {
	const line = "ready\n" // a pipe takes it whole or not at all (pipe(7))
	for {
		_, err := unix.Write(r.fd, []byte(line))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil && err != unix.EPIPE: // EPIPE: nobody waits any more
			return err
		}
		break
	}
	if r.fd <= 2 {
		return nullOver(r.fd)
	}
	return unix.Close(r.fd)
}

// nullOver makes /dev/null of a standard descriptor.
func nullOver(fd int) error {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return errors.Wrap(err, os.DevNull)
	}
	defer unix.Close(null)
	return errors.Wrapf(unix.Dup3(null, fd, 0), "descriptor %d", fd)
}

// end takes everything back at the end of the program; whoever still waits sees that it will never be ready. It may be called more than once.
func (r *readiness) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.released {
		return
	}
	r.released = true
	r.send("STOPPING=1")
	if r.file != nil {
		if err := r.file.remove(); err != nil {
			r.log.Warnf("--ready-file %s: %s", r.file.path, unwrapPath(err))
		}
	}
}

// ownFile is a file that exists as long as something is true. Its directory is held open, so that it is found from any root and working directory.
type ownFile struct {
	path string
	dir  *os.Root
	name string
	made os.FileInfo // what we made, nil: nothing
}

// ownPath opens the directory of a file that is to be made.
func ownPath(path string) (*ownFile, error) {
	dir, name := filepath.Split(path)
	if name == "" || name == "." || name == ".." {
		return nil, errors.New("no name of a file")
	}
	if dir == "" {
		dir = "."
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &ownFile{path: path, dir: root, name: name}, nil
}

// removeStale removes what an earlier run left behind.
func (o *ownFile) removeStale() error {
	st, err := o.dir.Lstat(o.name)
	switch {
	case os.IsNotExist(err):
		return nil
	case err != nil:
		return err
	case st.IsDir():
		return unix.EISDIR
	}
	return o.dir.Remove(o.name)
}

// write makes the file with its whole content at once.
func (o *ownFile) write(text string) error {
	f, err := o.create(text, false)
	if err != nil {
		return err
	}
	return f.Close()
}

// create is write for a file that stays open, and locked. fresh says that there is none of that name: if there is one after all, the error is EEXIST.
func (o *ownFile) create(text string, fresh bool) (*os.File, error) {
	temporary := "." + o.name + "." + strconv.Itoa(os.Getpid())
	f, err := o.dir.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString(text)
	if err == nil {
		o.made, err = f.Stat()
	}
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	switch {
	case err != nil:
	case fresh:
		err = o.dir.Link(temporary, o.name)
	default:
		err = o.dir.Rename(temporary, o.name)
	}
	if err != nil || fresh {
		o.dir.Remove(temporary)
	}
	if err != nil {
		f.Close()
		o.made = nil
		return nil, err
	}
	return f, nil
}

// remove removes the file if it is still the one that was made here.
func (o *ownFile) remove() error {
	if o == nil || o.made == nil {
		return nil
	}
	made := o.made
	o.made = nil
	now, err := o.dir.Lstat(o.name)
	switch {
	case os.IsNotExist(err):
		return nil
	case err != nil:
		return err
	case !os.SameFile(made, now):
		return nil
	}
	return o.dir.Remove(o.name)
}
