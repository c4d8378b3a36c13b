package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
)

// Who has the device of a tunnel that lasts: one peer at a time, with as many connections as there are seats.

// seats are the places at a device.
type seats struct {
	log     *relay.Log
	swapped bool // the device is the left address

	mu   sync.Mutex
	at   []*sitting // who has the device, by the number of the connection; nil: nobody
	wait []*sitting // sessions whose peer is not known yet, the oldest first
}

// sitting is one session that has the device or wants it.
type sitting struct {
	session *relay.Session // nil: of one that mends the device
	info    relay.PeerInfo
	party   relay.Nonce // those of one tunnel have the same one and sit side by side; zero: sits alone
	number  int         // of the connection in its tunnel
	take    func() error
	made    int64         // which device it took, see lasting.made
	up      bool          // it had the device
	over    chan struct{} // closed when the session has ended
}

// mostWaiting bounds the connections that may be open without their peer being known, where there is one seat. The connections of one tunnel may all come at once, so each further
// seat allows one more.
const mostWaiting = 32

// busyWait is how long a newcomer that can't be told apart from others waits for the session before it to end.
const busyWait = time.Second

// newSeats returns n free seats.
func newSeats(n int, swapped bool, log *relay.Log) *seats {
	return &seats{at: make([]*sitting, n), swapped: swapped, log: log}
}

// arrive notes a session whose peer is not known yet. If there are too many the oldest has to go, so that connections that say nothing keep nobody out.
func (t *seats) arrive(me *sitting, s *relay.Session) {
	t.mu.Lock()
	me.session = s
	t.wait = append(t.wait, me)
	var oldest *sitting
	if len(t.wait) > mostWaiting+len(t.at)-1 {
		oldest = t.wait[0]
		t.wait = t.wait[1:]
	}
	t.mu.Unlock()
	if oldest != nil {
		oldest.session.End(relay.CloseRefused, errors.New("too many connections of unknown peers"))
	}
}

// known takes a session off the list of those with unknown peers. t.mu is held.
func (t *seats) known(me *sitting) {
	for i, s := range t.wait {
		if s == me {
			t.wait = append(t.wait[:i], t.wait[i+1:]...)
			return
		}
	}
}

// introduce notes who the peer of a session is.
func (t *seats) introduce(me *sitting, info relay.PeerInfo, number int, party relay.Nonce) {
	t.mu.Lock()
	defer t.mu.Unlock()
	me.info, me.number, me.party = info, number, party
}

// leave notes the end of a session.
func (t *seats) leave(me *sitting) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known(me)
	for i, s := range t.at {
		if s == me {
			t.at[i] = nil
		}
	}
	close(me.over)
}

// taken says whether anybody has the device.
func (t *seats) taken() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.at, func(s *sitting) bool { return s != nil })
}

// wantedByAny says whether anybody has the device or may yet.
func (t *seats) wantedByAny() bool {
	t.mu.Lock()
	waiting := len(t.wait) > 0
	t.mu.Unlock()
	return waiting || t.taken()
}

// sit waits for the seat of me to be free, and makes sessions go whose place this one takes. It waits so long for others; those that it has told to go get a minute.
func (t *seats) sit(ctx context.Context, me *sitting, patience time.Duration) error {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	told := map[*sitting]bool{}
	for {
		t.mu.Lock()
		inTheWay, toGo, err := t.inTheWay(me)
		if inTheWay == nil && err == nil {
			t.at[me.number] = me
			t.known(me)
		}
		t.mu.Unlock()
		if inTheWay == nil || err != nil {
			return err
		}
		for _, old := range toGo {
			if told[old] {
				continue
			}
			if len(told) == 0 {
				t.log.Noticef("a new connection of the same peer takes the place of the old one")
			}
			told[old] = true
			old.session.End(relay.CloseReplaced, nil)
			limit.Reset(time.Minute)
		}
		select {
		case <-inTheWay.over:
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return errors.New("the tunnel is in use by another peer")
		}
	}
}

// inTheWay returns one session that must end before me can sit, nil if none must, and those that me takes the place of. t.mu is held.
func (t *seats) inTheWay(me *sitting) (one *sitting, toGo []*sitting, err error) {
	for _, s := range t.at {
		if s == nil {
			continue
		}
		same := s.party == me.party && me.party != relay.Nonce{}
		switch {
		case same && s.info.Identity != me.info.Identity:
			return nil, nil, errors.New("the other connections of this tunnel are with another peer")
		case same && s.number != me.number:
			continue
		case same, t.replaces(me.info, s):
			toGo = append(toGo, s)
		}
		one = s
	}
	return one, toGo, nil
}

// replaces says whether a peer takes the place of a session. t.mu is held.
func (t *seats) replaces(info relay.PeerInfo, old *sitting) bool {
	switch {
	case old.session == nil || info.Identity == [16]byte{}:
		return false
	case old.info.Identity == info.Identity:
		return true
	}
	// It may be anybody; who says a name is more.
	return old.info.Identity == [16]byte{} && t.heardNothing(old)
}

// heardNothing says that the peer of a session has not sent a packet yet.
func (t *seats) heardNothing(s *sitting) bool {
	stats := s.session.Stats()
	if t.swapped {
		return stats.RightToLeft.Packets == 0
	}
	return stats.LeftToRight.Packets == 0
}
