package relay

import (
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSocketCallsAllocateNothing(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var pair [2]*File
	for i, fd := range fds {
		if pair[i], err = NewFile(fd, "socket"); err != nil {
			t.Fatal(err)
		}
		defer pair[i].Close()
	}
	p := make([]byte, 1000)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := pair[0].Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(pair[1], p); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a write and a read", n)
	}
}
