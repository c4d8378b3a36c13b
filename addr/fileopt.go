package addr

import (
	"context"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// The options of descriptors, files and names in the file system.

// Ownership and mode. On an open descriptor they are mechanical; who makes a name in the file system (OPEN, PIPE, UNIX-LISTEN) takes them and acts
// where no other process can see the name with the wrong owner or mode.
var (
	optPerm = keyedRow(kindMode, Option{Name: "perm", Aliases: "mode", Groups: GFD | GNAMED, Phase: PhFD,
		Doc: "mode of the file, FIFO or socket that is made (octal, less the umask); of other descriptors their mode after opening"}, fchmod)
	optUser = keyedRow(kindUID, Option{Name: "user", Aliases: "owner uid", Groups: GFD | GNAMED, Phase: PhFD,
		Doc: "owner after opening (name or number)"}, fchownUser)
	optGroup = keyedRow(kindGID, Option{Name: "group", Aliases: "gid", Groups: GFD | GNAMED, Phase: PhFD,
		Doc: "group after opening (name or number)"}, fchownGroup)

	_ = []*Option{
		row(kindMode, Option{Name: "perm-late", Groups: GFD, Phase: PhLate, Doc: "mode of the descriptor once everything is open (octal)"}, fchmod),
		row(kindUID, Option{Name: "user-late", Aliases: "uid-l", Groups: GFD, Phase: PhLate, Doc: "owner of the descriptor once everything is open"}, fchownUser),
		row(kindGID, Option{Name: "group-late", Aliases: "gid-l", Groups: GFD, Phase: PhLate, Doc: "group of the descriptor once everything is open"}, fchownGroup),
	}

	optPermEarly = declare(kindMode, Option{Name: "perm-early", Groups: GNAMED, Phase: PhPreopen, Doc: "mode of the entry before it is opened (octal)"})
	optUserEarly = declare(kindUID, Option{Name: "user-early", Aliases: "uid-e", Groups: GNAMED, Phase: PhPreopen,
		Doc: "owner of the entry before it is opened"})
	optGroupEarly = declare(kindGID, Option{Name: "group-early", Aliases: "gid-e", Groups: GNAMED, Phase: PhPreopen,
		Doc: "group of the entry before it is opened"})
)

func fchmod(fd int, mode uint32) error  { return errors.Wrap(unix.Fchmod(fd, mode), "fchmod") }
func fchownUser(fd int, uid int) error  { return errors.Wrap(unix.Fchown(fd, uid, -1), "fchown") }
func fchownGroup(fd int, gid int) error { return errors.Wrap(unix.Fchown(fd, -1, gid), "fchown") }
func setStatus(fd, flag int, on bool) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return errors.Wrap(err, "fcntl")
	}
	if flags &^= flag; on {
		flags |= flag
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags)
	return errors.Wrap(err, "fcntl")
}

// Names in the file system.
var (
	optUnlinkEarly = declare(kindBool, Option{Name: "unlink-early", Aliases: "new", Groups: GNAMED, Phase: PhEarly, Doc: "remove the entry before anything else"})
	optUnlink      = declare(kindBool, Option{Name: "unlink", Aliases: "delete remove", Groups: GNAMED, Phase: PhPreopen,
		Doc: "remove the entry before it is opened or made"})
	optUnlinkLate  = declare(kindBool, Option{Name: "unlink-late", Groups: GNAMED, Phase: PhPastopen, Doc: "remove the entry as soon as it is open"})
	optUnlinkClose = declare(kindBool, Option{Name: "unlink-close", Groups: GNAMED, Phase: PhLate,
		Doc: "remove the entry at the end (default 1 for listening sockets and for a FIFO made here, else 0)"})
)

