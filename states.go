package main

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"tunsplice/addr"
	"tunsplice/relay"
)

// States: what scripts can follow.
//
// Whoever reaches a state says so to the progress of its session: addresses through addr.Env.State (device, listening, authenticated), the relay through Config.Up (up), the session loop
// the rest. From there it goes to the log (--log-format=json), to the program of --on-state, to the service manager, and it decides when the program is ready:
// after set-up if an address listens, else when traffic can flow.
//
//	device, listening -> connected -> [authenticated] -> up -> down -> closed
//
// Without fork there is one progress for all; with fork each session has one, and what comes before the peer is the program's. Nothing here waits: the callers move data.

// states take the changes of all sessions. The zero value is not ready: newStates.
type states struct {
	log   *relay.Log
	sink  *logSink
	hook  *hook // nil: no --on-state
	ready *readiness

	program *progress

	mu        sync.Mutex
	listening bool // an address of the program itself waits for peers
}

// progress is how far one session, or the program, has come.
type progress struct {
	s       *states
	session string      // label, "" for the program or the only session
	bytes   atomic.Bool // the session carries no packets

	mu   sync.Mutex
	last addr.State
	vars []string // NAME=value pairs that are known by now
}

// follower is told how far a session has come.
type follower interface {
	connected(left, right *relay.Endpoint)
	up(peer relay.PeerInfo)
	down(err error)
}

// newStates returns states that nobody follows yet.
func newStates(log *relay.Log, sink *logSink, ready *readiness, h *hook) *states {
	s := &states{log: log, sink: sink, ready: ready, hook: h}
	s.program = &progress{s: s}
	return s
}

// session returns the progress of a session: of its own with fork, else the program's.
func (s *states) session(label string, forked bool) *progress {
	if !forked {
		return s.program
	}
	return &progress{s: s, session: label}
}

// opened is called when an address of the program is open and nothing that could fail stands between it and its peers.
func (s *states) opened() {
	s.mu.Lock()
	listening := s.listening
	s.mu.Unlock()
	if listening {
		s.ready.reached()
	}
}

// closed is the last call: the program ends with this exit status. It waits for the program of --on-state, for some seconds at most.
func (s *states) closed(status int) {
	p := s.program
	p.mu.Lock()
	vars := p.vars
	p.mu.Unlock()
	s.tell(addr.StateClosed, "", vars, event{Message: "closed with status " + strconv.Itoa(status), Status: &status})
	if s.hook != nil {
		s.hook.finish()
	}
	s.ready.end()
}

// followed says whether anybody gets to know of a session's states, so that an idle one holds nothing for nobody.
func (p *progress) followed() bool {
	return p.session == "" || p.s.hook != nil || p.s.sink.json
}

// reach takes a state of an address, or of the session.
func (p *progress) reach(state addr.State, vars ...string) {
	if !p.followed() {
		if state == addr.StateUp {
			p.s.ready.reached()
		}
		return
	}
	e := event{Message: string(state)}
	p.mu.Lock()
	switch state {
	case addr.StateListening: // what it says of the socket is over once a peer has come
		vars, e.Address = slices.Concat(p.vars, vars), listenAddress(vars)
		e.Message += " on " + e.Address
	default:
		p.vars = mergeVariables(p.vars, vars)
		vars = p.vars
	}
	p.last = state
	p.mu.Unlock()
	if state == addr.StateListening && p == p.s.program {
		p.s.mu.Lock()
		p.s.listening = true
		p.s.mu.Unlock()
	}
	p.s.tell(state, p.session, vars, e)
	if state == addr.StateUp {
		p.s.ready.reached()
	}
}

// connected takes the two open endpoints of a session.
func (p *progress) connected(left, right *relay.Endpoint) {
	if !p.followed() {
		return
	}
	p.bytes.Store(left.Traffic == relay.Stream && right.Traffic == relay.Stream)
	var vars []string
	for _, e := range []*relay.Endpoint{left, right} {
		vars = append(vars, e.Env...)
		if e.Peer != "" {
			vars = append(vars, "PEER="+e.Peer)
		}
	}
	p.reach(addr.StateConnected, vars...)
	if left.Authenticated || right.Authenticated { // before the endpoint was handed out; a session begins with being connected all the same
		p.reach(addr.StateAuthenticated)
	}
}

// up is relay.Config.Up.
func (p *progress) up(peer relay.PeerInfo) {
	framing := peer.Framing
	if !p.followed() {
		p.reach(addr.StateUp)
		return
	}
	switch {
	case p.bytes.Load():
		framing = ""
	case peer.Framed && framing == relay.FramingNone.String():
		framing = "packets" // they keep their borders by themselves
	}
	p.reach(addr.StateUp, "FRAMING="+framing)
}

// down takes the end of a session that was connected.
func (p *progress) down(err error) {
	if !p.followed() {
		return
	}
	e := event{Message: "down"}
	if err != nil {
		e.Message += ": " + relay.ErrorText(err)
		e.setError(err)
	}
	p.mu.Lock()
	vars := p.vars
	p.last = addr.StateDown
	p.mu.Unlock()
	p.s.tell(addr.StateDown, p.session, vars, e)
}

