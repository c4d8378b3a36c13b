package addr

import (
	"context"
	"os"
	"strconv"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Inherited descriptors: STDIO, STDIN, STDOUT, STDERR and FD. They belong to others too (a shell, the programs of a pipeline), so they are borrowed: their flags
// stay as they are, and at the end they are left open. As with socat, the end of writing does nothing to them, not even to a socket; shut-down
// and shut-close ask for more.

const groupsFD = GFD | GFIFO | GCHR | GBLK | GREG | GSOCKET | GTERMIOS | GUNIX | GIP4 | GIP6 | GUDP | GTCP | GSCTP | GDCCP | GUDPLITE | GPACKETS

var _ = addType(Type{
	Name: "STDIO", Groups: groupsFD, Can: ReadWrite,
	Summary: "standard input and standard output",
	Doc:     "Reads descriptor 0 and writes descriptor 1. The short form is \"-\".",
	Examples: []Example{
		{"- TCP:www.example.org:80", "talks to a web server from the terminal"},
		{"-u - OPEN:/tmp/log,creat,append", "appends standard input to a file"},
	},
	Check: func(b *Bound) error { return b.checkInherited(0, 1) },
	Open:  func(ctx context.Context, b *Bound, env *Env) (Source, error) { return b.openInherited(ctx, env, 0, 1) },
})

var (
	_ = addType(inherited("STDIN", 0, Read, "standard input", []Example{
		{"-u STDIN TCP:localhost:4711", "sends standard input to a server"},
		{"STDIN!!STDERR TCP:localhost:4711", "sends standard input and shows the answers on standard error"},
	}))
	_ = addType(inherited("STDOUT", 1, Write, "standard output", []Example{
		{"-u TCP-LISTEN:4711 STDOUT", "prints what a client sends"},
		{"TCP:localhost:4711 /tmp/request!!STDOUT", "sends a file and prints the answer"},
	}))
	_ = addType(inherited("STDERR", 2, Write, "standard error", []Example{
		{"-u /etc/hostname STDERR", "prints a file on standard error"},
		{"-!!STDERR EXEC:cat", "shows the answers of a program on standard error"},
	}))
)

// inherited makes the row of an address type that is one of the three standard descriptors. All of them can be used in both directions if the descriptor can, as a
// terminal or a socket.
func inherited(name string, fd int, usual Mode, what string, examples []Example) Type {
	return Type{
		Name: name, Groups: groupsFD, Can: ReadWrite,
		Summary:  what,
		Doc:      "Uses descriptor " + strconv.Itoa(fd) + ", usually for " + usual.String() + "; in the other direction too if it is open for it, as terminals and sockets are.",
		Examples: examples,
		narrow:   func(*Single) Mode { return accessMode(fd) },
		Check:    func(b *Bound) error { return b.checkInherited(fd, fd) },
		Open: func(ctx context.Context, b *Bound, env *Env) (Source, error) {
			return b.openInherited(ctx, env, fd, fd)
		},
	}
}

var _ = addType(Type{
	Name: "FD", Params: []Param{{Name: "fdnum"}}, Groups: groupsFD, Can: ReadWrite,
	Summary: "a descriptor that was inherited under this number",
	Doc:     "The descriptor must be open when the program starts. The short form is the number alone.",
	Examples: []Example{
		{"-u FD:0 STDOUT", "copies standard input to standard output"},
		{"-u EXEC:date 2", "prints the date on standard error"},
	},
	narrow: func(s *Single) Mode {
		if len(s.Params) != 1 {
			return ReadWrite
		}
		n, err := parseUint(s.Params[0].Text, 1<<20)
		if err != nil {
			return ReadWrite
		}
		return accessMode(int(n))
	},
	Check: func(b *Bound) error {
		n, err := fdNumber(b)
		if err != nil {
			return err
		}
		return b.checkInherited(n, n)
	},
	Open: func(ctx context.Context, b *Bound, env *Env) (Source, error) {
		n, err := fdNumber(b)
		if err != nil {
			return nil, err
		}
		return b.openInherited(ctx, env, n, n)
	},
})

func fdNumber(b *Bound) (int, error) {
	n, err := parseUint(b.Param(0), 1<<20)
	return int(n), errors.Wrapf(err, "descriptor %q", b.Param(0))
}

// checkInherited checks that the descriptors are open for the directions in which the session uses them.
func (b *Bound) checkInherited(rfd, wfd int) error {
	for _, half := range []struct {
		fd       int
		mode     Mode
		unusable int
	}{{rfd, Read, unix.O_WRONLY}, {wfd, Write, unix.O_RDONLY}} {
		if b.Mode&half.mode == 0 {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(half.fd), unix.F_GETFL, 0)
		switch {
		case err == unix.EBADF:
			return withHint{errors.Wrapf(err, "descriptor %d is not open", half.fd), "open it in the shell, as with " + strconv.Itoa(half.fd) + "<>FILE"}
		case err != nil:
			return errors.Wrapf(err, "descriptor %d", half.fd)
		case flags&unix.O_PATH != 0 || flags&unix.O_ACCMODE == half.unusable:
			return withHint{errors.Errorf("descriptor %d is not open for %s", half.fd, half.mode), "-u and -U use an address in one direction only"}
		}
	}
	return nil
}

// openInherited makes an endpoint of descriptors that were handed to the program.
func (b *Bound) openInherited(ctx context.Context, env *Env, rfd, wfd int) (Source, error) {
	var files []*relay.File
	closeAll := func() error { return closeFiles(files) }
	borrow := func(fd int) (*relay.File, error) {
		// What an option sets here is set for the other holders too: that is what was asked for.
		if err := b.apply(PhFD, fd); err != nil {
			return nil, err
		}
		if err := b.waitForLocks(ctx, fd); err != nil {
			return nil, err
		}
		if err := b.apply(PhConnected, fd); err != nil {
			return nil, err
		}
		f, err := relay.BorrowFile(fd, b.Label())
		if err == nil {
			files = append(files, f)
		}
		return f, err
	}
	var r, w *relay.File
	err := b.inside(func() (err error) {
		if b.Mode&Read != 0 {
			if r, err = borrow(rfd); err != nil {
				return err
			}
		}
		switch {
		case b.Mode&Write == 0:
		case r != nil && rfd == wfd:
			w = r
		default:
			w, err = borrow(wfd)
		}
		return err
	})
	if err != nil {
		closeAll()
		return nil, err
	}
	switch {
	case b.Mode == Read:
		env.Log.Noticef("using %s for reading", describeFD(rfd))
	case b.Mode == Write:
		env.Log.Noticef("using %s for writing", describeFD(wfd))
	case rfd == wfd:
		env.Log.Noticef("reading from and writing to %s", describeFD(wfd))
	default:
		env.Log.Noticef("reading from and writing to stdio")
	}
	ep, err := b.makeEndpoint(r, w, closeAll)
	if err != nil {
		return nil, err
	}
	if carriesDatagrams(r) || carriesDatagrams(w) {
		ep.Traffic = relay.Datagrams
	}
	ep.CanAnswer = (r == nil || canAnswer(r)) && (w == nil || canAnswer(w)) // as a half of a dual address too
	return &one{ep: ep}, nil
}

// describeFD names an inherited descriptor in the log.
func describeFD(fd int) string {
	if fd <= 2 {
		return [...]string{"stdin", "stdout", "stderr"}[fd]
	}
	return "file descriptor " + strconv.Itoa(fd)
}

// closeFiles closes each of the files, and returns the first error.
func closeFiles(files []*relay.File) error {
	var err error
	for _, f := range files {
		if cerr := f.Close(); err == nil && !errors.Is(cerr, os.ErrClosed) {
			err = cerr
		}
	}
	return err
}

// carriesDatagrams says whether the descriptor is a socket that keeps the borders of what is written.
func carriesDatagrams(f *relay.File) bool {
	if f == nil {
		return false
	}
	kind := 0
	err := onFile(f, func(fd int) (err error) {
		kind, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		return err
	})
	return err == nil && (kind == unix.SOCK_DGRAM || kind == unix.SOCK_SEQPACKET)
}

// canAnswer says whether something at the other end of the descriptor may answer: not so a regular file or block device, or /dev/null and its like.
func canAnswer(f *relay.File) bool {
	answers := false
	onFile(f, func(fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFSOCK, unix.S_IFIFO:
			answers = true
		case unix.S_IFCHR:
			_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
			answers = err == nil
		}
		return nil
	})
	return answers
}
