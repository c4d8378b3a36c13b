package relay

import (
	"fmt"
	"strings"
)

// Level is the severity of a log message, in socat's order.
type Level int8

// The levels, lowest first. Letter gives the one letter that stands in a log line.
const (
	Debug Level = iota
	Info
	Notice
	Warn
	Error
	Fatal
)

// Letter returns the letter that names the level in a log line: D I N W E F.
func (l Level) Letter() byte { return "DINWEF"[l] }

// Log takes messages of one session or of the whole program. The zero value and nil discard everything. It may be used by several
// goroutines if the sink may.
type Log struct {
	sink  func(Record)
	label string // stands with a colon in front of each message, "" for none
	min   Level
	lower Level // by how many levels messages are lowered (children-shutup)
}

// Record is one message with what programs want to know of it.
type Record struct {
	Level   Level
	Session string // the session's label, "" for the program itself; Text has it in front
	Text    string // the whole message
	Err     error  // the first error in it, nil: none
}

// NewLog returns a log that hands messages of at least level min to sink.
func NewLog(min Level, sink func(Level, string)) *Log {
	return NewRecordLog(min, func(r Record) { sink(r.Level, r.Text) })
}

// NewRecordLog is NewLog for a sink that wants more than the text.
func NewRecordLog(min Level, sink func(Record)) *Log { return &Log{sink: sink, min: min} }

// With returns a log for one session, whose messages begin with label and ": ".
func (l *Log) With(label string) *Log {
	if l == nil {
		return nil
	}
	c := *l
	c.label = label
	return &c
}

// Lowered returns a log that lowers each message by n levels, but not below Debug.
func (l *Log) Lowered(n int) *Log {
	if l == nil {
		return nil
	}
	c := *l
	c.lower += Level(min(max(n, 0), int(Fatal)))
	return &c
}

// Enabled says whether messages of this level are kept, so that costly ones need not be made.
func (l *Log) Enabled(level Level) bool {
	return l != nil && l.sink != nil && max(level-l.lower, Debug) >= l.min
}

// Print logs one message at the given level. Errors among args appear as ErrorText has them.
func (l *Log) Print(level Level, format string, args ...any) {
	if !l.Enabled(level) {
		return
	}
	r := Record{Level: max(level-l.lower, Debug), Session: l.label}
	for i, a := range args {
		if err, ok := a.(error); ok && err != nil {
			args[i] = ErrorText(err)
			if r.Err == nil {
				r.Err = err
			}
		}
	}
	r.Text = fmt.Sprintf(format, args...)
	if l.label != "" && !strings.HasPrefix(r.Text, l.label+": ") { // an error of the endpoint that the session is named after says so itself
		r.Text = l.label + ": " + r.Text
	}
	l.sink(r)
}

// Errorf, Warnf, Noticef, Infof and Debugf log one message at the level of their name.
func (l *Log) Errorf(format string, args ...any)  { l.Print(Error, format, args...) }
func (l *Log) Warnf(format string, args ...any)   { l.Print(Warn, format, args...) }
func (l *Log) Noticef(format string, args ...any) { l.Print(Notice, format, args...) }
func (l *Log) Infof(format string, args ...any)   { l.Print(Info, format, args...) }
func (l *Log) Debugf(format string, args ...any)  { l.Print(Debug, format, args...) }
