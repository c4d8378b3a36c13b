package addr

import "golang.org/x/sys/unix"

// Directions returns in which directions an address can be used: Read, Write or both. Of an address that Bind will refuse it says both.
func Directions(spec *Spec) Mode {
	if len(spec.Parts) != 1 {
		return ReadWrite
	}
	s := &spec.Parts[0]
	t := LookupType(s.Keyword)
	switch {
	case t == nil:
		return ReadWrite
	case t.narrow != nil:
		return t.narrow(s)
	}
	return t.Can
}

// accessMode returns the directions in which an inherited descriptor is open; both if it is not open at all.
func accessMode(fd int) Mode {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	switch {
	case err != nil || flags&unix.O_PATH != 0:
		return ReadWrite
	case flags&unix.O_ACCMODE == unix.O_RDONLY:
		return Read
	case flags&unix.O_ACCMODE == unix.O_WRONLY:
		return Write
	}
	return ReadWrite
}
