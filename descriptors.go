package main

import (
	"fmt"
	"strings"
	"time"

	"tunsplice/relay"

	"golang.org/x/sys/unix"
)

// describeDescriptors returns a table of the descriptors behind two endpoints (-D): a heading, then a line each.
func describeDescriptors(left, right *relay.Endpoint) string {
	var sb strings.Builder
	sb.WriteString("  FD  type\tdevice\tinode\tmode\tlinks\tuid\tgid\trdev\tsize\tblksize\tblocks\tatime\tmtime\tctime\tcloexec\tflags\n")
	seen := map[int]bool{}
	for _, half := range []any{left.R, left.W, right.R, right.W} {
		f, ok := half.(interface{ Fd() int })
		if !ok || seen[f.Fd()] {
			continue // an altered half has none of its own
		}
		seen[f.Fd()] = true
		sb.WriteString(describeDescriptor(f.Fd()))
	}
	return sb.String()
}

func describeDescriptor(fd int) string {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Sprintf("%4d: %s\n", fd, relay.ErrorText(err))
	}
	cloexec, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	stamp := func(t unix.Timespec) string { return time.Unix(t.Unix()).Format(time.ANSIC) }
	dev := func(n uint64) string { return fmt.Sprintf("%d,%d", unix.Major(n), unix.Minor(n)) }
	line := fmt.Sprintf("%4d: %s\t%s\t%d\t0%o\t%d\t%d\t%d\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%d\tx%06x", fd, fileKind(st.Mode), dev(uint64(st.Dev)), st.Ino, st.Mode, st.Nlink,
		st.Uid, st.Gid, dev(uint64(st.Rdev)), st.Size, st.Blksize, st.Blocks, stamp(st.Atim), stamp(st.Mtim), stamp(st.Ctim), cloexec, flags)
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		kind, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		line += fmt.Sprintf("\tAF=%d type=%d", domain, kind)
	}
	return line + "\n"
}

// fileKind names the type of a file as socat's table does.
func fileKind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFCHR:
		return "chrdev"
	case unix.S_IFDIR:
		return "dir"
	case unix.S_IFBLK:
		return "blkdev"
	case unix.S_IFREG:
		return "file"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFSOCK:
		return "socket"
	}
	return "undef"
}