// together is the progress of a tunnel of several connections: up while one of them is.
type together struct {
	p  *progress
	mu sync.Mutex // held while p is told, so that what it is told comes in order
	n  int        // connections that are up
}

// connection returns the follower of one connection.
func (t *together) connection() follower { return &oneOfMany{t: t} }

// oneOfMany is one connection of a tunnel.
type oneOfMany struct {
	t           *together
	left, right *relay.Endpoint
	isUp        bool
}

func (o *oneOfMany) connected(left, right *relay.Endpoint) { o.left, o.right = left, right }

func (o *oneOfMany) up(peer relay.PeerInfo) {
	o.t.mu.Lock()
	defer o.t.mu.Unlock()
	o.isUp = true
	if o.t.n++; o.t.n == 1 {
		o.t.p.connected(o.left, o.right)
		o.t.p.up(peer)
	}
}

func (o *oneOfMany) down(err error) {
	o.t.mu.Lock()
	defer o.t.mu.Unlock()
	if !o.isUp {
		return
	}
	if o.t.n--; o.t.n == 0 {
		o.t.p.down(err)
	}
}

// tell passes a change on. vars are not altered any more.
func (s *states) tell(state addr.State, session string, vars []string, e event) {
	e.Event, e.State, e.Session = "state", string(state), session
	e.setVariables(vars)
	s.sink.event(relay.Notice, e)
	if s.hook != nil {
		s.hook.add(state, vars)
	}
	if session == "" {
		s.ready.status(e.Message)
	}
}

// listenAddress is the address in what a listener says of itself.
func listenAddress(vars []string) string {
	var host, port string
	for _, v := range vars {
		switch name, value, _ := strings.Cut(v, "="); name {
		case "SOCKADDR":
			host = value
		case "SOCKPORT":
			port = ":" + value
		}
	}
	return host + port
}

// mergeVariables returns old with the variables of more, which win. Neither is altered.
func mergeVariables(old, more []string) []string {
	merged := slices.Clone(old)
	for _, v := range more {
		name, _, _ := strings.Cut(v, "=")
		merged = slices.DeleteFunc(merged, func(m string) bool { return strings.HasPrefix(m, name+"=") })
		merged = append(merged, v)
	}
	return merged
}

// stateEnvironment is what the program of --on-state finds in its environment: ours, the state with all that is known of the session as other programs have it, and the six names that
// the flag promises without a prefix too. What is not known is empty.
func stateEnvironment(program string, state addr.State, vars []string) []string {
	vars = mergeVariables(vars, []string{"STATE=" + string(state)})
	env := addr.WithVariables(os.Environ(), program, vars)
	for _, name := range []string{"STATE", "IFACE", "MTU", "ADDR", "PEER", "FRAMING"} {
		value := ""
		for _, v := range vars {
			if rest, ok := strings.CutPrefix(v, name+"="); ok {
				value = rest
			}
		}
		env = append(env, name+"="+value) // of two entries with one name os/exec takes the last
	}
	return env
}

// checkFollowing finds what can't be followed as asked, and what can't be given up, before anything is opened.
func (p *invocation) checkFollowing(left, right *addr.Address) (err error) {
	for _, check := range []func(left, right *addr.Address) error{p.checkPrivileges, p.checkReadyFD, p.checkBackground} {
		if err := check(left, right); err != nil {
			return err
		}
	}
	if p.OnState != "" {
		p.hookArgs, err = findHook(p.OnState, p.privileges.Root)
	}
	return err
}

// prepareStates takes hold of all through which the states are told.
func (p *invocation) prepareStates(cancel context.CancelCauseFunc) (err error) {
	addr.DropInherited()
	if p.pidFile, err = takePIDFile(p.PIDFile); err != nil {
		return err
	}
	ready, err := p.prepareReady(func(err error) { cancel(notReady{err}) })
	if err != nil {
		if rerr := p.pidFile.remove(); rerr != nil {
			p.log.Warnf("%s", rerr)
		}
		return err
	}
	var h *hook
	if p.hookArgs != nil {
		h = startHook(p.hookArgs, p.sink.name, p.log)
	}
	p.states = newStates(p.log, p.sink, ready, h)
	return nil
}

// removeFiles removes what says that the program runs.
func (p *invocation) removeFiles() error {
	err := p.lock.remove()
	if perr := p.pidFile.remove(); err == nil {
		err = perr
	}
	return err
}

// peerEnv is what a program that is joined to an endpoint gets to know of it.
func peerEnv(ep *relay.Endpoint) []string {
	if ep.Peer == "" {
		return ep.Env
	}
	return append(slices.Clone(ep.Env), "PEER="+ep.Peer)
}

// notReady is why nobody could be told that the program is ready: the cause of a cancelled context.
type notReady struct{ error }
