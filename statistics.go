package main

import (
	"fmt"
	"sync"

	"tunsplice/addr"
	"tunsplice/relay"
)

// sessions are those that run at the moment, in the order of their beginning, and the sums of those that have ended. The zero value is ready.
type sessions struct {
	mu      sync.Mutex
	running []entry
	ended   relay.Stats
	count   int       // sessions that have ended
	hub     *addr.Hub // that the sessions share; nil: none
}

type entry struct {
	*relay.Session
	forked bool // one of many
}

func (ss *sessions) add(s *relay.Session, forked bool) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.running = append(ss.running, entry{s, forked})
}

// setHub notes the hub that the sessions share, nil: there is none any more.
func (ss *sessions) setHub(h *addr.Hub) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.hub = h
}

func (ss *sessions) remove(s *relay.Session) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for i, l := range ss.running {
		if l.Session == s {
			ss.running = append(ss.running[:i], ss.running[i+1:]...)
			break
		}
	}
	ss.count++
	ss.ended = sum(ss.ended, s.Stats())
}

// sum adds the counts of two sessions; the way of the sum is unknown.
func sum(a, b relay.Stats) relay.Stats {
	add := func(a, b relay.Count) relay.Count {
		return relay.Count{Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes, Lost: a.Lost + b.Lost}
	}
	return relay.Stats{LeftToRight: add(a.LeftToRight, b.LeftToRight), RightToLeft: add(a.RightToLeft, b.RightToLeft)}
}

// sessionLabel names a session in messages: "" for the only one.
func sessionLabel(s *relay.Session, forked bool) string {
	if forked {
		return s.Label()
	}
	return ""
}

// logStatistics logs the counts of one session in the two lines that scripts read, whatever the level of the log.
func (p *invocation) logStatistics(label string, s relay.Stats) {
	session := label
	if label != "" {
		label += ": "
	}
	for _, d := range []struct {
		name string
		relay.Count
	}{{"left to right", s.LeftToRight}, {"right to left", s.RightToLeft}} {
		line := fmt.Sprintf("%sSTATISTICS: %s: %d packets(s), %d byte(s)", label, d.name, d.Packets, d.Bytes)
		if d.Lost > 0 {
			line += fmt.Sprintf(", %d lost", d.Lost)
		}
		if d.Way != "" {
			line += ", by " + d.Way
		}
		if p.sink.json {
			p.sink.event(relay.Info, statisticsEvent(session, d.name, line, d.Count))
		} else {
			p.sink.write(relay.Info, line)
		}
	}
}

// logHubStatistics logs the counts of a hub in the same way.
func (p *invocation) logHubStatistics(hub *addr.Hub) {
	for _, line := range hub.Statistics() {
		p.sink.write(relay.Info, "STATISTICS: "+line)
	}
}

// logAllStatistics logs the counts of each running session, and with option fork the sum of all there have been.
func (p *invocation) logAllStatistics() {
	p.sessions.mu.Lock()
	defer p.sessions.mu.Unlock()
	total, forked := p.sessions.ended, false
	for _, l := range p.sessions.running {
		stats := l.Stats()
		total = sum(total, stats)
		p.logStatistics(sessionLabel(l.Session, l.forked), stats)
		if forked = l.forked; !forked {
			return
		}
	}
	if p.sessions.hub != nil {
		p.logHubStatistics(p.sessions.hub)
	}
	if forked || p.sessions.count > 0 || len(p.sessions.running) == 0 {
		p.logStatistics("", total)
	}
}
