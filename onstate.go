package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"tunsplice/addr"
	"tunsplice/relay"

	"github.com/pkg/errors"
)

// hook runs the program of --on-state: one at a time, in the order of the states, never in the way of the callers. A program that is slower than the states come costs states in between,
// which the log says.
type hook struct {
	argv    []string
	program string // name of ours, for variables
	log     *relay.Log

	mu      sync.Mutex
	changed *sync.Cond
	queue   []stateRun
	passed  int           // states that there was no room for since the last run
	running *exec.Cmd     // nil: none
	last    bool          // nothing is added any more
	givenUp bool          // what runs is killed
	over    chan struct{} // closed when the last run has ended
}

type stateRun struct {
	state addr.State
	vars  []string
}

const (
	// mostStates is how many states wait for the program.
	mostStates = 64
	// hookPatience is how long the end waits for the runs that are still to be made.
	hookPatience = 5 * time.Second
)

// findHook finds the program of --on-state before anything is opened. root is where the process will have its root directory when the program runs, "" for no change.
func findHook(command, root string) ([]string, error) {
	argv, err := addr.SplitCommand(command)
	switch {
	case err != nil:
		return nil, errors.Wrap(err, "--on-state")
	case len(argv) == 0:
		return nil, errors.New("--on-state: the command is empty")
	}
	if root == "" {
		_, err = exec.LookPath(argv[0])
	} else {
		if !filepath.IsAbs(argv[0]) {
			return nil, hinted{errors.Errorf("--on-state: %q: with option chroot the program's whole path is wanted", argv[0]), "the path is one below the new root directory"}
		}
		_, err = exec.LookPath(filepath.Join(root, argv[0]))
	}
	if err != nil {
		return nil, hinted{errors.Wrapf(unwrapLook(err), "--on-state: program %q", argv[0]), "it runs without a shell: give a program and its arguments, or sh -c '...'"}
	}
	return argv, nil
}

// unwrapLook takes the name off an error of exec.LookPath: the message has it already.
func unwrapLook(err error) error {
	if errors.Is(err, exec.ErrNotFound) {
		return syscall.ENOENT
	}
	return unwrapPath(err)
}

// startHook begins to run the program. finish ends it.
func startHook(argv []string, program string, log *relay.Log) *hook {
	h := &hook{argv: argv, program: program, log: log, over: make(chan struct{})}
	h.changed = sync.NewCond(&h.mu)
	go h.work()
	return h
}

// add puts a state into the queue. It does not wait.
func (h *hook) add(state addr.State, vars []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.queue) == mostStates {
		h.queue = append(h.queue[:0], h.queue[1:]...) // the newest are what counts
		h.passed++
	}
	h.queue = append(h.queue, stateRun{state, vars})
	h.changed.Signal()
}

// work runs the program for each state, until finish was called and the queue is empty.
func (h *hook) work() {
	defer close(h.over)
	for {
		h.mu.Lock()
		for len(h.queue) == 0 && !h.last {
			h.changed.Wait()
		}
		if len(h.queue) == 0 {
			h.mu.Unlock()
			return
		}
		run, passed := h.queue[0], h.passed
		h.queue, h.passed = append(h.queue[:0], h.queue[1:]...), 0
		h.mu.Unlock()
		if passed > 0 {
			h.log.Warnf("--on-state: %s is too slow: %d states were passed over", h.argv[0], passed)
		}
		if err := h.run(run); err != nil {
			h.log.Warnf("--on-state: state %s: %s: %s", run.state, h.argv[0], unwrapLook(err))
		}
	}
}

// run runs the program once. Its output goes to standard error: standard output may be the session's.
func (h *hook) run(r stateRun) error {
	cmd := exec.Command(h.argv[0], h.argv[1:]...)
	cmd.Env = stateEnvironment(h.program, r.state, r.vars)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // signals of the terminal are ours
	if err := cmd.Start(); err != nil {
		return err
	}
	h.mu.Lock()
	h.running = cmd
	if h.givenUp {
		h.kill()
	}
	h.mu.Unlock()
	err := cmd.Wait()
	h.mu.Lock()
	h.running = nil
	h.mu.Unlock()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return errors.New(strings.Replace(failed.Error(), "exit status", "exited with status", 1))
	}
	return err
}

// kill ends the running program with all that it has started. h.mu is held.
func (h *hook) kill() {
	if h.running.Process.Signal(syscall.Signal(0)) == nil { // its number is nobody else's
		syscall.Kill(-h.running.Process.Pid, syscall.SIGKILL)
	}
}

// finish waits for the runs that are still to be made; what takes too long is killed.
func (h *hook) finish() {
	h.mu.Lock()
	h.last = true
	h.changed.Signal()
	h.mu.Unlock()
	t := time.NewTimer(hookPatience)
	defer t.Stop()
	select {
	case <-h.over:
		return
	case <-t.C:
	}
	h.mu.Lock()
	left := len(h.queue)
	h.queue = nil
	h.givenUp = true
	if h.running != nil {
		left++
		h.kill()
	}
	h.mu.Unlock()
	h.log.Warnf("--on-state: %s has not ended within %s: %d runs given up", h.argv[0], hookPatience, left)
	<-h.over
}
