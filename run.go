package main

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"tunsplice/addr"
	"tunsplice/relay"

	"github.com/pkg/errors"
)

// invocation is one run of the program.
type invocation struct {
	*commandLine
	sink     *logSink
	log      *relay.Log
	lock     *lockFile // nil: none
	sessions sessions

	resolveIP, listenIP    byte // as addr.Env has them
	transferWait, forkWait time.Duration
	rawLeft, rawRight      *os.File // copies whose names are the same for all sessions; nil: none, or one for each session
	childFailed            atomic.Bool

	states     *states  // nil until the addresses are being opened
	starter    *starter // nil: not started by --background
	pidFile    *pidFile // nil: none
	hookArgs   []string // the program of --on-state, nil: none
	privileges privileges
}

// run is the whole program. It returns the exit status.
func run(argv []string) int {
	var c commandLine
	command, mistake := parseArgs(&c, argv[1:])
	p := &invocation{commandLine: &c, sink: newLogSink(&c, argv[0])}
	p.log = relay.NewRecordLog(logLevel(c.Level), p.sink.record)
	if err := p.findStarter(); err != nil {
		return p.fail(err)
	}
	if len(c.Log) > 0 {
		if err := p.sink.open(c.Log[len(c.Log)-1]); err != nil {
			return p.fail(err)
		}
	}
	if mistake != nil {
		return p.fail(mistake)
	}
	switch {
	case c.HelpLevel > 0:
		return p.shown(showHelp(os.Stdout, c.HelpLevel))
	case c.Features:
		return p.shown(showFeatures(os.Stdout))
	case c.Version:
		_, err := io.WriteString(os.Stdout, "tunsplice version "+version+"\n")
		return p.shown(err)
	case command == "help":
		return p.shown(showHelpFor(os.Stdout, c.Help.Name))
	case command == "keygen":
		return p.shown(keygen(c.Keygen.File))
	}
	status := p.relay(c.Relay.Addresses, argv)
	p.sink.ended()
	return status
}

// shown ends a run that only had to print something.
func (p *invocation) shown(err error) int {
	if err != nil {
		return p.fail(err)
	}
	return 0
}

// fail logs the error that ends the program: one line, and a hint if a cure is known.
func (p *invocation) fail(err error) int {
	p.log.Errorf("%s", err)
	if hint := addr.Hint(err); hint != "" {
		p.log.Warnf("hint: %s", hint)
	}
	p.tellReason(err)
	p.log.Noticef("exit(1)")
	return 1
}

