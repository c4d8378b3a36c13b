package addr

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// UNIX sockets, by a path or by an abstract name (which lives in the network namespace and not in the file system). The types of both kinds are the same but for the
// options of names in the file system.

var (
	optTightSockLen = declare(kindBool, Option{Name: "unix-tightsocklen", Aliases: "tightsocklen", Groups: GUNIX, Phase: PhPrebind,
		Doc: "1: a socket's name ends where it ends, 0: an abstract name is filled up with zero bytes (default 1)"})
	optBindTempName = declare(kindStringOr, Option{Name: "unix-bind-tempname", Aliases: "bind-tempname", Groups: GUNIX, Phase: PhPreopen,
		Doc: "bind a client to a new name, so that it can be answered: a pattern that ends in XXXXXX (default /tmp/tunsplice-bind.XXXXXX)"})
)

const defaultTempName = "/tmp/tunsplice-bind.XXXXXX"

// unixForms adds an address type for paths and its twin for abstract names. In t's texts {K} stands for UNIX or ABSTRACT, {name} for an example of a name, {kind} for what the
// name is; pathAliases are the aliases of the form for paths, the other one has abstractAliases.
func unixForms(t Type, pathAliases, abstractAliases string, open func(ctx context.Context, b *Bound, env *Env, abstract bool) (Source, error)) []*Type {
	var types []*Type
	for _, form := range []struct {
		keyword, name, kind, aliases string
		groups                       Group
		abstract                     bool
	}{
		{"UNIX", "/tmp/sock", "a UNIX socket", pathAliases, GNAMED, false},
		{"ABSTRACT", "sock", "an abstract UNIX socket", abstractAliases, 0, true},
	} {
		f := t
		f.Name, f.Aliases = strings.ReplaceAll(t.Name, "{K}", form.keyword), form.aliases
		f.Params = []Param{{Name: "filename"}}
		f.Groups |= form.groups | GFD | GSOCKET | GUNIX
		abstract := form.abstract
		f.Check = func(b *Bound) error { return b.checkUnix(abstract) }
		f.Open = func(ctx context.Context, b *Bound, env *Env) (Source, error) { return open(ctx, b, env, abstract) }
		row := addType(f)
		row.template("{K}", form.keyword, "{name}", form.name, "{kind}", form.kind)
		types = append(types, row)
	}
	return types
}

var _ = unixForms(Type{
	Name: "{K}-CONNECT", Groups: GRETRY | GPACKETS | GSTREAMS, Can: ReadWrite,
	Summary: "connect to a stream server on {kind}",
	Doc:     "With option so-type=5 the server is one of sequenced packets.",
	Examples: []Example{
		{"- {K}-CONNECT:{name}", "talk to a server from the terminal"},
		{"TCP-LISTEN:7777,fork,reuseaddr {K}-CONNECT:{name}", "make a local service reachable by TCP"},
	},
}, "LOCAL", "", func(ctx context.Context, b *Bound, env *Env, abstract bool) (Source, error) {
	return b.unixClient(ctx, env, abstract, unix.SOCK_STREAM)
})

var _ = unixForms(Type{
	Name: "{K}-CLIENT", Groups: GRETRY | GPACKETS | GSTREAMS, Can: ReadWrite,
	Summary: "connect to {kind} of any type",
	Doc:     "Stream, sequenced packets and datagrams are tried in turn. A datagram server can answer only if option bind or bind-tempname gives this side a name.",
	Examples: []Example{
		{"- {K}-CLIENT:{name}", "talk to a server from the terminal"},
		{"- {K}-CLIENT:{name},bind-tempname", "the same, if it is a server of datagrams"},
	},
}, "UNIX", "ABSTRACT", func(ctx context.Context, b *Bound, env *Env, abstract bool) (Source, error) {
	if optSoType.Given(b) {
		return b.unixClient(ctx, env, abstract, unix.SOCK_STREAM)
	}
	return b.unixClient(ctx, env, abstract, unix.SOCK_STREAM, unix.SOCK_SEQPACKET, unix.SOCK_DGRAM)
})