// prepareName does to the entry at path what the options of the phases EARLY and PREOPEN say. It must run inside Bound.inside, as all that uses the path.
func (b *Bound) prepareName(path string) error {
	if optUnlinkEarly.Or(b, false) {
		if err := unlinkName(path); err != nil {
			return err
		}
	}
	if optUnlink.Or(b, false) {
		if err := unlinkName(path); err != nil {
			return err
		}
	}
	// What is not there yet has no owner or mode to change: it is made with those that the other options say.
	if mode, ok := optPermEarly.Get(b); ok {
		if err := unix.Chmod(path, mode); err != nil && err != unix.ENOENT {
			return errors.Wrapf(err, "option perm-early: chmod %s", path)
		}
	}
	if uid, ok := optUserEarly.Get(b); ok {
		if err := unix.Lchown(path, uid, -1); err != nil && err != unix.ENOENT {
			return errors.Wrapf(err, "option user-early: chown %s", path)
		}
	}
	if gid, ok := optGroupEarly.Get(b); ok {
		if err := unix.Lchown(path, -1, gid); err != nil && err != unix.ENOENT {
			return errors.Wrapf(err, "option group-early: chown %s", path)
		}
	}
	return nil
}

// unlinkName removes an entry; that there is none is fine.
func unlinkName(path string) error {
	if err := unix.Unlink(path); err != nil && err != unix.ENOENT {
		return errors.Wrapf(err, "unlink %s", path)
	}
	return nil
}

// Descriptor flags.
var (
	optAppend = keyedRow(kindBool, Option{Name: "append", Aliases: "o-append", Groups: GFD | GOPEN, Phase: PhLate,
		Doc: "each write goes to the end of the file (O_APPEND; default 1 for files by GOPEN, else 0)"},
		func(fd int, on bool) error { return setStatus(fd, unix.O_APPEND, on) })
	optAsync = keyedRow(kindBool, Option{Name: "async", Aliases: "o-async", Groups: GFD | GOPEN, Phase: PhLate,
		Doc: "signals when the descriptor becomes ready (O_ASYNC)"},
		func(fd int, on bool) error { return setStatus(fd, unix.O_ASYNC, on) })
	optNoatime = keyedRow(kindBool, Option{Name: "o-noatime", Aliases: "noatime", Groups: GFD | GOPEN, Phase: PhFD,
		Doc: "reading leaves the access time as it is (O_NOATIME)"},
		func(fd int, on bool) error { return setStatus(fd, unix.O_NOATIME, on) })
	optNonblock = keyedRow(kindBool, Option{Name: "o-nonblock", Aliases: "ndelay nonblock o-ndelay o_ndelay", Groups: GFD | GOPEN, Phase: PhFD,
		Doc: "opening does not wait (O_NONBLOCK); nothing else changes, except for an inherited descriptor, whose other holders see it too"},
		func(fd int, on bool) error {
			if !on {
				return nil // descriptors of our own never wait in the kernel, whatever the option says
			}
			return setStatus(fd, unix.O_NONBLOCK, true)
		})

	_ = row(kindBool, Option{Name: "cloexec", Groups: GFD, Phase: PhLate, Doc: "programs do not inherit the descriptor (FD_CLOEXEC; default 1)"},
		func(fd int, on bool) error {
			flag := 0
			if on {
				flag = unix.FD_CLOEXEC
			}
			_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag)
			return errors.Wrap(err, "fcntl")
		})
)

