package relay

import (
	"os"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// The kernel stops a process that reads its terminal while another process group is in the foreground there (SIGTTIN), and stops it once more when it is continued in order to
// die of a SIGTERM: its read goes on before the signal is acted upon. timeout(1), and kill in a shell, would wait for us for ever. So input that is another's is not read at all: it
// is looked at again at intervals, and the other direction goes on meanwhile.

// foregroundEvery is the time between two looks whether it is our turn.
const foregroundEvery = 200 * time.Millisecond

// newTurn returns the clock of those looks for a terminal, nil for other descriptors.
func newTurn(fd int) (*os.File, error) {
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		return nil, nil
	}
	clock, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, errors.Wrap(err, "timerfd_create")
	}
	return os.NewFile(uintptr(clock), "timer"), nil
}

// readInTurn is readRaw for a terminal: do is not called while our process group is in the background there.
func (f *File) readInTurn(do func(fd uintptr) bool) error {
	for {
		behind := false
		err := f.whenReady(f.watch, func(fd uintptr) bool {
			behind = inBackground(int(fd))
			return behind || do(fd)
		})
		if err != nil || !behind {
			return err
		}
		if err := f.awaitTick(); err != nil {
			return err
		}
	}
}

// awaitTick waits for the next look, or until the deadline for reading.
func (f *File) awaitTick() error {
	raw, err := f.turn.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	once := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(foregroundEvery))}
	if err := raw.Control(func(fd uintptr) { serr = unix.TimerfdSettime(int(fd), 0, &once, nil) }); err != nil {
		return err
	}
	if serr != nil {
		return errors.Wrap(serr, "timerfd_settime")
	}
	var ticks [8]byte
	_, err = f.turn.Read(ticks[:])
	return err
}

// inBackground says whether fd is our controlling terminal and talks to another process group than ours.
func inBackground(fd int) bool {
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group != unix.Getpgrp()
}
