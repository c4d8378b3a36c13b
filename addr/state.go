package addr

import (
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// State is how far the program, or one of its sessions, has come. The names are part of what scripts rely on (docs/scripts.md).
type State string

// The states in the order in which they come, as far as they do.
const (
	StateDevice        State = "device"        // a TUN, TAP or INTERFACE address is open
	StateListening     State = "listening"     // a listening address waits for peers
	StateConnected     State = "connected"     // both endpoints of a session are open
	StateAuthenticated State = "authenticated" // the peer has shown that it holds the key or certificate
	StateUp            State = "up"            // traffic can flow
	StateDown          State = "down"          // a session that was connected has ended
	StateClosed        State = "closed"        // the program ends
)

// reach tells that a state is reached; vars are NAME=value pairs about it.
func (e *Env) reach(s State, vars ...string) {
	if e.State != nil {
		e.State(s, vars...)
	}
}

// plain returns the address as programs like to have it: 10.0.0.5:80, [fd00::1]:80, a path, "@name" for an abstract one, "" for none.
func (s *sockaddr) plain() string {
	switch s.family() {
	case unix.AF_INET, unix.AF_INET6:
		return netip.AddrPortFrom(s.ip(), s.port()).String()
	case unix.AF_UNIX:
		name, abstract := s.unixName()
		if abstract {
			return "@" + strings.ReplaceAll(name, "\x00", "@")
		}
		return name
	}
	return ""
}
