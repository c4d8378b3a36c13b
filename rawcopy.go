package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
)

// Copies of the traffic: dumps for people (-v, -x) and plain files (-r, -R).
//
// A file name without "$" is one file for all sessions, opened before the addresses. One with "$" may mean a file for each session: it is opened when the session
// begins, and may name what is known of the peers, such as $SOCAT_PEERADDR.

// openRawCopies opens the copies whose names do not depend on the session.
func (p *invocation) openRawCopies() (err error) {
	for _, c := range []struct {
		name string
		dst  **os.File
	}{{p.RawLeft, &p.rawLeft}, {p.RawRight, &p.rawRight}} {
		if c.name != "" && !strings.Contains(c.name, "$") {
			if *c.dst, err = openRawCopy(c.name); err != nil {
				p.closeRawCopies()
				return err
			}
		}
	}
	return nil
}

func (p *invocation) closeRawCopies() {
	for _, f := range []*os.File{p.rawLeft, p.rawRight} {
		if f != nil {
			if err := f.Close(); err != nil {
				p.log.Warnf("raw copy %s: %s", f.Name(), unwrapPath(err))
			}
		}
	}
}

func openRawCopy(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o664)
	if err != nil {
		return nil, errors.Wrapf(unwrapPath(err), "raw copy %s", name)
	}
	return f, nil
}

// dump returns what looks at the data of one session, nil if nothing does, and a function that closes it.
func (p *invocation) dump(left, right *relay.Endpoint) (d *relay.Dump, done func(), err error) {
	if !p.DumpText && !p.DumpHex && p.RawLeft == "" && p.RawRight == "" {
		return nil, func() {}, nil
	}
	d = &relay.Dump{Out: os.Stderr, Text: p.DumpText, Hex: p.DumpHex}
	var own []*os.File
	done = func() {
		for _, f := range own {
			if err := f.Close(); err != nil {
				p.log.Warnf("raw copy %s: %s", f.Name(), unwrapPath(err))
			}
		}
	}
	for i, c := range []struct {
		name   string
		shared *os.File
	}{{p.RawLeft, p.rawLeft}, {p.RawRight, p.rawRight}} {
		switch {
		case c.shared != nil:
			d.Raw[i] = c.shared
		case c.name != "":
			f, err := openRawCopy(p.rawName(c.name, time.Now(), append(append([]string{}, left.Env...), right.Env...)))
			if err != nil {
				done()
				return nil, nil, err
			}
			own = append(own, f)
			d.Raw[i] = f
		}
	}
	return d, done, nil
}

// rawName puts values in place of $$ (process id), $PROGNAME, $TIMESTAMP (as 20261121T041552), $MICROS (of the second), and variables: first those that a program would get
// (SOCAT_PEERADDR and its kin, from env without prefix), then those of the environment. An unknown one is empty, as in a shell.
func (p *invocation) rawName(name string, now time.Time, env []string) string {
	return os.Expand(name, func(v string) string {
		switch v {
		case "$":
			return strconv.Itoa(os.Getpid())
		case "PROGNAME":
			return p.sink.name
		case "TIMESTAMP":
			return now.Format("20060102T150405")
		case "MICROS":
			return fmt.Sprintf("%06d", now.Nanosecond()/1000)
		}
		if own, ok := strings.CutPrefix(v, "SOCAT_"); ok {
			for _, e := range env {
				if value, ok := strings.CutPrefix(e, own+"="); ok {
					return strings.ReplaceAll(value, "/", "_") // a peer must not choose the directory
				}
			}
		}
		return os.Getenv(v)
	})
}
