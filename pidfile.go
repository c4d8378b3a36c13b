package main

import (
	"os"
	"strconv"
	"strings"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// pidFile holds the process id in decimal with a line feed. It is locked (flock(2)) as long as the process lives, so that one that was left behind by a process that is gone is
// known for what it is, whoever has that process id now.
type pidFile struct {
	*ownFile
	locked *os.File
}

// takePIDFile makes the file of --pid-file; nil if none was asked for.
func takePIDFile(path string) (*pidFile, error) {
	if path == "" {
		return nil, nil
	}
	own, err := ownPath(path)
	if err == nil {
		p := &pidFile{ownFile: own}
		if err = p.take(); err == nil {
			return p, nil
		}
	}
	var h hinted
	if errors.As(err, &h) {
		return nil, err
	}
	return nil, errors.Wrapf(unwrapPath(err), "--pid-file %s", path)
}

// take puts our file in the place of none, or of one that nobody holds. The old one is held meanwhile, so that of two programs that start at once one is refused.
func (p *pidFile) take() error {
	text := strconv.Itoa(os.Getpid()) + "\n"
	for {
		old, err := p.dir.OpenFile(p.name, os.O_RDWR, 0)
		if os.IsNotExist(err) {
			if p.locked, err = p.create(text, true); os.IsExist(err) {
				continue
			}
		}
		if err != nil || p.locked != nil {
			return err
		}
		ours, err := p.replace(old, text)
		old.Close()
		if ours || err != nil {
			return err
		}
	}
}

// replace takes the place of an older file. It is not done if the name is another file's by now.
func (p *pidFile) replace(old *os.File, text string) (done bool, err error) {
	switch err := unix.Flock(int(old.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case err == unix.EWOULDBLOCK:
		holder := make([]byte, 20)
		n, _ := old.ReadAt(holder, 0)
		return false, hinted{errors.Errorf("--pid-file %s: process %s holds it", p.path, strings.TrimSpace(string(holder[:n]))), "it runs already: end it, or use another file"}
	case err != nil:
		return false, err
	}
	held, err := old.Stat()
	if err != nil {
		return false, err
	}
	there, err := p.dir.Stat(p.name)
	switch {
	case os.IsNotExist(err) || err == nil && !os.SameFile(held, there):
		return false, nil
	case err != nil:
		return false, err
	}
	p.locked, err = p.create(text, false)
	return err == nil, err
}

// remove removes the file if it is still ours; nil holds none.
func (p *pidFile) remove() error {
	if p == nil {
		return nil
	}
	err := p.ownFile.remove()
	p.locked.Close()
	if err != nil {
		return errors.Wrapf(unwrapPath(err), "--pid-file %s", p.path)
	}
	return nil
}
