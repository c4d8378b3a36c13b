package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"tunsplice/addr"
	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// --background. A Go program can't fork, so the program starts itself again, in a session of its own, with the same arguments, working directory and descriptors, and waits at a pipe
// until that one is ready or ends.
//
//	starter: checks the command line, starts the server, waits        server: opens, relays
//	  pipe, reading end  <---------------------- one byte when ready -- pipe, writing end
//
// The server keeps a duplicate of standard error until it is ready, for its log; what it starts has /dev/null there from the beginning, so that nobody who waits for
// the end of that output waits for a program of ours.

// starterVariable holds the number of the pipe's writing end.
const starterVariable = "TUNSPLICE_STARTER"

// starter is the server's side of the pipe. nil: we were not started so.
type starter struct {
	pipe   *os.File
	stderr *os.File
	sink   *logSink
	told   bool
}

// checkBackground finds what can't be had in the background.
func (p *invocation) checkBackground(left, right *addr.Address) error {
	if !p.Background {
		return nil
	}
	for _, a := range []*addr.Address{left, right} {
		for _, fd := range a.Descriptors() {
			if fd <= 2 {
				return hinted{errors.Errorf("--background: address %q uses the terminal's descriptors, which a program in the background does not have", a.Text),
					"use a file, a pipe or a socket, or start it with \"&\" in the shell"}
			}
		}
	}
	if p.DumpText || p.DumpHex {
		return hinted{errors.New("--background: -v and -x write on standard error, which a program in the background does not have"), "-r FILE and -R FILE write into files"}
	}
	return nil
}

// findStarter looks whether we are the server. It takes the variable away from the programs that we start.
func (p *invocation) findStarter() error {
	text, given := os.LookupEnv(starterVariable)
	os.Unsetenv(starterVariable)
	if !given || !p.Background {
		return nil
	}
	fd, err := strconv.Atoi(text)
	var st unix.Stat_t
	if err != nil || unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return errors.Errorf("variable %s: it is for the program's own use", starterVariable)
	}
	unix.CloseOnExec(fd)
	dup, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return errors.Wrap(err, "standard error")
	}
	if err := nullOver(2); err != nil {
		return err
	}
	// We were started by the name of /proc/self/exe: ps(1) shall show the right one. It is only a name.
	_ = os.WriteFile("/proc/self/comm", []byte(filepath.Base(os.Args[0])), 0)
	p.starter = &starter{pipe: os.NewFile(uintptr(fd), "pipe to the starter"), stderr: os.NewFile(uintptr(dup), "standard error"), sink: p.sink}
	p.sink.redirect(os.Stderr, p.starter.stderr)
	return nil
}

// ready lets the starter go. From here on nothing is written to its standard error.
func (s *starter) ready(log *relay.Log) {
	if s == nil || s.told {
		return
	}
	s.told = true
	if _, err := s.pipe.Write([]byte{1}); err != nil {
		log.Warnf("--background: nobody waits: %s", unwrapPath(err))
	}
	s.pipe.Close()
	s.sink.redirect(s.stderr, io.Discard)
	s.stderr.Close()
}

// tellReason tells the user of --background on standard error why the program fails, if the log goes elsewhere.
func (p *invocation) tellReason(err error) {
	place := os.Stderr
	if s := p.starter; s != nil {
		place = s.stderr
	}
	if !p.Background || p.starter != nil && p.starter.told || p.sink.goesTo(place) {
		return
	}
	text := relay.ErrorText(err)
	if hint := addr.Hint(err); hint != "" {
		text += "; hint: " + hint
	}
	fmt.Fprintf(place, "%s", p.sink.stderrLine(text))
}

// startServer starts the program again and waits until it is ready. It returns the exit status.
func (p *invocation) startServer(argv []string) int {
	// Signals that would end us end the server, which tells us by its status: from before there is one, or it would be left alone.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	pid, pipe, err := forkServer(argv)
	if err != nil {
		return p.fail(errors.Wrap(err, "--background"))
	}
	go func() {
		for s := range signals {
			unix.Kill(pid, s.(syscall.Signal))
		}
	}()
	var word [1]byte
	n, err := pipe.Read(word[:])
	if n == 1 {
		return 0
	}
	if err != io.EOF {
		p.log.Warnf("--background: %s", unwrapPath(err))
	}
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &ws, 0, nil); err != unix.EINTR {
			break
		}
	}
	switch {
	case ws.Signaled():
		p.log.Errorf("--background: the program was ended by signal %d before it was ready", int(ws.Signal()))
		return 128 + int(ws.Signal())
	case ws.ExitStatus() == 0:
		return p.fail(errors.New("--background: the program ended before it was ready"))
	}
	return ws.ExitStatus()
}

// forkServer starts the server. The pipe's writing end keeps its number there, which is free for it: so inherited descriptors keep theirs.
func forkServer(argv []string) (pid int, pipe *os.File, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return 0, nil, errors.Wrap(err, "pipe")
	}
	defer unix.Close(ends[1])
	pipe = os.NewFile(uintptr(ends[0]), "pipe")
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		pipe.Close()
		return 0, nil, errors.Wrap(err, os.DevNull)
	}
	defer unix.Close(null)
	if _, err := unix.FcntlInt(uintptr(ends[1]), unix.F_SETFD, 0); err != nil {
		pipe.Close()
		return 0, nil, err
	}
	pid, err = syscall.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{
		Env:   append(os.Environ(), starterVariable+"="+strconv.Itoa(ends[1])),
		Files: []uintptr{uintptr(null), uintptr(null), 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		pipe.Close()
		return 0, nil, errors.Wrap(err, "start the program again")
	}
	return pid, pipe, nil
}