var _ = unixForms(Type{
	Name: "{K}-LISTEN", Groups: GLISTEN | GCHILD | GRETRY | GPACKETS | GSTREAMS, Can: ReadWrite,
	Summary: "wait for clients on {kind}",
	Doc:     "Takes one connection; with fork any number, each with a session of its own. A name in the file system is removed at the end.",
	Examples: []Example{
		{"{K}-LISTEN:{name} -", "show what the first client sends"},
		{"{K}-LISTEN:{name},fork TCP:127.0.0.1:7777", "pass each client on to a TCP server"},
	},
}, "UNIX-L", "", func(ctx context.Context, b *Bound, env *Env, abstract bool) (src Source, err error) {
	err = b.retry(ctx, env, func() error {
		n := b.unixServerName(env, abstract)
		fd, err := b.makeSocket(socketSpec{family: unix.AF_UNIX, typ: unix.SOCK_STREAM, keepFD: true}, n.bind)
		if err != nil {
			return err
		}
		l, err := b.listen(env, fd)
		if err != nil {
			n.remove()
			return err
		}
		l.cleanup = n.remove
		src = l
		return nil
	})
	return src, err
})

var _ = unixForms(Type{
	Name: "{K}-SENDTO", Groups: GRETRY | GPACKETS, Can: ReadWrite,
	Summary: "exchange datagrams with one peer on {kind}",
	Doc:     "The peer need not be there yet. It can answer only if option bind or bind-tempname gives this side a name.",
	Examples: []Example{
		{"- {K}-SENDTO:{name},bind-tempname", "send each line as a datagram, show the answers"},
		{"-u /etc/hostname {K}-SENDTO:{name}", "send a small file as one datagram"},
	},
}, "UNIX-SEND", "", func(ctx context.Context, b *Bound, env *Env, abstract bool) (Source, error) {
	return b.client(ctx, env, func(context.Context) (*relay.Endpoint, error) {
		n := b.unixClientName(env, abstract)
		peer := unixSockaddr(b.unixPath(b.Param(0), abstract), abstract, optTightSockLen.Or(b, true))
		ep, err := b.sendTo(env, socketSpec{family: unix.AF_UNIX, typ: unix.SOCK_DGRAM}, peer, n.bindFunc(), samePeer(peer), false)
		if err != nil {
			n.remove()
			return nil, err
		}
		n.removeAfter(ep)
		return ep, nil
	})
})

var _ = unixForms(Type{
	Name: "{K}-RECV", Groups: GRETRY, Can: Read,
	Summary: "receive datagrams from anyone on {kind}",
	Doc:     "Nothing is sent. A name in the file system is removed at the end.",
	Examples: []Example{
		{"-u {K}-RECV:{name} -", "show what anyone sends"},
		{"-u {K}-RECV:{name} CREATE:/tmp/log", "write what anyone sends to a file"},
	},
}, "", "", func(ctx context.Context, b *Bound, env *Env, abstract bool) (Source, error) {
	return b.client(ctx, env, func(context.Context) (*relay.Endpoint, error) {
		n := b.unixServerName(env, abstract)
		fd, err := b.makeSocket(socketSpec{family: unix.AF_UNIX, typ: unix.SOCK_DGRAM}, n.bind)
		if err != nil {
			return nil, err
		}
		ep, err := b.receive(env, fd)
		if err != nil {
			n.remove()
			return nil, err
		}
		n.removeAfter(ep)
		return ep, nil
	})
})

var _ = unixForms(Type{
	Name: "{K}-RECVFROM", Groups: GCHILD | GRETRY, Can: ReadWrite,
	Summary: "take one datagram on {kind} and send answers to its sender",
	Doc:     "The datagram is followed by the end of file. With fork each datagram has a session of its own. A sender without a name can't be answered.",
	Examples: []Example{
		{"{K}-RECVFROM:{name},fork EXEC:date", "tell the date to whoever sends a datagram"},
		{"{K}-RECVFROM:{name} PIPE", "send one datagram back"},
	},
}, "", "", func(ctx context.Context, b *Bound, env *Env, abstract bool) (src Source, err error) {
	err = b.retry(ctx, env, func() error {
		n := b.unixServerName(env, abstract)
		fd, err := b.makeSocket(socketSpec{family: unix.AF_UNIX, typ: unix.SOCK_DGRAM}, n.bind)
		if err != nil {
			return err
		}
		w, err := b.receiveFromEach(env, fd)
		if err != nil {
			n.remove()
			return err
		}
		w.cleanup = n.remove
		src = w
		return nil
	})
	return src, err
})

