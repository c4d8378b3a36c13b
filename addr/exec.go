package addr

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Programs as endpoints: EXEC, SYSTEM and SHELL.
//
// # Theory of operation
//
// A program is joined to us by a pair of connected sockets, or with option pipes by one pipe for each direction; it has its end as descriptors 0 and 1 (fdin, fdout),
// as far as the session uses the directions; what it does not use of 0, 1 and 2 it shares with us. It gets no other descriptor of ours: whatever this
// package opens is close-on-exec, and dropInherited marks what we ourselves inherited.
//
// The program's life belongs to the endpoint. Its end is seen by one goroutine (child.reap). Close closes our ends, so that the program sees the end of its input, and gives it the
// time of -t (at least half a second) to write out what it holds; only then it gets SIGTERM, and a second later SIGKILL. So the exit status is
// known when Close returns.
//
// Process groups. A program in our process group dies of the signal that was meant for us alone, and with it goes what its buffers hold: timeout(1) and the
// terminal signal whole groups. A program outside the terminal's foreground group can't ask there for a password. So it stays in our group if that is the foreground
// group of our terminal, as with socat, and has a group of its own otherwise. Options pgid and setsid choose themselves.

const groupsExec = GFD | GFIFO | GSOCKET | GEXEC | GFORK | GTERMIOS | GPTY | GPARENT | GUNIX | GPACKETS

var (
	optPipes = declare(kindBool, Option{Name: "pipes", Groups: GFORK, Phase: PhBigen, Doc: "join the program by a pipe for each direction instead of a socket pair"})
	optFdin  = declare(kindUshort, Option{Name: "fdin", Groups: GFORK, Phase: PhPastbigen, Doc: "descriptor on which the program reads (default 0)"})
	optFdout = declare(kindUshort, Option{Name: "fdout", Groups: GFORK, Phase: PhPastbigen, Doc: "descriptor on which the program writes (default 1)"})
	optErr   = declare(kindBool, Option{Name: "stderr", Groups: GFORK, Phase: PhPastfork, Doc: "what the program writes on standard error goes where its output goes"})
	optPgid  = declare(kindInt, Option{Name: "setpgid", Aliases: "pgid", Groups: GFORK, Phase: PhLate,
		Doc: "process group of the program; 0, 1 or no value makes a new one (default: ours at a terminal, else a new one)"})
	optSetsid = declare(kindBool, Option{Name: "setsid", Aliases: "sid", Groups: GFORK, Phase: PhLate, Doc: "the program gets a session of its own, without a terminal"})
	optDash   = declare(kindBool, Option{Name: "dash", Aliases: "login", Groups: GEXEC, Phase: PhPreexec,
		Doc: "put a dash before the program's name in its arguments: a login shell"})
	optPath  = declare(kindString, Option{Name: "path", Groups: GEXEC, Phase: PhPreexec, Doc: "PATH for finding the program, and in its environment"})
	optShell = declare(kindString, Option{Name: "shell", Groups: GSHELL, Phase: PhPreexec, Doc: "the shell (default: variable SHELL, else /bin/sh)"})

	// Without a program these concern the process: see privileges.go.
	optChroot = declare(kindString, Option{Name: "chroot", Groups: GPROCESS, Phase: PhLate,
		Doc: "root directory of the program that the address runs; of any other address, of the whole process after set-up"})
	optSetuid = declare(kindUID, Option{Name: "setuid", Groups: GPROCESS, Phase: PhLate2, Doc: "user id of the program, or of the process after set-up"})
	optSetgid = declare(kindGID, Option{Name: "setgid", Groups: GPROCESS, Phase: PhLate2, Doc: "group id of the program, or of the process after set-up"})
	optSu     = declare(kindAccount, Option{Name: "substuser", Aliases: "su", Groups: GPROCESS, Phase: PhLate2,
		Doc: "become this user after set-up, or run the program as this user: ids, groups, and variables USER, LOGNAME, HOME, SHELL"})
	optSuD = declare(kindAccount, Option{Name: "substuser-delayed", Aliases: "su-d", Groups: GPROCESS, Phase: PhInit,
		Doc: "as substuser: the user is always looked up before a chroot"})
)

var _ = addType(Type{
	Name: "EXEC", Params: []Param{{Name: "command-line"}}, Groups: groupsExec, Can: ReadWrite, Tail: true,
	Summary: "runs a program without a shell",
	Doc: "The words of the command are separated by spaces; quotes and backslashes group as in a shell, but nothing is expanded. The program reads what is written to the address and " +
		"its output is what is read from it.",
	Examples: []Example{
		{"TCP-LISTEN:4711,fork EXEC:cat", "is an echo server with one program for each client"},
		{"-u EXEC:'date -u' -", "prints a program's output"},
	},
	Check: (*Bound).checkExec,
	Open:  func(_ context.Context, b *Bound, env *Env) (Source, error) { return b.openProgram(env) },
})

