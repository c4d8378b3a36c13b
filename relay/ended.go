package relay

import (
	"time"

	"github.com/pkg/errors"
)

// The end of a program is the end of its endpoint, also if a descendant of it lives on and holds its descriptors: else "SYSTEM:daemon &" would keep a session for ever. But what it
// has written is delivered first, and as long as data come, they are passed on.

var errProgramEnded = errors.New("the program has ended")

// watchProgram ends the direction that comes from a program, or the session if there is none, once the program has ended and nothing has passed for the time of -t. It returns when
// stop is closed.
func (s *Session) watchProgram(e *Endpoint, stop <-chan struct{}) {
	select {
	case <-e.Ended:
	case <-stop:
		return
	}
	from := s.ltr
	if from == nil || from.src != e {
		from = s.rtl
	}
	if from != nil && from.src != e {
		from = nil
	}
	pause := time.NewTicker(max(s.cfg.Linger, time.Millisecond))
	defer pause.Stop()
	for {
		before := s.last.Load()
		select {
		case <-pause.C:
		case <-stop:
			return
		}
		switch {
		case s.last.Load() != before:
		case from == nil:
			s.cfg.Log.Noticef("%s: %v", e.Label, errProgramEnded)
			s.interrupt()
			return
		case !e.Unread():
			// A write on the other side that is under way goes on: only the next read ends.
			from.ended.Store(true)
			e.R.SetReadDeadline(time.Unix(1, 0))
			return
		}
	}
}
