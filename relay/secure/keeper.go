package secure

import (
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// What a session over datagrams says by itself: handshake messages and signs of life.

// arm sees to it that keeper looks at t or before. d.mu is held.
func (d *Datagrams) arm(t time.Time) {
	if !d.wake.IsZero() && !t.Before(d.wake) {
		return
	}
	d.wake = t
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// keep says what is due until Close.
func (d *Datagrams) keep() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d.mu.Lock()
		wake := d.wake
		d.mu.Unlock()
		if wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(wake))
		}
		select {
		case <-d.stop:
			return
		case <-d.kick: // the clock has to be set
			continue
		case <-timer.C:
		}
		// An error shows with the next packet that the user sends.
		messages, alive := d.due(time.Now())
		for _, m := range messages {
			d.wmu.Lock()
			d.w.Write(m[:])
			d.wmu.Unlock()
		}
		if alive {
			d.send(packetAlive, nil)
		}
	}
}

// due returns what is to be said at time t, and sets wake to when it has to be called again.
func (d *Datagrams) due(t time.Time) (messages []*[messageLen]byte, alive bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wake = time.Time{}
	reached := func(at time.Time) bool {
		if !at.After(t) {
			return true
		}
		if d.wake.IsZero() || at.Before(d.wake) {
			d.wake = at
		}
		return false
	}
	messages, d.replies = d.replies, nil
	alive, d.sayAlive = d.sayAlive, false
	if d.now != nil && d.opening == nil {
		d.checkSession(t, reached)
	}
	if d.opening != nil && reached(d.resend) {
		if m := d.openAgain(t); m != nil {
			messages = append(messages, m)
			reached(d.resend)
		}
	}
	if s := d.now; s != nil {
		waits := s.initiator && !s.heard
		if !alive {
			alive = !d.owed.IsZero() && reached(d.owed.Add(aliveAfter)) || waits && reached(d.confirmed.Add(confirmPause))
		}
		if alive && waits {
			d.confirmed = t
			reached(t.Add(confirmPause))
		}
	}
	return messages, alive
}

// checkSession begins a new handshake if the session is old or seems dead. d.mu is held.
func (d *Datagrams) checkSession(t time.Time, reached func(time.Time) bool) {
	used := t.Sub(d.lastData) < giveUpSilence
	if !d.unanswered.IsZero() && reached(d.unanswered.Add(silence)) {
		if !used {
			d.unanswered = time.Time{} // nobody wants to send anything
			return
		}
		d.log.Infof("%s: nothing comes back, beginning a new handshake", d.name)
	} else if s := d.now; !s.initiator || !used || t.Sub(s.made) < sessionAge && s.counter < sessionLimit {
		return
	}
	if err := d.open(t); err != nil {
		d.log.Warnf("%s: %s", d.name, err)
	}
}

// openAgain returns the first message, and sets the time when it goes out again; nil if nobody wants to send anything any more. d.mu is held.
func (d *Datagrams) openAgain(t time.Time) *[messageLen]byte {
	if d.now != nil && t.Sub(d.lastData) >= giveUpSilence {
		d.opening, d.unanswered = nil, time.Time{}
		return nil
	}
	if !d.told && t.Sub(d.since) >= noAnswer {
		d.told = true
		d.log.Warnf("%s: no answer to the handshake so far: the peer is not there, or has another key, or none", d.name)
	}
	d.pause = min(max(2*d.pause, firstPause), longestPause)
	d.resend = t.Add(d.pause)
	if !d.told && d.resend.After(d.since.Add(noAnswer)) {
		d.resend = d.since.Add(noAnswer)
	}
	return &d.opening.message
}

// absent says that an error of a datagram socket means that the peer is not there yet, or that the way to it is closed just now.
func absent(err error) bool {
	for _, e := range []error{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENETDOWN, unix.ENOENT, unix.ENOTCONN, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
