package addr

import (
	"context"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

var _ = addType(Type{
	Name: "PIPE", Aliases: "ECHO FIFO", Params: []Param{{Name: "filename", Optional: true}}, Groups: GFD | GFIFO | GNAMED | GOPEN | GPACKETS, Can: ReadWrite,
	Summary: "a FIFO at a path, or without one an echo",
	Doc: "Without a path: an unnamed pipe whose output is its input again. With one: the FIFO is made if there is none, and then also removed at the end. In both directions it is opened " +
		"at once and echoes what nobody else reads; in one direction the opening waits until somebody opens the other end.",
	Examples: []Example{
		{"TCP-LISTEN:4711,fork PIPE", "is an echo server"},
		{"-u PIPE:/tmp/in -", "prints what others write to a FIFO"},
	},
	Check: func(b *Bound) error {
		if b.Param(0) != "" {
			return b.checkAccess()
		}
		for i := range b.settings {
			if o := b.settings[i].opt; o.Groups&b.Groups != 0 && o.Groups&(GFD|GFIFO|gEvery) == 0 {
				return errors.Errorf("option %s needs a path", o.Name)
			}
		}
		return nil
	},
	Open: func(ctx context.Context, b *Bound, env *Env) (Source, error) {
		if b.Param(0) == "" {
			return b.openPipe(env)
		}
		return b.openNamed(ctx, env, 0, b.openFIFOPath)
	},
})

// openPipe makes an unnamed pipe. Both ends stay open whatever the session uses, as with socat: a pipe that is only read waits, one that is only written fills.
func (b *Bound) openPipe(env *Env) (Source, error) {
	var files []*relay.File
	closeAll := func() error { return closeFiles(files) }
	err := b.inside(func() error {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			return errors.Wrap(err, "pipe")
		}
		for i, fd := range fds {
			f, err := relay.NewFile(fd, "pipe")
			if err != nil {
				if i == 0 {
					unix.Close(fds[1])
				}
				return err
			}
			files = append(files, f)
		}
		return b.applyFiles(files, PhBigen, PhPastbigen, PhFD, PhConnected)
	})
	if err != nil {
		closeAll()
		return nil, err
	}
	env.Log.Noticef("writing to and reading from unnamed pipe")
	r, w := files[0], files[1]
	w.OnCloseWrite(w.Close)
	if b.Mode&Read == 0 {
		r = nil
	}
	if b.Mode&Write == 0 {
		w = nil
	}
	ep, err := b.makeEndpoint(r, w, closeAll)
	if err != nil {
		return nil, err
	}
	return &one{ep: ep}, nil
}

// openFIFOPath opens a path that a FIFO is made at if nothing is there. A new one gets its owner at once: the opening may wait for the very user to whom the FIFO is given.
func (b *Bound) openFIFOPath(ctx context.Context, path string, flags int, mode uint32) (fd int, made bool, err error) {
	var st unix.Stat_t
	if unix.Stat(path, &st) == unix.ENOENT {
		err := unix.Mkfifo(path, mode)
		if err != nil && err != unix.EEXIST { // the process at the other end may have made it meanwhile
			return -1, false, errors.Wrap(err, "mkfifo")
		}
		made = err == nil
	}
	if made {
		if uid, ok := optUser.Get(b); ok {
			if err := unix.Lchown(path, uid, -1); err != nil {
				return -1, made, errors.Wrap(err, "option user: chown")
			}
		}
		if gid, ok := optGroup.Get(b); ok {
			if err := unix.Lchown(path, -1, gid); err != nil {
				return -1, made, errors.Wrap(err, "option group: chown")
			}
		}
	}
	fd, _, err = openPath(ctx, path, flags&^(unix.O_CREAT|unix.O_EXCL), mode)
	return fd, made, err
}
