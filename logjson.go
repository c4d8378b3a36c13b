package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"time"

	"tunsplice/addr"
	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// The log for programs: --log-format=json writes one JSON object a line. Names and meanings of the members are part of what scripts rely on: docs/scripts.md says
// them, new ones may be added, none is taken away.

// event is one object of the log.
type event struct {
	Time    string `json:"time"`  // RFC 3339 with nanoseconds
	Level   string `json:"level"` // debug, info, notice, warning, error, fatal
	PID     int    `json:"pid"`
	Host    string `json:"host,omitempty"` // with -lh
	Name    string `json:"name"`           // of the program, as -lp sets it
	Event   string `json:"event"`          // message, state or statistics
	Message string `json:"message"`
	Session string `json:"session,omitempty"` // with fork, which one
	Address string `json:"address,omitempty"` // the address that an error concerns; of state listening, where it listens
	Errno   string `json:"errno,omitempty"`   // as ECONNREFUSED

	State   string `json:"state,omitempty"`
	Iface   string `json:"iface,omitempty"`
	MTU     int    `json:"mtu,omitempty"`
	Addr    string `json:"addr,omitempty"` // of the device
	Peer    string `json:"peer,omitempty"`
	Framing string `json:"framing,omitempty"`
	Status  *int   `json:"status,omitempty"` // exit status, with state closed

	Direction string  `json:"direction,omitempty"` // "left to right" or "right to left"
	Packets   *uint64 `json:"packets,omitempty"`
	Bytes     *uint64 `json:"bytes,omitempty"`
	Lost      *uint64 `json:"lost,omitempty"`
	Way       string  `json:"way,omitempty"`
}

var levelNames = [...]string{relay.Debug: "debug", relay.Info: "info", relay.Notice: "notice", relay.Warn: "warning", relay.Error: "error", relay.Fatal: "fatal"}

// recordEvent makes the event of a message.
func recordEvent(r relay.Record) event {
	e := event{Level: levelNames[r.Level], Event: "message", Message: r.Text, Session: r.Session}
	e.setError(r.Err)
	return e
}

// setError notes what is known of an error.
func (e *event) setError(err error) {
	if err == nil {
		return
	}
	e.Address = addr.AddressOf(err)
	var errno unix.Errno
	if errors.As(err, &errno) {
		if e.Errno = unix.ErrnoName(errno); e.Errno == "" {
			e.Errno = strconv.Itoa(int(errno))
		}
	}
}

// setVariables notes what NAME=value pairs say.
func (e *event) setVariables(vars []string) {
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		switch name {
		case "IFACE":
			e.Iface = value
		case "MTU":
			e.MTU, _ = strconv.Atoi(value) // our own number
		case "ADDR":
			e.Addr = value
		case "PEER":
			e.Peer = value
		case "FRAMING":
			e.Framing = value
		}
	}
}

// statisticsEvent makes the event of one direction's counts.
func statisticsEvent(session, direction, text string, c relay.Count) event {
	return event{Level: levelNames[relay.Info], Event: "statistics", Message: text, Session: session, Direction: direction,
		Packets: &c.Packets, Bytes: &c.Bytes, Lost: &c.Lost, Way: c.Way}
}

// event logs an object, if the log is made of such; else nothing.
func (s *logSink) event(level relay.Level, e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.json {
		e.Level = levelNames[level]
		s.put(level, s.encode(e))
	}
}

// encode makes the line of an event. What is not UTF-8 in it becomes U+FFFD, as encoding/json has it.
func (s *logSink) encode(e event) []byte {
	e.Time, e.PID, e.Host, e.Name = time.Now().Format("2006-01-02T15:04:05.000000000Z07:00"), os.Getpid(), s.host, s.name
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil { // strings and numbers: cannot be
		panic(err)
	}
	return b.Bytes()
}
