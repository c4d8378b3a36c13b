package main

import (
	"bytes"
	"fmt"
	"io"
	"log/syslog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// logSink writes log lines: to standard error, a file or the system log. It may be used by many goroutines.
//
//	2026/11/21 04:15:52[.123456] [host ]tunsplice[4711] N listening on ...
//
// A log that can't be written (a full disk) never ends the transfer: lines are lost and counted, which standard error is told once, and the log itself as soon as it can be
// written again.
type logSink struct {
	name   string // the program's
	host   string // "" for none
	micros bool
	json   bool // one JSON object a line (logjson.go)

	mu     sync.Mutex
	out    io.Writer      // nil: the system log
	file   string         // name of the log file, "" if out is none
	sys    *syslog.Writer // nil: none
	mixed  bool           // lines go to sys once the transfer starts
	buf    []byte
	lost   uint64 // lines that could not be written since the last one that could
	reason error  // of the first of them
	torn   bool   // the last line stands there in part
}

// facilities are the names that -ly and -lm take.
var facilities = map[string]syslog.Priority{
	"kern": syslog.LOG_KERN, "user": syslog.LOG_USER, "mail": syslog.LOG_MAIL, "daemon": syslog.LOG_DAEMON, "auth": syslog.LOG_AUTH, "security": syslog.LOG_AUTH,
	"syslog": syslog.LOG_SYSLOG, "lpr": syslog.LOG_LPR, "news": syslog.LOG_NEWS, "uucp": syslog.LOG_UUCP, "cron": syslog.LOG_CRON,
	"authpriv": syslog.LOG_AUTHPRIV, "ftp": syslog.LOG_FTP, "local0": syslog.LOG_LOCAL0, "local1": syslog.LOG_LOCAL1, "local2": syslog.LOG_LOCAL2,
	"local3": syslog.LOG_LOCAL3, "local4": syslog.LOG_LOCAL4, "local5": syslog.LOG_LOCAL5, "local6": syslog.LOG_LOCAL6, "local7": syslog.LOG_LOCAL7,
}

// newLogSink returns a sink that writes to standard error.
func newLogSink(c *commandLine, argv0 string) *logSink {
	s := &logSink{name: c.ProgramName, micros: c.Micros, json: c.LogFormat == "json", out: os.Stderr}
	if s.name == "" {
		s.name = argv0[strings.LastIndexByte(argv0, '/')+1:]
	}
	if c.HostName {
		s.host = hostName()
	}
	return s
}

// hostName returns the name for -lh.
func hostName() string {
	if h := os.Getenv("HOSTNAME"); h != "" {
		return h
	}
	h, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return h
}

// open directs the log to a destination as --log names it.
func (s *logSink) open(dest string) error {
	kind, arg, _ := strings.Cut(dest, ":")
	switch {
	case dest == "stderr":
		return nil
	case kind == "file" && arg != "":
		// Every line is one write, so that several programs can share the file.
		f, err := os.OpenFile(arg, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
		if err != nil {
			return errors.Wrapf(unwrapPath(err), "log file %s", arg)
		}
		s.out, s.file = f, arg
		return nil
	case kind == "syslog" || kind == "mixed":
		facility, ok := facilities[arg]
		if !ok {
			return errors.Errorf("unknown syslog facility %q", arg)
		}
		sys, err := dialSyslog("", "", facility, s.name)
		if err != nil {
			// As syslog(3) the program goes on without a system log, but what it has to say is not lost.
			s.write(relay.Warn, "no system log here, logging to standard error")
			return nil
		}
		s.useSyslog(sys, kind == "mixed")
		return nil
	}
	return errors.Errorf("log destination %q: wanted stderr, file:NAME, syslog:FACILITY or mixed:FACILITY", dest)
}

// dialSyslog connects to the system log of this host, or to the one at the given address.
func dialSyslog(network, address string, facility syslog.Priority, name string) (*syslog.Writer, error) {
	return syslog.Dial(network, address, facility|syslog.LOG_NOTICE, name)
}

func (s *logSink) useSyslog(sys *syslog.Writer, mixed bool) {
	s.sys, s.mixed = sys, mixed
	if !mixed {
		s.out = nil
	}
}

// redirect lets the log go to another place, if it goes to the given one.
func (s *logSink) redirect(from, to io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == from {
		s.out = to
	}
}

// goesTo says whether the log goes to a place.
func (s *logSink) goesTo(place io.Writer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out == place
}

// started notes that a transfer begins: the mixed log turns to the system log.
func (s *logSink) started() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mixed {
		s.out = nil
	}
}

// write logs one message.
func (s *logSink) write(level relay.Level, text string) {
	s.record(relay.Record{Level: level, Text: text})
}

// record logs one message with what is known about it.
func (s *logSink) record(r relay.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.json {
		s.put(r.Level, s.encode(recordEvent(r)))
		return
	}
	s.put(r.Level, s.format(r.Level, r.Text))
}

// format makes the line of a message, with its line feed. It is valid until the next call. s.mu is held.
func (s *logSink) format(level relay.Level, text string) []byte {
	text = oneLine(text)
	if s.out == nil {
		s.buf = append(append(append(s.buf[:0], level.Letter(), ' '), text...), '\n')
		return s.buf
	}
	now := time.Now()
	b := now.AppendFormat(s.buf[:0], "2006/01/02 15:04:05")
	if s.micros {
		b = fmt.Appendf(b, ".%06d", now.Nanosecond()/1000)
	}
	b = append(b, ' ')
	if s.host != "" {
		b = append(append(b, s.host...), ' ')
	}
	b = fmt.Appendf(b, "%s[%d] %c %s\n", s.name, os.Getpid(), level.Letter(), text)
	s.buf = b
	return b
}

// oneLine replaces the control characters that a file name, a command or a peer may have brought into a message: one event is one line, and a terminal that shows it obeys nobody.
func oneLine(text string) string {
	if strings.IndexFunc(text, unicode.IsControl) < 0 {
		return text
	}
	var sb strings.Builder
	for _, r := range text {
		if unicode.IsControl(r) {
			escaped := strconv.QuoteRune(r)
			sb.WriteString(escaped[1 : len(escaped)-1])
		} else {
			sb.WriteRune(r)
		}
	}
	return sb.String()
}

// put writes one line where the log goes. s.mu is held.
func (s *logSink) put(level relay.Level, line []byte) {
	if s.lost > 0 {
		line = bytes.Clone(line) // it may lie in s.buf
		line = append(s.lostLine(), line...)
	}
	err := s.deliver(level, line)
	if err == nil {
		s.lost, s.reason, s.torn = 0, nil, false
		return
	}
	if s.lost++; s.lost > 1 {
		return
	}
	s.reason = err
	if s.out != os.Stderr { // else there is no place left to report it
		fmt.Fprintf(os.Stderr, "%s", s.stderrLine(fmt.Sprintf("%s: %s: the transfer goes on, lines of the log are lost", s.place(), relay.ErrorText(err))))
	}
}

// lostLine is the line, or the lines, that come before the first one that can be written again.
func (s *logSink) lostLine() []byte {
	text := fmt.Sprintf("%d lines of the log were lost: %s", s.lost, relay.ErrorText(s.reason))
	var b []byte
	if s.torn {
		b = append(b, '\n')
	}
	if s.json {
		return append(b, s.encode(recordEvent(relay.Record{Level: relay.Warn, Text: text, Err: s.reason}))...)
	}
	return append(b, s.format(relay.Warn, text)...)
}

// stderrLine is a text as a line on standard error in the form of the log.
func (s *logSink) stderrLine(text string) []byte {
	plain := logSink{name: s.name, host: s.host, micros: s.micros, json: s.json, out: os.Stderr}
	if s.json {
		return plain.encode(recordEvent(relay.Record{Level: relay.Error, Text: text}))
	}
	return plain.format(relay.Error, text)
}

// place names where the log goes.
func (s *logSink) place() string {
	switch {
	case s.out == nil:
		return "system log"
	case s.file != "":
		return "log file " + s.file
	}
	return "log"
}

// deliver writes one or more lines.
func (s *logSink) deliver(level relay.Level, lines []byte) error {
	if s.out != nil {
		n, err := s.out.Write(lines)
		if err != nil {
			s.torn = n > 0 && lines[n-1] != '\n' || n == 0 && s.torn
			return unwrapPath(err)
		}
		return nil
	}
	for line := range strings.Lines(string(lines)) {
		if err := s.writeSyslog(level, strings.TrimSuffix(line, "\n")); err != nil {
			return unwrapPath(err)
		}
	}
	return nil
}

func (s *logSink) writeSyslog(level relay.Level, line string) error {
	switch level {
	case relay.Debug:
		return s.sys.Debug(line)
	case relay.Info:
		return s.sys.Info(line)
	case relay.Notice:
		return s.sys.Notice(line)
	case relay.Warn:
		return s.sys.Warning(line)
	case relay.Error:
		return s.sys.Err(line)
	}
	return s.sys.Crit(line)
}

// ended tells standard error what the log did not take at the end.
func (s *logSink) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost > 0 && s.out != os.Stderr {
		fmt.Fprintf(os.Stderr, "%s", s.stderrLine(fmt.Sprintf("%s: the last %d lines are lost: %s", s.place(), s.lost, relay.ErrorText(s.reason))))
	}
}

// plain writes text that is no log line where the log goes: dumps of descriptors. In JSON each line of it is an object.
func (s *logSink) plain(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.json:
		for line := range strings.Lines(text) {
			s.put(relay.Info, s.encode(recordEvent(relay.Record{Level: relay.Info, Text: strings.TrimSuffix(line, "\n")})))
		}
	case s.out != nil:
		s.put(relay.Info, []byte(text))
	default:
		for line := range strings.Lines(text) {
			s.put(relay.Info, s.format(relay.Info, strings.TrimSuffix(line, "\n")))
		}
	}
}

// logLevel turns the number of -d into the lowest level that is logged.
func logLevel(n int) relay.Level {
	switch {
	case n <= 0:
		return relay.Error
	case n >= 4:
		return relay.Debug
	}
	return relay.Warn - relay.Level(n-1)
}

// unwrapPath takes operation and file name off an error of package os: the message names them already.
func unwrapPath(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