// checkUnix checks the names, and the options that go with fork.
func (b *Bound) checkUnix(abstract bool) error {
	if err := checkUnixName(b.unixPath(b.Param(0), abstract), abstract); err != nil {
		return err
	}
	bind, haveBind := optBind.Get(b)
	pattern, haveTemp := optBindTempName.Get(b)
	if haveBind {
		if err := checkUnixName(b.unixPath(bind, abstract), abstract); err != nil {
			return errors.Wrap(err, "option bind")
		}
	}
	switch {
	case haveBind && haveTemp:
		return errors.New("options bind and bind-tempname exclude each other")
	case (haveBind || haveTemp) && b.bindsParam():
		return withHint{errors.Errorf("%s binds to its parameter", b.Name), "leave out option bind"}
	case pattern != "" && !strings.HasSuffix(pattern, "XXXXXX"):
		return errors.Errorf("option bind-tempname: %q does not end in XXXXXX", pattern)
	case len(pattern) >= maxUnixPath:
		return errors.Errorf("option bind-tempname: a UNIX socket's name has at most %d bytes", maxUnixPath-1)
	}
	return b.checkFork()
}

// bindsParam says that the parameter is the name of the own socket.
func (b *Bound) bindsParam() bool {
	return strings.HasSuffix(b.Name, "-LISTEN") || strings.Contains(b.Name, "-RECV")
}

func checkUnixName(name string, abstract bool) error {
	switch {
	case name == "" && !abstract:
		return errors.New("name is missing")
	case len(name) >= maxUnixPath:
		return withHint{errors.Errorf("a UNIX socket's name has at most %d bytes, this one %d", maxUnixPath-1, len(name)), "use option chdir and a relative path, or a symbolic link"}
	}
	return nil
}

// unixPath returns the name as it means the same to every thread: a path below the directory of option chdir becomes absolute.
func (b *Bound) unixPath(name string, abstract bool) string {
	dir, given := optChdir.Get(b)
	if abstract || !given || name == "" || filepath.IsAbs(name) {
		return name
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return name
	}
	return abs + "/" + name
}

// unixClient connects to a socket of one of the types, which are tried in turn.
func (b *Bound) unixClient(ctx context.Context, env *Env, abstract bool, types ...int) (Source, error) {
	remote := unixSockaddr(b.unixPath(b.Param(0), abstract), abstract, optTightSockLen.Or(b, true))
	return b.client(ctx, env, func(ctx context.Context) (*relay.Endpoint, error) {
		n := b.unixClientName(env, abstract)
		var c *connection
		var err error
		for _, typ := range types {
			c, err = b.connectSocket(ctx, env, socketSpec{family: unix.AF_UNIX, typ: typ}, &remote, n.bindFunc())
			if err == nil {
				break
			}
			n.remove()
			// An abstract name is looked for together with its type, so that one of another type is like none.
			if !errors.Is(err, unix.EPROTOTYPE) && !(abstract && errors.Is(err, unix.ECONNREFUSED)) {
				break
			}
		}
		if err != nil {
			return nil, err
		}
		ep, err := b.connectedEndpoint(c)
		if err != nil {
			n.remove()
			return nil, err
		}
		n.removeAfter(ep)
		return ep, nil
	})
}

// samePeer admits what comes from the peer. A peer that bound itself by a relative path or a link is known by another name than ours, so only those are refused that are
// certainly someone else: they have no name, or one that stands for another socket.
func samePeer(peer sockaddr) func(from *sockaddr) bool {
	known := peer
	return func(from *sockaddr) bool {
		if *from == known || *from == peer {
			return true
		}
		name, abstract := from.unixName()
		want, wantAbstract := peer.unixName()
		if name == "" || abstract != wantAbstract || abstract {
			return false
		}
		theirs, err1 := os.Stat(name)
		ours, err2 := os.Stat(want)
		if filepath.IsAbs(name) && err1 == nil && err2 == nil && !os.SameFile(theirs, ours) {
			return false
		}
		known = *from
		return true
	}
}

// unixName is a name that a socket of ours is, or is to be, bound to.
type unixName struct {
	b        *Bound
	env      *Env
	name     string // or a pattern
	temp     bool   // name is a pattern
	abstract bool

	mu       sync.Mutex
	made     string // the path of the entry that bind made; "" for none
	dev, ino uint64 // of the entry
}

