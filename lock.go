package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// lockFile is a file that says by being there that the program runs. It holds the process id in decimal, without a newline, as socat's does.
type lockFile struct {
	path string
	dir  *os.Root // where it lies, also after a change of the root directory
}

// lockPoll is how often a lock that somebody else holds is tried again.
const lockPoll = time.Second

// takeLock makes the lock file of -L or -W, if one was asked for.
func (p *invocation) takeLock(ctx context.Context) error {
	path, wait := p.Lock, false
	if p.WaitLock != "" {
		path, wait = p.WaitLock, true
	}
	if path == "" {
		return nil
	}
	for told := false; ; told = true {
		err := makeLock(path)
		switch {
		case err == nil:
			dir, err := os.OpenRoot(filepath.Dir(path))
			p.lock = &lockFile{path, dir}
			return err
		case !os.IsExist(err):
			return errors.Wrapf(unwrapPath(err), "lock %s", path)
		case !wait:
			return hinted{errors.Errorf("could not obtain lock %q", path), lockHint(path)}
		case !told:
			p.log.Noticef("waiting for lock %q", path)
		}
		if err := pause(ctx, lockPoll); err != nil {
			return err
		}
	}
}

func makeLock(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(os.Getpid()))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}

// lockHint looks whether the maker of a lock file still lives.
func lockHint(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return ""
	}
	if unix.Kill(pid, 0) == unix.ESRCH {
		return "process " + strconv.Itoa(pid) + ", which made it, is gone: remove the file"
	}
	return "process " + strconv.Itoa(pid) + " holds it; -W waits until it is free"
}

// remove removes the lock file; nil holds none.
func (l *lockFile) remove() error {
	if l == nil {
		return nil
	}
	if err := l.dir.Remove(filepath.Base(l.path)); err != nil && !os.IsNotExist(err) {
		return errors.Wrapf(unwrapPath(err), "remove lock %s", l.path)
	}
	return nil
}
