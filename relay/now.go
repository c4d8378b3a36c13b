package relay

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls on descriptors that do not wait: O_NONBLOCK is set, and there is no disk behind them. Go's scheduler is not told of them. Told, it would wake its monitor thread at the
// first call after each pause, and that would look round every 20 µs for a millisecond, to find out whether the call blocks: on a machine of two processors this
// costs a message that comes alone more time than all the copying. Go's scheduler can't run anything else on this processor meanwhile, so a call must be short: a buffer's copy.

// ReadNow is read(2) on a socket, pipe or device that has O_NONBLOCK set. EINTR is not passed on.
func ReadNow(fd int, p []byte) (int, error) { return moveNow(unix.SYS_READ, fd, p) }

// WriteNow is write(2), with ReadNow's conditions.
func WriteNow(fd int, p []byte) (int, error) { return moveNow(unix.SYS_WRITE, fd, p) }

func moveNow(call uintptr, fd int, p []byte) (int, error) {
	for {
		n, _, e := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

// spliceNow is splice(2) of at most size bytes between two descriptors that have O_NONBLOCK set.
func spliceNow(from, to, size int) (int, error) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(size), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}