// unixServerName is the parameter.
func (b *Bound) unixServerName(env *Env, abstract bool) *unixName {
	return &unixName{b: b, env: env, name: b.unixPath(b.Param(0), abstract), abstract: abstract}
}

// unixClientName is the value of option bind or bind-tempname; without these the client stays without a name.
func (b *Bound) unixClientName(env *Env, abstract bool) *unixName {
	n := &unixName{b: b, env: env, abstract: abstract}
	if name, ok := optBind.Get(b); ok {
		n.name = b.unixPath(name, abstract)
	}
	if pattern, ok := optBindTempName.Get(b); ok {
		if pattern == "" {
			pattern = defaultTempName
		}
		n.name, n.temp = b.unixPath(pattern, abstract), true
	}
	return n
}

// bindFunc returns nil if there is nothing to bind to.
func (n *unixName) bindFunc() func(int) error {
	if n.name == "" && !n.temp {
		return nil
	}
	return n.bind
}

// bind gives the socket its name. It runs inside Bound.inside.
func (n *unixName) bind(fd int) error {
	if !n.abstract && !n.temp {
		if err := n.b.prepareName(n.name); err != nil {
			return err
		}
	}
	mode, haveMode := optPerm.Take(n.b)
	if haveMode && !n.abstract {
		// bind(2) makes the entry with the mode of the socket, less the umask (net/unix/af_unix.c, unix_bind_bsd): so it is never open to more than it shall be.
		if err := unix.Fchmod(fd, mode); err != nil {
			return errors.Wrap(err, "option perm: fchmod")
		}
	}
	name, err := n.tryBind(fd)
	if err != nil || n.abstract {
		return err
	}
	if err := n.settle(name, mode, haveMode); err != nil {
		n.remove()
		return err
	}
	return nil
}

// tryBind calls bind(2), with a pattern until a free name is found, and returns the name.
func (n *unixName) tryBind(fd int) (name string, err error) {
	const attempts = 100
	for range attempts {
		name = n.name
		if n.temp {
			name = strings.TrimSuffix(name, "XXXXXX") + randomLetters(6)
		}
		local := unixSockaddr(name, n.abstract, optTightSockLen.Or(n.b, true))
		if err = bindTo(fd, &local); err != nil {
			err = bindError(err, &local)
		}
		if !n.temp || !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return name, err
}

func randomLetters(count int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	p := make([]byte, count)
	for i := range p {
		p[i] = letters[rand.IntN(len(letters))]
	}
	return string(p)
}

// settle remembers which entry was made and gives it owner and mode.
func (n *unixName) settle(path string, mode uint32, haveMode bool) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return errors.Wrapf(err, "stat %s", path)
	}
	n.mu.Lock()
	n.made, n.dev, n.ino = path, st.Dev, st.Ino
	n.mu.Unlock()
	uid, haveUID := optUser.Take(n.b)
	gid, haveGID := optGroup.Take(n.b)
	if haveUID || haveGID {
		if !haveUID {
			uid = -1
		}
		if !haveGID {
			gid = -1
		}
		if err := unix.Lchown(path, uid, gid); err != nil {
			return errors.Wrapf(err, "option user or group: chown %s", path)
		}
	}
	if haveMode && st.Mode&0o7777 != mode {
		if err := unix.Chmod(path, mode); err != nil {
			return errors.Wrapf(err, "option perm: chmod %s", path)
		}
	}
	if optUnlinkLate.Or(n.b, false) {
		return n.unlink()
	}
	return nil
}

// remove does at the end what option unlink-close says.
func (n *unixName) remove() error {
	if !optUnlinkClose.Or(n.b, true) {
		return nil
	}
	return n.unlink()
}

// unlink removes the entry that bind made, unless it was replaced: another program may have taken the name over.
func (n *unixName) unlink() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	path := n.made
	n.made = ""
	var st unix.Stat_t
	if path == "" || unix.Lstat(path, &st) != nil || st.Dev != n.dev || st.Ino != n.ino {
		return nil
	}
	return unlinkName(path)
}

// removeAfter removes the entry when the endpoint is closed.
func (n *unixName) removeAfter(ep *relay.Endpoint) {
	if n.bindFunc() == nil || n.abstract {
		return
	}
	onClose(ep, func() {
		if err := n.remove(); err != nil {
			n.env.Log.Warnf("%s: %s", n.b.Label(), err)
		}
	})
}
