package addr

import (
	"container/list"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// How many connections a source may make in a time. Each source has a bucket of tokens that fills at the rate; a connection takes one. A source is an IPv4 address, the /64 of an
// IPv6 address (a host has all of it), or the user at the other end of a UNIX socket.

var optSourceRate = declare(kindRate, Option{Name: "source-rate", Groups: GLISTEN, Phase: PhAccept, Ours: true,
	Doc: "take at most this many new connections in a time from one address (IPv6: one /64; UNIX socket: one user), as 10 (in a second) or 10/60 (in 60 seconds); others are closed at once"})

// rate is a number of events in a time.
type rate struct {
	count  int
	within time.Duration
}

var kindRate = kindOf[rate]{"RATE", need(func(text string) (r rate, err error) {
	count, within, slash := strings.Cut(text, "/")
	n, err := parseUint(count, 1<<20)
	if err != nil {
		return r, err
	}
	r = rate{int(n), time.Second}
	if slash {
		if r.within, err = ParseSeconds(within); err != nil {
			return r, err
		}
	}
	if r.count < 1 || r.within < time.Millisecond || r.within > 30*24*time.Hour {
		return r, withHint{errors.Errorf("%q is no rate", text), "a number of connections from 1 on, and behind a slash the seconds in which they may come: 10/60"}
	}
	return r, nil
})}

// String is the form that the option takes.
func (r rate) String() string {
	return fmt.Sprintf("%d/%s", r.count, strconv.FormatFloat(r.within.Seconds(), 'f', -1, 64))
}

// maxSources bounds the table: the source that was heard of longest ago is forgotten, and begins anew.
const maxSources = 4096

// source is who a connection is from.
type source struct {
	ip  netip.Addr
	uid uint32
}

// sourceRate counts connections by source. Nil lets everyone in.
type sourceRate struct {
	rate
	now func() time.Time

	mu      sync.Mutex
	sources map[source]*list.Element
	recent  *list.List // of *bucket, the one heard of last in front
	refused relay.Limiter
	total   uint64 // refused so far
}

type bucket struct {
	from   source
	tokens float64
	at     time.Time
}

// newSourceRate returns nil if the option was not given.
func (b *Bound) newSourceRate() *sourceRate {
	r, ok := optSourceRate.Get(b)
	if !ok {
		return nil
	}
	return &sourceRate{rate: r, now: time.Now, sources: make(map[source]*list.Element), recent: list.New()}
}

// take says whether another connection from a source may be taken.
func (s *sourceRate) take(from source) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	e := s.sources[from]
	if e == nil {
		if len(s.sources) >= maxSources {
			last := s.recent.Back()
			delete(s.sources, s.recent.Remove(last).(*bucket).from)
		}
		e = s.recent.PushFront(&bucket{from: from, tokens: float64(s.count), at: now})
		s.sources[from] = e
	}
	s.recent.MoveToFront(e)
	k := e.Value.(*bucket)
	k.tokens = min(float64(s.count), k.tokens+float64(s.count)*now.Sub(k.at).Seconds()/s.within.Seconds())
	k.at = now
	if k.tokens < 1 {
		s.total++
		return false
	}
	k.tokens--
	return true
}

// admit asks whether a connection may be taken, and logs refusals at a limited rate. fd is the connection's socket, for the user behind a UNIX socket.
func (s *sourceRate) admit(log *relay.Log, fd int, peer *sockaddr) bool {
	if s == nil || s.take(sourceOf(fd, peer)) {
		return true
	}
	if ok, held := s.refused.Allow(); ok {
		more := ""
		if held > 0 {
			more = fmt.Sprintf(" (and %d more since the last such message)", held)
		}
		log.Warnf("refusing connection from %s due to %s option%s", peer, optSourceRate.opt.Name, more)
	}
	return false
}

// sourceOf returns who a connection is from.
func sourceOf(fd int, peer *sockaddr) source {
	ip := peer.ip().Unmap().WithZone("")
	switch {
	case ip.Is4():
		return source{ip: ip}
	case ip.Is6():
		p, err := ip.Prefix(64)
		if err == nil {
			ip = p.Addr()
		}
		return source{ip: ip}
	case peer.family() == unix.AF_UNIX:
		if cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			return source{uid: cred.Uid}
		}
	}
	return source{} // of a family without either: all are one
}
