package addr

import (
	"encoding/binary"
	"unsafe"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Inode flags (chattr(1)) and generic ioctls.

var _ = []*Option{
	inodeFlag("secrm", 0x00000001, "wipe the blocks on deletion (chattr s)"),
	inodeFlag("unrm", 0x00000002, "keep the contents for undeletion (chattr u)"),
	inodeFlag("compr", 0x00000004, "compress the file (chattr c)"),
	inodeFlag("sync", 0x00000008, "write synchronously (chattr S)"),
	inodeFlag("immutable", 0x00000010, "nobody may change the file (chattr i)"),
	inodeFlag("append", 0x00000020, "the file can only grow (chattr a)"),
	inodeFlag("nodump", 0x00000040, "dump(8) skips the file (chattr d)"),
	inodeFlag("noatime", 0x00000080, "access times are not kept (chattr A)"),
	inodeFlag("journal-data", 0x00004000, "data go through the journal (chattr j)"),
	inodeFlag("notail", 0x00008000, "no merging of tails (chattr t)"),
	inodeFlag("dirsync", 0x00010000, "changes of the directory are synchronous (chattr D)"),
	inodeFlag("topdir", 0x00020000, "top of a directory hierarchy (chattr T)"),
}

// inodeFlagAliases are the short names that do not stand for another option.
var inodeFlagAliases = map[string]string{"secrm": "secrm", "unrm": "unrm", "compr": "compr", "immutable": "immutable", "nodump": "nodump",
	"journal-data": "journal journal-data", "notail": "notail", "dirsync": "dirsync", "topdir": "topdir"}

// inodeFlag makes a row for a flag of FS_IOC_SETFLAGS (include/uapi/linux/fs.h).
func inodeFlag(name string, flag uint32, doc string) *Option {
	aliases := "ext2-" + name + " ext3-" + name
	if more := inodeFlagAliases[name]; more != "" {
		aliases += " " + more
	}
	return row(kindBool, Option{Name: "fs-" + name, Aliases: aliases, Groups: GREG, Phase: PhFD, Doc: doc}, func(fd int, on bool) error {
		// The kernel reads and writes an int, whatever the type in the request's number says.
		flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
		if err != nil {
			return errors.Wrap(err, "ioctl FS_IOC_GETFLAGS")
		}
		if flags &^= flag; on {
			flags |= flag
		}
		return errors.Wrap(unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags)), "ioctl FS_IOC_SETFLAGS")
	})
}

// request is the value of a generic ioctl option: the request's number and what it is called with.
type request struct {
	number uint
	data   []byte
}

func parseRequest(shape string, data func(string) ([]byte, error)) func(string) (request, error) {
	return func(text string) (r request, err error) {
		f, err := fields(text, 2, shape)
		if err != nil {
			return r, err
		}
		n, err := parseUint(f[0], 1<<32-1)
		if err != nil {
			return r, errors.Wrapf(err, "%q", f[0])
		}
		r.number = uint(n)
		r.data, err = data(f[1])
		return r, err
	}
}

func parseIntBytes(s string) ([]byte, error) {
	n, err := parseOptInt(s, true)
	return binary.NativeEndian.AppendUint32(nil, uint32(n)), err
}

var _ = []*Option{
	row(kindUint, Option{Name: "ioctl-void", Aliases: "ioctl", Groups: GFD, Phase: PhFD, Doc: "call ioctl with this request and a null pointer"},
		func(fd int, n uint) error { return ioctl(fd, n, 0) }),
	row(kindOf[request]{"INT:INT", need(parseRequest("request:number", parseIntBytes))}, Option{Name: "ioctl-int", Groups: GFD, Phase: PhFD,
		Doc: "call ioctl with this request and a number"},
		func(fd int, r request) error {
			return ioctl(fd, r.number, uintptr(int32(binary.NativeEndian.Uint32(r.data))))
		}),
	row(kindOf[request]{"INT:INTP", need(parseRequest("request:number", parseIntBytes))}, Option{Name: "ioctl-intp", Groups: GFD, Phase: PhFD,
		Doc: "call ioctl with this request and a pointer to a number"}, ioctlData),
	row(kindOf[request]{"INT:BIN", need(parseRequest("request:data", parseBin))}, Option{Name: "ioctl-bin", Groups: GFD, Phase: PhFD,
		Doc: "call ioctl with this request and a pointer to these bytes (dalan)"}, ioctlData),
	row(kindOf[request]{"INT:STRING", need(parseRequest("request:text", func(s string) ([]byte, error) { return append([]byte(s), 0), nil }))},
		Option{Name: "ioctl-string", Groups: GFD, Phase: PhFD, Doc: "call ioctl with this request and a pointer to this text"}, ioctlData),
}

func ioctl(fd int, number uint, arg uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(number), arg); errno != 0 {
		return errors.Wrapf(errno, "ioctl %#x", number)
	}
	return nil
}

// ioctlData hands the kernel a copy of the bytes, with room behind them: a request may write more than it was given, up to the size in its number (14 bits). A descriptor that does not block
// stays so, whatever the request was (FIONBIO): the program relies on it, and waits by other means (see relay.ReadNow).
func ioctlData(fd int, r request) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return errors.Wrap(err, "fcntl F_GETFL")
	}
	buf := make([]byte, max(1<<14, len(r.data)))
	copy(buf, r.data)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(r.number), uintptr(unsafe.Pointer(&buf[0]))); errno != 0 {
		return errors.Wrapf(errno, "ioctl %#x", r.number)
	}
	if flags&unix.O_NONBLOCK == 0 {
		return nil
	}
	return errors.Wrap(unix.SetNonblock(fd, true), "fcntl O_NONBLOCK")
}