var _ = addType(Type{
	Name: "SYSTEM", Params: []Param{{Name: "shell-command"}}, Groups: groupsExec, Can: ReadWrite, Tail: true,
	Summary: "runs a command with /bin/sh",
	Doc:     "As EXEC, but the command may hold all that a shell understands.",
	Examples: []Example{
		{"-u SYSTEM:'date; uname' -", "prints the output of two programs"},
		{"TCP-LISTEN:4711,fork SYSTEM:'read n; echo $n | rev'", "answers each client's first line"},
	},
	Check: (*Bound).checkExec,
	Open:  func(_ context.Context, b *Bound, env *Env) (Source, error) { return b.openProgram(env) },
})

var _ = addType(Type{
	Name: "SHELL", Params: []Param{{Name: "shell-command", Optional: true}}, Groups: groupsExec | GSHELL, Can: ReadWrite, Tail: true,
	Summary: "runs a command with the user's shell, without a command the shell itself",
	Doc:     "As SYSTEM, with the shell that option shell or the variable SHELL names.",
	Examples: []Example{
		{"-u SHELL:'echo $0' -", "prints the name of the shell"},
		{"UNIX-LISTEN:/tmp/sh,mode=600 SHELL,stderr", "gives one client a shell"},
	},
	Check: (*Bound).checkExec,
	Open:  func(_ context.Context, b *Bound, env *Env) (Source, error) { return b.openProgram(env) },
})

// command is what is to be run.
type command struct {
	path string   // the program's file, in the program's own root directory
	argv []string // its arguments, the first is its name
}

// command finds the program of the address.
func (b *Bound) command() (c command, err error) {
	text := b.Param(0)
	name := ""
	switch b.Name {
	case "EXEC":
		if c.argv, err = SplitCommand(text); err != nil {
			return c, err
		}
		if len(c.argv) == 0 {
			return c, errors.New("the command is empty")
		}
		name = c.argv[0]
	case "SYSTEM":
		name = "/bin/sh"
		c.argv = []string{"sh", "-c", text}
	default:
		if name = optShell.Or(b, os.Getenv("SHELL")); name == "" {
			name = "/bin/sh"
		}
		c.argv = []string{filepath.Base(name)}
		if len(b.Params) > 0 {
			c.argv = append(c.argv, "-c", text)
		}
	}
	if c.path, err = b.findProgram(name); err != nil {
		return c, err
	}
	if optDash.Or(b, false) {
		c.argv[0] = "-" + c.argv[0]
	}
	return c, nil
}

// findProgram looks for a program as execvp(3) does, in the directory and below the root that it will run in.
func (b *Bound) findProgram(name string) (string, error) {
	root := optChroot.Or(b, "")
	dir := optChdir.Or(b, "")
	works := func(path string) error {
		switch {
		case root != "":
			path = filepath.Join(root, path)
		case !filepath.IsAbs(path):
			path = filepath.Join(dir, path)
		}
		st, err := os.Stat(path)
		switch {
		case errors.Is(err, unix.EACCES):
			return unix.EACCES
		case err != nil:
			return unix.ENOENT
		case st.IsDir() || st.Mode()&0o111 == 0:
			return unix.EACCES
		}
		return nil
	}
	if strings.Contains(name, "/") {
		return name, errors.Wrapf(works(name), "program %q", name)
	}
	found := error(unix.ENOENT)
	for _, d := range filepath.SplitList(optPath.Or(b, os.Getenv("PATH"))) {
		path := filepath.Join(d, name)
		if !strings.Contains(path, "/") {
			path = "./" + path
		}
		switch err := works(path); err {
		case nil:
			return path, nil
		case unix.EACCES:
			found = err
		}
	}
	return "", withHint{errors.Wrapf(found, "program %q", name), "it is looked for in PATH, or where option path says; or write its whole path"}
}

// checkExec finds what can be wrong before the program is started.
func (b *Bound) checkExec() error {
	if _, err := b.command(); err != nil {
		return err
	}
	fdin, in := optFdin.Get(b)
	fdout, out := optFdout.Get(b)
	if !out {
		fdout = 1
	}
	switch {
	case in && b.Mode&Write == 0:
		return errors.New("option fdin: the session writes nothing to the program")
	case out && b.Mode&Read == 0:
		return errors.New("option fdout: the session reads nothing from the program")
	}
	if pgid, _ := optPgid.Get(b); pgid > 1 && optSetsid.Or(b, false) {
		return errors.New("options setsid and setpgid exclude each other")
	}
	if optPipes.Or(b, false) {
		if b.Mode == ReadWrite && fdin == fdout {
			return errors.New("options fdin and fdout: two pipes need two descriptors")
		}
		if optSoType.Given(b) {
			return errors.New("options pipes and so-type exclude each other")
		}
	}
	return b.checkSoType()
}

