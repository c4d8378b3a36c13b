package relay

import (
	"fmt"
	"sync"
	"time"
)

// Lost packets are counted, and said at a limited rate.

// Limiter lets a few messages of a kind pass and counts the rest, so that a flood of bad packets, or of strangers, is no flood of log lines. The zero value is ready.
type Limiter struct {
	mu     sync.Mutex
	since  time.Time
	passed int
	held   uint64
}

// Allow says whether a message may be printed now, and how many were held back since the last one.
func (l *Limiter) Allow() (ok bool, held uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.since) > 10*time.Second {
		l.since, l.passed = now, 0
	}
	if l.passed >= 3 {
		l.held++
		return false, 0
	}
	l.passed++
	held, l.held = l.held, 0
	return true, held
}

// Held returns how many messages were held back since the last one that passed.
func (l *Limiter) Held() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

// lose counts a packet that was not delivered and says so, at a limited rate.
func (d *direction) lose(why error) {
	d.lost.Add(1)
	if ok, held := d.complaints.Allow(); ok {
		more := ""
		if held > 0 {
			more = fmt.Sprintf(" (and %d more since the last such message)", held)
		}
		d.s.cfg.Log.Warnf("%s: packet lost: %v%s", d.name, why, more)
	}
}

// lostSilently says at the end how many packets were lost since lose had its last say.
func (d *direction) lostSilently() {
	if held := d.complaints.Held(); held > 0 {
		d.s.cfg.Log.Warnf("%s: %d more packets were lost for such reasons", d.name, held)
	}
}