// Flags of open(2).
var (
	optRdonly = declare(kindBool, Option{Name: "o-rdonly", Aliases: "o_rdonly rdonly", Groups: GOPEN, Phase: PhOpen,
		Doc: "open for reading only, whatever the session does"})
	optWronly = declare(kindBool, Option{Name: "o-wronly", Aliases: "o_wronly wronly", Groups: GOPEN, Phase: PhOpen,
		Doc: "open for writing only, whatever the session does"})
	optRdwr = declare(kindBool, Option{Name: "o-rdwr", Aliases: "o_rdwr rdwr", Groups: GOPEN, Phase: PhOpen,
		Doc: "open for reading and writing, whatever the session does"})

	openFlagOptions = []struct {
		key  Key[bool]
		flag int
	}{
		{optAppend, unix.O_APPEND},
		{optAsync, unix.O_ASYNC},
		{optNoatime, unix.O_NOATIME},
		{optNonblock, unix.O_NONBLOCK},
		{openFlag("o-creat", "creat create o-create o_creat o_create", PhOpen, "make the file if there is none"), unix.O_CREAT},
		{openFlag("o-excl", "excl o_excl", PhOpen, "with creat: refuse a file that exists"), unix.O_EXCL},
		{openFlag("o-trunc", "trunc", PhLate, "cut the file to nothing"), unix.O_TRUNC},
		{openFlag("o-direct", "direct o_direct", PhOpen, "bypass the page cache; only aligned blocks work"), unix.O_DIRECT},
		{openFlag("o-directory", "directory o_directory", PhOpen, "refuse anything but a directory"), unix.O_DIRECTORY},
		{openFlag("o-dsync", "dsync o_dsync", PhOpen, "a write returns once the data are on the disk"), unix.O_DSYNC},
		{openFlag("o-largefile", "largefile o_largefile", PhOpen, "files beyond 2 GiB; always possible on Linux with 64 bits"), unix.O_LARGEFILE},
		{openFlag("o-noctty", "noctty o_noctty", PhOpen, "the terminal does not become the controlling terminal"), unix.O_NOCTTY},
		{openFlag("o-nofollow", "nofollow o_nofollow", PhOpen, "refuse a symbolic link"), unix.O_NOFOLLOW},
		{openFlag("o-rsync", "rsync o_rsync", PhOpen, "as o-sync"), unix.O_RSYNC},
		{openFlag("o-sync", "sync o_sync", PhOpen, "a write returns once data and metadata are on the disk"), unix.O_SYNC},
	}
)

func openFlag(name, aliases string, phase Phase, doc string) Key[bool] {
	return declare(kindBool, Option{Name: name, Aliases: aliases, Groups: GOPEN, Phase: phase, Doc: doc})
}

// accessMode returns how open(2) is to open: for the directions that the session needs, unless an option says otherwise.
func (b *Bound) accessMode() int {
	mode := unix.O_RDWR
	switch b.Mode {
	case Read:
		mode = unix.O_RDONLY
	case Write:
		mode = unix.O_WRONLY
	}
	for _, access := range []struct {
		key  Key[bool]
		mode int
	}{{optRdonly, unix.O_RDONLY}, {optWronly, unix.O_WRONLY}, {optRdwr, unix.O_RDWR}} {
		if access.key.Or(b, false) {
			mode = access.mode
		}
	}
	return mode
}

// openFlags returns flags of open(2) with the access mode, and as the options change them. It takes the options that would else act on the descriptor.
func (b *Bound) openFlags(flags int) int {
	flags |= b.accessMode()
	for _, f := range openFlagOptions {
		if on, ok := f.key.Take(b); ok {
			if flags &^= f.flag; on {
				flags |= f.flag
			}
		}
	}
	return flags
}

// Positions, lengths, buffers.
var _ = []*Option{
	seekOption("lseek32-set", "lseek32", unix.SEEK_SET, "begin at this offset in bytes"),
	seekOption("lseek32-cur", "", unix.SEEK_CUR, "begin that many bytes after the present position"),
	seekOption("lseek32-end", "", unix.SEEK_END, "begin that many bytes after the end; a negative number is before it"),
	seekOption("lseek64-set", "lseek lseek64 seek seek-set", unix.SEEK_SET, "begin at this offset in bytes"),
	seekOption("lseek64-cur", "seek-cur", unix.SEEK_CUR, "begin that many bytes after the present position"),
	seekOption("lseek64-end", "seek-end", unix.SEEK_END, "begin that many bytes after the end; a negative number is before it"),
	row(kindOffset, Option{Name: "ftruncate32", Groups: GREG, Phase: PhLate, Doc: "cut or extend the file to this length in bytes"}, ftruncate),
	row(kindOffset, Option{Name: "ftruncate64", Aliases: "ftruncate truncate", Groups: GREG, Phase: PhLate,
		Doc: "cut or extend the file to this length in bytes"}, ftruncate),
	row(kindInt, Option{Name: "f-setpipe-sz", Aliases: "pipesz", Groups: GFIFO, Phase: PhFD, Doc: "size of a pipe's buffer in bytes; the kernel rounds it up to a power of 2"},
		func(fd, size int) error {
			_, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size)
			return errors.Wrap(err, "fcntl F_SETPIPE_SZ")
		}),
}

