package main

import (
	"fmt"
	"io"
	"log/syslog"
	"os"
	"strings"
	"sync"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// logSink writes log lines: to standard error, a file or the system log. It may be used by many goroutines.
//
//	2026/11/21 04:15:52[.123456] [host ]tunsplice[4711] N listening on ...
type logSink struct {
	name   string // the program's
	host   string // "" for none
	micros bool

	mu    sync.Mutex
	out   io.Writer      // nil: the system log
	sys   *syslog.Writer // nil: none
	mixed bool           // lines go to sys once the transfer starts
	buf   []byte
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
	s := &logSink{name: c.ProgramName, micros: c.Micros, out: os.Stderr}
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
		s.out = f
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil {
		s.writeSyslog(level, text)
		return
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
	s.out.Write(b) // there is no place left to report that the log cannot be written
}

func (s *logSink) writeSyslog(level relay.Level, text string) {
	line := string(level.Letter()) + " " + text
	switch level {
	case relay.Debug:
		s.sys.Debug(line)
	case relay.Info:
		s.sys.Info(line)
	case relay.Notice:
		s.sys.Notice(line)
	case relay.Warn:
		s.sys.Warning(line)
	case relay.Error:
		s.sys.Err(line)
	default:
		s.sys.Crit(line)
	}
}

// plain writes text that is no log line where the log goes: dumps of descriptors.
func (s *logSink) plain(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out != nil {
		io.WriteString(s.out, text)
		return
	}
	for line := range strings.Lines(text) {
		s.writeSyslog(relay.Info, strings.TrimSuffix(line, "\n"))
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
