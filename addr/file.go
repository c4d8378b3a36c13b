package addr

import (
	"context"
	"strconv"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Names in the file system that are opened by open(2): OPEN, CREATE, GOPEN, and the FIFO of PIPE.

var _ = addType(Type{
	Name: "OPEN", Aliases: "FILE", Params: []Param{{Name: "filename"}},
	Groups: GFD | GFIFO | GCHR | GBLK | GREG | GNAMED | GOPEN | GTERMIOS | GPACKETS, Can: ReadWrite,
	Summary: "opens a file, a device or a FIFO",
	Doc: "Opened for reading, writing or both, as the session needs it, and without any flag that no option names: a missing file is an error without creat, an old one is " +
		"overwritten in place without trunc or append. A FIFO opened in one direction waits until somebody opens its other end.",
	Examples: []Example{
		{"-u OPEN:/etc/hostname -", "prints a file"},
		{"-u - OPEN:/tmp/out,creat,trunc,perm=600", "writes standard input to a private file"},
	},
	Open: func(ctx context.Context, b *Bound, env *Env) (Source, error) {
		return b.openNamed(ctx, env, 0, openPath)
	},
	Check: (*Bound).checkAccess,
})

var _ = addType(Type{
	Name: "CREATE", Aliases: "CREAT", Params: []Param{{Name: "filename"}}, Groups: GFD | GREG | GNAMED | GPACKETS, Can: Write,
	Summary: "makes a file, or empties the one that is there, and writes to it",
	Doc:     "As creat(2) does.",
	Examples: []Example{
		{"-u - CREATE:/tmp/out", "writes standard input to a file"},
		{"-u EXEC:date CREATE:/tmp/now,perm=644", "keeps a program's output"},
	},
	Open: func(ctx context.Context, b *Bound, env *Env) (Source, error) {
		return b.openNamed(ctx, env, unix.O_CREAT|unix.O_TRUNC, openPath)
	},
})

var _ = addType(Type{
	Name: "GOPEN", Params: []Param{{Name: "filename"}},
	Groups: GFD | GFIFO | GCHR | GBLK | GREG | GSOCKET | GNAMED | GOPEN | GTERMIOS | GUNIX | GPACKETS, Can: ReadWrite,
	Summary: "opens what is there: a UNIX socket, a file, a device",
	Doc: "A UNIX socket is connected to, as by UNIX-CLIENT. To a regular file everything is appended. A file that does not exist is made if the session writes to it. Any word with a \"/\" " +
		"before the first \":\" or \",\" is short for GOPEN.",
	Examples: []Example{
		{"-u /etc/hostname -", "prints a file"},
		{"-u - /tmp/log", "appends standard input to a file, which is made if need be"},
	},
	Check: (*Bound).checkAccess,
	Open:  openAnything,
})

// openAnything is the opener of GOPEN.
func openAnything(ctx context.Context, b *Bound, env *Env) (Source, error) {
	path := b.Param(0)
	var st unix.Stat_t
	exists := false
	err := b.inside(func() error {
		if err := b.prepareName(path); err != nil {
			return err
		}
		exists = unix.Stat(path, &st) == nil
		return nil
	})
	if err != nil {
		return nil, err
	}
	extra := 0
	switch {
	case exists && st.Mode&unix.S_IFMT == unix.S_IFSOCK:
		client := LookupType("UNIX-CLIENT")
		if client == nil {
			return nil, errors.New("is a UNIX socket")
		}
		// The same words, bound already, in the groups of this type; they mean the same there.
		as := *b
		as.Type = client
		return client.Open(ctx, &as, env)
	case exists && st.Mode&unix.S_IFMT == unix.S_IFREG:
		extra = unix.O_APPEND
	case !exists && b.Mode&Write != 0:
		extra = unix.O_CREAT
	}
	return b.openNamed(ctx, env, extra, openPath)
}

// nameOpener opens a path. made says that it made an entry that is to be removed at the end.
type nameOpener func(ctx context.Context, path string, flags int, mode uint32) (fd int, made bool, err error)

// openNamed opens the name that is the address's parameter: the options for names, open, and the phases of the descriptor. flags are those of open(2) that the
// type sets unless an option takes them back.
func (b *Bound) openNamed(ctx context.Context, env *Env, flags int, open nameOpener) (Source, error) {
	path := b.Param(0)
	mode, ok := optPerm.Take(b)
	if !ok {
		mode = 0o666
	}
	var f *relay.File
	made := false
	err := b.inside(func() error {
		if b.Name != "GOPEN" { // whose opener had to look at the name before
			if err := b.prepareName(path); err != nil {
				return err
			}
		}
		flags := b.openFlags(flags)
		env.Log.Noticef("opening %s %q for %s", fileKind(path), path, b.Mode)
		var fd int
		var err error
		fd, made, err = open(ctx, path, flags|unix.O_CLOEXEC, mode)
		if err != nil {
			return errors.Wrapf(err, "open %s", path)
		}
		if err := b.afterOpen(ctx, path, fd); err != nil {
			unix.Close(fd)
			return err
		}
		f, err = relay.NewFile(fd, path)
		return err
	})
	remove := func() error { return nil }
	if optUnlinkClose.Or(b, made) {
		remove = func() error { return b.inside(func() error { return unlinkName(path) }) }
	}
	if err != nil {
		if made {
			remove()
		}
		return nil, err
	}
	return b.namedEndpoint(f, remove)
}

// checkAccess finds an access mode, as set by the options o-rdonly and o-wronly, that leaves the session nothing to do. In a session of both directions the one that is
// missing is an error of the transfer (EBADF) once there are data for it: OPEN:f,rdonly is everyday use for a file that answers nothing.
func (b *Bound) checkAccess() error {
	switch access := b.accessMode(); {
	case access == unix.O_WRONLY && b.Mode == Read:
		return errors.New("option o-wronly: the session reads from this address")
	case access == unix.O_RDONLY && b.Mode == Write:
		return errors.New("option o-rdonly: the session writes to this address")
	}
	return nil
}

// afterOpen does what options say about a name that has just been opened, up to the phase CONNECTED.
func (b *Bound) afterOpen(ctx context.Context, path string, fd int) error {
	if optUnlinkLate.Or(b, false) {
		if err := unlinkName(path); err != nil {
			return err
		}
	}
	if err := b.applyAll(fd, PhOpen, PhPastopen, PhFD); err != nil {
		return err
	}
	if err := b.waitForLocks(ctx, fd); err != nil {
		return err
	}
	return b.apply(PhConnected, fd)
}

// namedEndpoint makes the endpoint of one descriptor for all directions; remove is called after it was closed.
func (b *Bound) namedEndpoint(f *relay.File, remove func() error) (Source, error) {
	var r, w *relay.File
	if b.Mode&Read != 0 {
		r = f
	}
	if b.Mode&Write != 0 {
		w = f
	}
	ep, err := b.makeEndpoint(r, w, func() error {
		err := f.Close()
		if rerr := remove(); err == nil {
			err = rerr
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	ep.CanAnswer = canAnswer(f) // as a half of a dual address too
	return &one{ep: ep}, nil
}

// fileKind names what stands at a path, for the log.
func fileKind(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return "new file"
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "regular file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	case unix.S_IFIFO:
		return "FIFO"
	case unix.S_IFSOCK:
		return "socket"
	}
	return "file"
}

// openPath is open(2), except that the wait for the other end of a FIFO ends with ctx. made is always false: files stay.
func openPath(ctx context.Context, path string, flags int, mode uint32) (fd int, made bool, err error) {
	var st unix.Stat_t
	waits := flags&(unix.O_NONBLOCK|unix.O_EXCL) == 0 && flags&unix.O_ACCMODE != unix.O_RDWR
	if waits && unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
		fd, err = openFIFO(ctx, path, flags, mode)
	} else {
		fd, err = openRetrying(path, flags, mode)
	}
	return fd, false, err
}

func openRetrying(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// openFIFO waits in open(2), as everybody does, so that both sides of the FIFO go on at the same time. The waiting thread can't be interrupted; but it goes on once
// somebody opens the other end: if ctx ends first, this function itself does.
func openFIFO(ctx context.Context, path string, flags int, mode uint32) (int, error) {
	// A handle by which the same FIFO is found again, whatever happens to its name.
	handle, err := openRetrying(path, unix.O_PATH|unix.O_CLOEXEC|flags&unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(handle)
	again := "/proc/self/fd/" + strconv.Itoa(handle)
	type result struct {
		fd  int
		err error
	}
	opened := make(chan result, 1)
	go func() { // ends before this function returns
		fd, err := openRetrying(again, flags&^(unix.O_CREAT|unix.O_NOFOLLOW), mode)
		opened <- result{fd, err}
	}()
	select {
	case r := <-opened:
		return r.fd, r.err
	case <-ctx.Done():
	}
	both, err := openRetrying(again, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, errors.Wrapf(err, "%s: can't stop waiting", path)
	}
	defer unix.Close(both)
	if r := <-opened; r.err == nil {
		unix.Close(r.fd)
	}
	return -1, context.Cause(ctx)
}