// openProgram starts the program.
func (b *Bound) openProgram(env *Env) (Source, error) {
	c, err := b.command()
	if err != nil {
		return nil, err
	}
	l := &link{}
	var p *child
	err = b.inside(func() (err error) {
		if l, err = b.linkProgram(); err != nil {
			return err
		}
		defer l.closeTheirs()
		env.Log.Noticef("forking off child, using %s for %s", l.what, b.Mode)
		p, err = b.startProgram(env, c, l)
		return err
	})
	if err != nil {
		closeFiles(l.files)
		return nil, err
	}
	env.Log.Noticef("forked off child process %d", p.pid)
	ep, err := b.makeEndpoint(l.r, l.w, func() error {
		p.expectEnd(l.r != nil && unreadBytes(l.r) > 0)
		if optEndClose.Given(b) {
			return closeFiles(l.files)
		}
		l.hangUp()
		err := closeFiles(l.files)
		p.end(env)
		return err
	})
	if err != nil {
		return nil, err
	}
	if optSoType.Or(b, unix.SOCK_STREAM) != unix.SOCK_STREAM {
		ep.Traffic = relay.Datagrams
	}
	ep.CanAnswer = b.Mode == ReadWrite
	ep.Ended = p.done
	if l.r != nil {
		ep.Unread = func() bool { return unreadBytes(l.r) > 0 }
	}
	return &one{ep: ep}, nil
}

// link is what joins us and a program.
type link struct {
	files  []*relay.File // our ends
	r, w   *relay.File   // our halves, nil for what the session does not use
	fdin   int           // the program's ends, -1 for none; may be the same descriptor
	fdout  int
	theirs []int // the program's descriptors, to be closed here once it runs
	what   string
}

func (l *link) closeTheirs() {
	for _, fd := range l.theirs {
		unix.Close(fd)
	}
	l.theirs = nil
}

// hangUp ends both directions of a socket pair and takes out what is left unread. If it were closed with data in it, the program would lose what it has
// not read yet: the kernel tells it "connection reset" (unix_release_sock in net/unix/af_unix.c).
func (l *link) hangUp() {
	for _, f := range l.files {
		onFile(f, func(fd int) error {
			if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
				return err // a pipe
			}
			for buf := make([]byte, 64<<10); ; {
				if n, err := unix.Read(fd, buf); n <= 0 && err != unix.EINTR {
					return err
				}
			}
		})
	}
}

// linkProgram makes the socket pair or the pipes.
func (b *Bound) linkProgram() (l *link, err error) {
	l = &link{fdin: -1, fdout: -1, what: "socket"}
	defer func() {
		if err != nil {
			closeFiles(l.files)
			l.closeTheirs()
			l.files = nil
		}
	}()
	// ours takes over our end, theirs keeps the program's.
	add := func(ours, theirs int) (*relay.File, error) {
		l.theirs = append(l.theirs, theirs)
		f, err := relay.NewFile(ours, b.Label())
		if err == nil {
			l.files = append(l.files, f)
		}
		return f, err
	}
	if optPipes.Or(b, false) {
		l.what = "pipes"
		var fds [2]int
		if b.Mode&Read != 0 {
			if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
				return l, errors.Wrap(err, "pipe")
			}
			l.fdout = fds[1]
			if l.r, err = add(fds[0], fds[1]); err != nil {
				return l, err
			}
		}
		if b.Mode&Write != 0 {
			if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
				return l, errors.Wrap(err, "pipe")
			}
			l.fdin = fds[0]
			if l.w, err = add(fds[1], fds[0]); err != nil {
				return l, err
			}
			l.w.OnCloseWrite(l.w.Close)
		}
	} else {
		fds, err := unix.Socketpair(unix.AF_UNIX, optSoType.Or(b, unix.SOCK_STREAM)|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return l, errors.Wrap(err, "socketpair")
		}
		f, err := add(fds[0], fds[1])
		if err != nil {
			return l, err
		}
		if b.Mode&Read != 0 {
			l.r, l.fdout = f, fds[1]
		}
		if b.Mode&Write != 0 {
			l.w, l.fdin = f, fds[1]
			f.OnCloseWrite(f.Shutdown)
		}
	}
	return l, b.applyFiles(l.files, PhPrebigen, PhBigen, PhSocket, PhPastsocket, PhPastbigen, PhFD, PhConnected)
}

// descriptors returns what the program has open: index n is its descriptor n, -1 is closed.
func (b *Bound) descriptors(l *link) []int {
	fds := []int{0, 1, 2}
	set := func(n, fd int) {
		for len(fds) <= n {
			fds = append(fds, -1)
		}
		fds[n] = fd
	}
	if l.fdin >= 0 {
		set(optFdin.Or(b, 0), l.fdin)
	}
	fdout := optFdout.Or(b, 1)
	if l.fdout >= 0 {
		set(fdout, l.fdout)
	}
	if optErr.Or(b, false) {
		set(2, fds[fdout])
	}
	return fds
}

// unreadBytes returns how many bytes came in and wait to be read.
func unreadBytes(f *relay.File) (n int) {
	onFile(f, func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err
	})
	return n
}