// relay joins the two addresses of the command line. argv is the whole of it, for starting the program again.
func (p *invocation) relay(args, argv []string) int {
	if len(args) != 2 {
		hint := "the form is: tunsplice [options] ADDRESS ADDRESS, as in: tunsplice - TCP:www.example.org:80"
		if len(args) > 2 {
			hint = "options stand before the addresses, and an address with spaces in it wants quotes: 'EXEC:ls -l'"
		}
		return p.fail(hinted{errors.Errorf("exactly 2 addresses required (there are %d)%s", len(args), seeHelp), hint})
	}
	if err := p.readEnvironment(); err != nil {
		return p.fail(err)
	}
	left, right, err := p.bind(args)
	if err != nil {
		return p.fail(err)
	}
	if p.Explain {
		return p.shown(p.explain(os.Stdout, left, right))
	}
	if p.Background && p.starter == nil {
		return p.startServer(argv)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	if err := p.prepareStates(cancel); err != nil {
		return p.fail(err)
	}
	p.watchSignals(cancel)

	err = p.takeLock(ctx)
	if err == nil {
		err = p.openRawCopies()
	}
	if err == nil {
		err = p.join(ctx, left, right)
	}
	p.closeRawCopies()
	if lerr := p.removeFiles(); err == nil {
		err = lerr
	}
	status := p.status(ctx, err)
	p.states.closed(status)
	return status
}

// status returns the exit status after the transfer, and logs it.
func (p *invocation) status(ctx context.Context, err error) int {
	var sig signalled
	var unheard notReady
	switch {
	case errors.As(context.Cause(ctx), &unheard):
		return p.fail(unheard)
	case errors.As(context.Cause(ctx), &sig):
		p.log.Noticef("exit(%d)", sig.status())
		return sig.status()
	case err != nil && !errors.Is(err, addr.ErrAcceptTimeout):
		return p.fail(err)
	case p.childFailed.Load():
		p.log.Noticef("exit(1)")
		return 1
	}
	p.log.Noticef("exiting with status 0")
	return 0
}

// readEnvironment reads the variables that stand in for flags. A flag beats a variable.
func (p *invocation) readEnvironment() error {
	p.resolveIP, p.listenIP = '4', '4'
	switch v := os.Getenv("SOCAT_PREFERRED_RESOLVE_IP"); v {
	case "0", "4", "6":
		p.resolveIP = v[0]
	}
	switch v, given := os.LookupEnv("SOCAT_DEFAULT_LISTEN_IP"); {
	case v == "4" || v == "6":
		p.listenIP = v[0]
	case given:
		p.listenIP = '0'
	}
	if p.IPVersion != "" {
		p.resolveIP, p.listenIP = p.IPVersion[0], p.IPVersion[0]
	}
	var mainWait time.Duration
	for name, d := range map[string]*time.Duration{"SOCAT_MAIN_WAIT": &mainWait, "SOCAT_TRANSFER_WAIT": &p.transferWait, "SOCAT_FORK_WAIT": &p.forkWait} {
		if v := os.Getenv(name); v != "" {
			var err error
			if *d, err = addr.ParseSeconds(v); err != nil {
				return errors.Wrapf(err, "variable %s", name)
			}
		}
	}
	time.Sleep(mainWait) // before signals are caught: for debuggers
	return nil
}

// env returns what openers need to know.
func (p *invocation) env(peer []string, log *relay.Log, pr *progress, forked bool) *addr.Env {
	e := &addr.Env{Log: log, Program: p.sink.name, Version: version, ResolveIP: p.resolveIP, ListenIP: p.listenIP, PeerEnv: peer, Linger: time.Duration(p.Linger), State: pr.reach}
	if forked {
		e.ChildFailed = func(int) {} // logged; the status of a server is not that of one of its sessions
	} else {
		e.ChildFailed = func(int) { p.childFailed.Store(true) }
	}
	return e
}

// join opens the addresses and runs the session, or with option fork the sessions, until all have ended.
//
// As a rule the left address is opened first and the right one when the left has its peer. An address with fork is the outer one, on whichever side it stands: it is
// opened once, and for each of its peers the other address is opened anew. (socat opens the left address once and lets all peers of a forking right address share it.)
func (p *invocation) join(ctx context.Context, left, right *addr.Address) error {
	if lasts(left, right) {
		return p.last(ctx, left, right)
	}
	outer, inner, swapped := left, right, false
	if right.Forks() {
		outer, inner, swapped = right, left, true
	}
	env := p.env(nil, p.log, p.states.program, false)
	env.Tunnel = inner.IsDevice()
	src, err := outer.Open(ctx, env)
	if err != nil {
		return err
	}
	var shared *addr.Hub // the inner address if all peers share it; nil: it is opened anew for each
	if src.Many() && inner.Shares() {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		defer cancel(nil)
		if shared, err = p.openHub(ctx, inner, cancel); err != nil {
			src.Close()
			return err
		}
	}
	if src.Many() {
		if err := p.giveUpPrivileges(); err != nil {
			src.Close()
			return err
		}
	}
	p.states.opened()
	if !src.Many() {
		ep, err := src.Next(ctx)
		if err == nil {
			err = untilDone(func(done func(error)) { p.session(ctx, ep, inner, nil, outer.IsDevice(), swapped, false, done) })
		}
		if cerr := src.Close(); err == nil {
			err = cerr
		}
		return noEOF(err)
	}
	var running sync.WaitGroup
	device := outer.IsDevice()
	begin := func(ep *relay.Endpoint) {
		p.session(ctx, ep, inner, shared, device, swapped, true, func(err error) {
			if err != nil && ctx.Err() == nil {
				p.sessionFailed(ep.Label, err, shared != nil)
			}
			running.Done()
		})
	}
	beginners := make(chan *relay.Endpoint)
	var idle atomic.Int32 // goroutines that wait for an endpoint
	for {
		var ep *relay.Endpoint
		if ep, err = src.Next(ctx); err != nil {
			break
		}
		running.Add(1)
		select {
		case beginners <- ep:
		default:
			go func() { // a few go on to begin the next ones: their stacks have grown then
				for ok := true; ok; {
					begin(ep)
					if idle.Add(1) > maxIdle {
						ok = false
					} else {
						ep, ok = <-beginners
					}
					idle.Add(-1)
				}
			}()
		}
	}
	close(beginners)
	if cerr := src.Close(); cerr != nil {
		p.log.Warnf("%s: %s", outer.Text, cerr)
	}
	running.Wait()
	if shared != nil {
		err = p.closeHub(shared, err)
	}
	return noEOF(err)
}

// maxIdle is how many goroutines wait for sessions to begin.
const maxIdle = 8

// noEOF turns the end of a source into no error.
func noEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// untilDone starts what calls done at its end, and waits for that.
func untilDone(start func(done func(error))) error {
	ended := make(chan error, 1)
	start(func(err error) { ended <- err })
	return <-ended
}

// session opens the inner address for one endpoint ep of the outer one, which may be a device, unless all share it, and joins them. It returns when that is under way; done is called when it is over
// and ep is closed. So an idle session keeps no goroutine but those of its two directions.
func (p *invocation) session(ctx context.Context, ep *relay.Endpoint, inner *addr.Address, shared *addr.Hub, device, swapped, forked bool, done func(error)) {
	log := p.log
	if forked {
		log = log.With(ep.Label)
		if err := pause(ctx, p.forkWait); err != nil {
			ep.Close()
			done(err)
			return
		}
	}
	following := p.states.session(ep.Label, forked)
	var src addr.Source = noClose{shared}
	if shared == nil {
		env := p.env(peerEnv(ep), log, following, forked)
		env.Tunnel = device
		var err error
		if src, err = inner.Open(ctx, env); err != nil {
			closeUnused(ep, log)
			done(err)
			return
		}
	}
	if !forked {
		p.states.opened()
	}
	other, err := src.Next(ctx)
	if err != nil {
		closeUnused(ep, log)
		src.Close()
		done(noEOF(err))
		return
	}
	left, right := ep, other
	if swapped {
		left, right = other, ep
	}
	p.startTransfer(ctx, left, right, log, following, forked, nil, nil, func(err error) {
		if cerr := src.Close(); err == nil {
			err = cerr
		}
		done(err)
	})
}

// closeUnused closes an endpoint that found no partner.
func closeUnused(ep *relay.Endpoint, log *relay.Log) {
	if ep.Close == nil {
		return
	}
	if err := ep.Close(); err != nil {
		log.Infof("%s: %s", ep.Label, err)
	}
}

// startTransfer starts a session between two open endpoints, and closes them; done is called at its end. What the session is to have in its configuration beyond what the command line
// says is added by adjust, and begun is told of the session before it runs; both may be nil.
func (p *invocation) startTransfer(ctx context.Context, left, right *relay.Endpoint, log *relay.Log, following follower, forked bool,
	adjust func(c *relay.Config), begun func(*relay.Session), done func(error)) {
	dump, closeDump, err := p.dump(left, right)
	if err == nil {
		if p.Descriptors {
			p.sink.plain(describeDescriptors(left, right))
		}
		err = pause(ctx, p.transferWait)
	}
	if err == nil {
		err = p.giveUpPrivileges()
	}
	if err != nil {
		closeUnused(left, log)
		closeUnused(right, log)
		if closeDump != nil { // nil if it was that which failed
			closeDump()
		}
		done(err)
		return
	}
	p.sink.started()
	following.connected(left, right)
	if !forked {
		useProcessors(left, right)
	}
	c := relay.Config{
		LeftToRight: !p.RightToLeft, RightToLeft: !p.LeftToRight,
		BufferSize: int(p.Buffer), Linger: time.Duration(p.Linger), Idle: time.Duration(p.Idle),
		Log: log, Dump: dump, Up: following.up,
	}
	if adjust != nil {
		adjust(&c)
	}
	s := relay.NewSession(left, right, c)
	if begun != nil {
		begun(s)
	}
	p.sessions.add(s, forked)
	s.Start(ctx, func(err error) {
		p.sessions.remove(s)
		if p.Statistics {
			p.logStatistics(sessionLabel(s, forked), s.Stats())
		}
		following.down(err)
		closeDump()
		done(err)
	})
}

// pause waits d, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hinted is an error with a cure.
type hinted struct {
	error
	hint string
}

// Hint says how to cure the error.
func (h hinted) Hint() string { return h.hint }

func (h hinted) Unwrap() error { return h.error }