func seekOption(name, aliases string, whence int, doc string) *Option {
	return row(kindOffset, Option{Name: name, Aliases: aliases, Groups: GBLK | GREG, Phase: PhLate, Doc: doc}, func(fd int, off int64) error {
		_, err := unix.Seek(fd, off, whence)
		return errors.Wrap(err, "lseek")
	})
}

func ftruncate(fd int, length int64) error {
	return errors.Wrap(unix.Ftruncate(fd, length), "ftruncate")
}

// Locks. The forms that wait are for files only and not mechanical: waitForLocks can be interrupted.
var (
	_ = []*Option{
		lockOption("flock-ex-nb", "flock-nb", "flock(2), exclusive; fail if somebody else holds a lock", flock(unix.LOCK_EX)),
		lockOption("flock-sh-nb", "", "flock(2), shared; fail if somebody else holds an exclusive lock", flock(unix.LOCK_SH)),
		lockOption("f-setlk-wr", "f-setlk setlk setlk-wr", "fcntl(2) lock for writing; fail if somebody else holds a lock", setlk(unix.F_WRLCK)),
		lockOption("f-setlk-rd", "setlk-rd", "fcntl(2) lock for reading; fail if somebody else holds a lock for writing", setlk(unix.F_RDLCK)),
	}

	waitingLocks = []struct {
		key Key[bool]
		try func(fd int) error
	}{
		{waitingLock("flock-ex", "flock", "flock(2), exclusive; wait for it"), flock(unix.LOCK_EX)},
		{waitingLock("flock-sh", "", "flock(2), shared; wait for it"), flock(unix.LOCK_SH)},
		{waitingLock("f-setlkw-wr", "f-setlkw lock lockw setlkw setlkw-wr", "fcntl(2) lock for writing; wait for it"), setlk(unix.F_WRLCK)},
		{waitingLock("f-setlkw-rd", "setlkw-rd", "fcntl(2) lock for reading; wait for it"), setlk(unix.F_RDLCK)},
	}
)

func lockOption(name, aliases, doc string, try func(fd int) error) *Option {
	return row(kindBool, Option{Name: name, Aliases: aliases, Groups: GFD, Phase: PhFD, Doc: doc}, func(fd int, on bool) error {
		if !on {
			return nil
		}
		return try(fd)
	})
}

func waitingLock(name, aliases, doc string) Key[bool] {
	return declare(kindBool, Option{Name: name, Aliases: aliases, Groups: GREG, Phase: PhFD, Doc: doc})
}

func flock(how int) func(fd int) error {
	return func(fd int) error { return errors.Wrap(unix.Flock(fd, how|unix.LOCK_NB), "flock") }
}

// setlk locks the whole file, whatever length it will have.
func setlk(how int16) func(fd int) error {
	return func(fd int) error {
		l := unix.Flock_t{Type: how}
		return errors.Wrap(unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &l), "fcntl F_SETLK")
	}
}

// waitForLocks takes the locks that the options want to wait for. The system calls that wait can't be told to stop, so this asks again and again, at growing
// intervals of up to a quarter of a second.
func (b *Bound) waitForLocks(ctx context.Context, fd int) error {
	for _, l := range waitingLocks {
		if !l.key.Or(b, false) {
			continue
		}
		for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
			err := l.try(fd)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
				return err
			}
			if err := pauseFor(ctx, pause); err != nil {
				return err
			}
		}
	}
	return nil
}
