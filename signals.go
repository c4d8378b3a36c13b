package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"tunsplice/relay"
)

// Signals of the mask of -S end the program in order: sessions are stopped, which closes devices, removes socket paths and lets programs see the end of their input. A
// second one ends it at once. SIGUSR1 shows statistics. Signals outside the mask that end a program by default end this one too, in the same order but without a line in
// the log. (Left alone, the Go runtime would swallow some of them and print its stacks at others.)

// signalled is the cause of a cancelled context: the signal that ended the program.
type signalled struct{ syscall.Signal }

// Error implements error.
func (s signalled) Error() string { return fmt.Sprintf("signal %d", int(s.Signal)) }

// status is the exit status after the signal.
func (s signalled) status() int { return 128 + int(s.Signal) }

// level is where the signal is logged: an everyday end is no error.
func (s signalled) level() relay.Level {
	switch s.Signal {
	case syscall.SIGHUP, syscall.SIGINT:
		return relay.Notice
	case syscall.SIGTERM:
		return relay.Warn
	}
	return relay.Error
}

// uncatchable are signals that a mask may name but nothing can be done about: the kernel keeps KILL and STOP, the Go runtime needs URG and PROF, and CHLD, PIPE and USR1
// have other work to do here.
const uncatchable = 1<<syscall.SIGKILL | 1<<syscall.SIGSTOP | 1<<syscall.SIGURG | 1<<syscall.SIGPROF | 1<<syscall.SIGCHLD | 1<<syscall.SIGPIPE | 1<<syscall.SIGUSR1

// harmless are signals that do not end a program by default, and two that would but are better errors here: writing beyond the limit on file sizes says EFBIG, and nobody
// asked for SIGIO but who sends it.
const harmless = 1<<syscall.SIGCONT | 1<<syscall.SIGTSTP | 1<<syscall.SIGTTIN | 1<<syscall.SIGTTOU | 1<<syscall.SIGWINCH | 1<<syscall.SIGXFSZ | 1<<syscall.SIGIO

// watchSignals begins to watch for signals; the first one of the mask cancels the context. It goes on until the process ends: signal.Stop
// would only cost time then.
func (p *invocation) watchSignals(cancel context.CancelCauseFunc) {
	// SIGPIPE is caught and dropped, so that a closed standard error does not end the program and a closed output is an error of write(2). It is
	// not set to be ignored, which programs that we start would inherit.
	caught := []os.Signal{syscall.SIGUSR1, syscall.SIGPIPE}
	for n := syscall.Signal(1); n < 32; n++ {
		asked := p.Signals&(1<<n) != 0
		switch {
		case !asked && (uncatchable|harmless)&(1<<n) != 0:
		case uncatchable&(1<<n) != 0:
			p.log.Warnf("option -S: signal %d can't be caught", int(n))
		case (n == syscall.SIGHUP || !asked) && signal.Ignored(n): // nohup
		default:
			caught = append(caught, n)
		}
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, caught...)
	go func() {
		ending := false
		for s := range signals {
			sig := signalled{s.(syscall.Signal)}
			switch {
			case sig.Signal == syscall.SIGPIPE:
			case sig.Signal == syscall.SIGUSR1:
				p.logAllStatistics()
			case ending:
				p.removeFiles()
				p.states.ready.end()
				os.Exit(sig.status())
			default:
				ending = true
				if p.Signals&(1<<sig.Signal) != 0 {
					p.log.Print(sig.level(), "exiting on signal %d", int(sig.Signal))
				}
				cancel(sig)
			}
		}
	}()
}
