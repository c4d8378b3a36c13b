package main

import (
	"context"

	"tunsplice/addr"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// One device for all peers of an address with fork (option hub).

// openHub opens the address that all sessions share. If it fails later, cancel ends them.
func (p *invocation) openHub(ctx context.Context, inner *addr.Address, cancel context.CancelCauseFunc) (*addr.Hub, error) {
	env := p.env(nil, p.log, p.states.program, true)
	env.HubFailed = func(err error) { cancel(err) }
	hub, err := inner.OpenHub(ctx, env)
	if err == nil {
		p.sessions.setHub(hub)
	}
	return hub, err
}

// closeHub ends the hub after the last session. err is why no more peers come; a hub that has failed is the better reason.
func (p *invocation) closeHub(hub *addr.Hub, err error) error {
	if failed := hub.Err(); failed != nil {
		err = failed
	}
	if p.Statistics {
		p.logHubStatistics(hub)
	}
	p.sessions.setHub(nil)
	if cerr := hub.Close(); err == nil {
		err = cerr
	}
	return err
}

// sessionFailed logs the error of one session among many. That a peer of a hub leaves in the middle of a packet is none: the others go on.
func (p *invocation) sessionFailed(peer string, err error, shared bool) {
	log := p.log.With(peer)
	if shared && (errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)) {
		log.Noticef("%s", err)
		return
	}
	log.Errorf("%s", err)
	if hint := addr.Hint(err); hint != "" {
		log.Warnf("hint: %s", hint)
	}
}

// noClose is a hub for one session, which others use too.
type noClose struct{ *addr.Hub }

// Close implements addr.Source.
func (noClose) Close() error { return nil }
