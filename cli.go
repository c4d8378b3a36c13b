package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"tunsplice/addr"

	"github.com/alecthomas/kong"
	"github.com/pkg/errors"
)

// Theory of operation
//
// Kong reads the command line, but socat's flags are not of its kind: "-lf FILE", "-ly[FACILITY]", "-d3", "-hh", and addresses that begin with a
// dash. So longForms first rewrites every short form into the long flag it stands for, finds where the addresses begin, and puts them behind
// a "--". The flags of kong's own form (--explain, --lock=FILE) pass through as they are.
//
//	-d -d -lf log -t3 - TCP:host:80  ->  --log=file:log --linger=3 --level=2 relay -- - TCP:host:80
//
// The struct commandLine is the list of flags: their help is made from it. shortForms is the list of short forms.

// commandLine is what kong fills in.
type commandLine struct {
	HelpLevel  int  `name:"help" type:"counter" group:"Help" help:"this text; -hh adds the names of the address options, -hhh all their aliases too"`
	Features   bool `name:"features" group:"Help" help:"version, system and address families on standard output"`
	Version    bool `name:"version" group:"Help" help:"the version on standard output"`
	Explain    bool `name:"explain" group:"Help" help:"say what would be opened and how the two would be joined, and open nothing"`
	Statistics bool `name:"statistics" group:"Log" help:"log what passed in each direction at the end (SIGUSR1: at any time)"`

	Level       int      `name:"level" default:"1" group:"Log" placeholder:"N" help:"what is logged: 0 errors, 1 warnings, 2 notices, 3 information, 4 all (-d -d: 2)"`
	Log         []string `name:"log" sep:"none" group:"Log" placeholder:"DEST" help:"where the log goes: stderr, file:NAME, syslog:FACILITY, mixed:FACILITY (stderr until the transfer starts); the last one counts"`
	ProgramName string   `name:"program-name" group:"Log" placeholder:"NAME" help:"name in log lines, and in capitals the prefix of variables for programs"`
	Micros      bool     `name:"microseconds" group:"Log" help:"microseconds in the log's time stamps"`
	HostName    bool     `name:"host-name" group:"Log" help:"host name in log lines (variable HOSTNAME, else the system's)"`
	LogFormat   string   `name:"log-format" enum:"text,json" default:"text" group:"Log" placeholder:"text|json" help:"json: one JSON object an event, states and statistics among them"`
	Descriptors bool     `name:"descriptors" group:"Log" help:"log the properties of the descriptors before the transfer"`

	DumpText bool   `name:"dump-text" group:"Look at the data" help:"show data as text on standard error"`
	DumpHex  bool   `name:"dump-hex" group:"Look at the data" help:"show data in hexadecimal on standard error; with -v both"`
	RawLeft  string `name:"raw-left" group:"Look at the data" placeholder:"FILE" help:"append a plain copy of what goes from left to right; the name may hold $$$$, $PROGNAME, $TIMESTAMP, $MICROS and variables"`
	RawRight string `name:"raw-right" group:"Look at the data" placeholder:"FILE" help:"the same of what goes from right to left"`

	LeftToRight bool    `name:"left-to-right" group:"Transfer" help:"one way only: the left address is read, the right one written"`
	RightToLeft bool    `name:"right-to-left" group:"Transfer" help:"one way only: the right address is read, the left one written"`
	Buffer      size    `name:"buffer" group:"Transfer" placeholder:"BYTES" help:"take at most so much in one read from a byte stream (default: as it suits)"`
	Linger      seconds `name:"linger" default:"0.5" group:"Transfer" placeholder:"SECONDS" help:"after the end of one direction, how long the other may be idle (default 0.5)"`
	Idle        seconds `name:"idle" group:"Transfer" placeholder:"SECONDS" help:"end after this time without traffic (default: never)"`

	Sloppy       bool       `name:"sloppy" group:"Behaviour" help:"go on where an option can't be set: log the error, leave the option out"`
	AnyOptions   bool       `name:"any-options" group:"Behaviour" help:"try options that are not for this type of address too; a warning names those without effect"`
	Signals      signalMask `name:"signals" default:"0x89de" group:"Behaviour" placeholder:"MASK" help:"the signals that end the program in order and are logged, bit N for signal N (default 0x89de: HUP INT QUIT ILL ABRT BUS FPE SEGV TERM)"`
	Lock         string     `name:"lock" group:"Behaviour" placeholder:"FILE" help:"make this lock file, or give up if it exists"`
	WaitLock     string     `name:"wait-lock" group:"Behaviour" placeholder:"FILE" help:"make this lock file, wait while it exists"`
	IPVersion    string     `name:"ip-version" enum:",0,4,6" default:"" group:"Behaviour" placeholder:"0|4|6" help:"IP version to listen on and to prefer among a host's addresses, where the address does not say; 0: none (default 4)"`
	Drop         bool       `name:"drop" group:"Behaviour" help:"after set-up drop all capabilities but those still needed, and let no program gain new ones"`
	Experimental bool       `name:"experimental" group:"Behaviour" help:"for command lines of socat: everything works without it"`

	ReadyFD    descriptor `name:"ready-fd" default:"-1" group:"Follow from a script" placeholder:"N" help:"when ready write the line \"ready\" to this descriptor and close it"`
	ReadyFile  string     `name:"ready-file" group:"Follow from a script" placeholder:"PATH" help:"make this file when ready; it is removed at the end, and at the start if it was left behind"`
	PIDFile    string     `name:"pid-file" group:"Follow from a script" placeholder:"PATH" help:"write the process id to this file at the start, or give up if a running process holds it; removed at the end"`
	OnState    string     `name:"on-state" group:"Follow from a script" placeholder:"CMD" help:"run this program at each change of state, with STATE, IFACE, MTU, ADDR, PEER and FRAMING in its environment"`
	Background bool       `name:"background" group:"Follow from a script" help:"go on in the background: return 0 when ready, else another status with the reason on standard error"`

	Relay struct {
		Addresses []string `arg:"" optional:"" name:"address"`
	} `cmd:"" hidden:"" help:"join two addresses"`
	Help struct {
		Name string `arg:"" optional:"" name:"name"`
	} `cmd:"" help:"explain an address type or an option"`
	Keygen struct {
		File string `arg:"" optional:"" default:"-" name:"file"`
	} `cmd:"" help:"make a key for the option psk: into a new file, or on standard output"`
}

// How a short form is followed by its argument.
type argument uint8

const (
	alone     argument = iota // none: the short form stands by itself
	repeated                  // none, but the letter may be repeated: -hhh
	attached                  // in the same word, may be missing: -lylocal0
	following                 // in the same word or in the next one: -lfFILE, -lf FILE
	verbosity                 // -d, -dd, -d3
)

// shortForm is one short flag of socat's.
type shortForm struct {
	short string
	long  string // with what stands before the argument: "--log=file:"
	arg   argument
}

// shortForms lists the short flags. Of two that begin alike the longer stands first.
var shortForms = []shortForm{
	{"-h", "--help", repeated},
	{"-?", "--help", repeated},
	{"-V", "--features", alone},
	{"-d", "--level=", verbosity},
	{"-D", "--descriptors", alone},
	{"-ly", "--log=syslog:", attached},
	{"-lm", "--log=mixed:", attached},
	{"-lf", "--log=file:", following},
	{"-ls", "--log=stderr", alone},
	{"-lp", "--program-name=", following},
	{"-lu", "--microseconds", alone},
	{"-lh", "--host-name", alone},
	{"-v", "--dump-text", alone},
	{"-x", "--dump-hex", alone},
	{"-r", "--raw-left=", following},
	{"-R", "--raw-right=", following},
	{"-b", "--buffer=", following},
	{"-s", "--sloppy", alone},
	{"-S", "--signals=", following},
	{"-t", "--linger=", following},
	{"-T", "--idle=", following},
	{"-u", "--left-to-right", alone},
	{"-U", "--right-to-left", alone},
	{"-g", "--any-options", alone},
	{"-L", "--lock=", following},
	{"-W", "--wait-lock=", following},
	{"-0", "--ip-version=0", alone},
	{"-4", "--ip-version=4", alone},
	{"-6", "--ip-version=6", alone},
}

const seeHelp = `; use option "-h" for help`

// longForms rewrites a command line (without the program's name) for kong. If it finds a mistake it returns what came before, and the error. takesValue tells whether a long flag
// has a value, isCommand whether a first word is one of the program's commands rather than an address.
func longForms(args []string, takesValue, isCommand func(name string) bool) (long []string, err error) {
	level, leveled := 0, false
	finish := func(rest ...string) []string {
		if leveled {
			long = append(long, "--level="+strconv.Itoa(level))
		}
		return append(long, rest...)
	}
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			return finish(append([]string{"relay", "--"}, args[i+1:]...)...), nil
		case strings.HasPrefix(a, "--"):
			name, value, attached := strings.Cut(a[2:], "=")
			if takesValue(name) {
				if !attached { // it is the next word
					if i++; i == len(args) {
						return finish("relay"), errors.Errorf("option %s requires an argument%s", a, seeHelp)
					}
					value = args[i]
				}
				if value == "" {
					return finish("relay"), errors.Errorf("option --%s: its argument is empty", name)
				}
				a = "--" + name + "=" + value
			}
			long = append(long, a)
			continue
		case !strings.HasPrefix(a, "-") && isCommand(a):
			return finish(args[i:]...), nil
		case isAddress(a):
			return finish(append([]string{"relay", "--"}, args[i:]...)...), nil
		}
		f, rest := findShort(a)
		switch {
		case f == nil && strings.HasPrefix(a, "-l"):
			return finish("relay"), errors.Errorf("unknown log option %q%s", a, seeHelp)
		case f == nil:
			return finish("relay"), errors.Errorf("unknown option %q%s", a, seeHelp)
		}
		switch f.arg {
		case alone:
			if rest != "" {
				return finish("relay"), errors.Errorf("option %q: each option stands alone, as in \"%s -%s\"", a, f.short, rest)
			}
			long = append(long, f.long)
		case repeated:
			if strings.Trim(rest, f.short[1:]) != "" {
				return finish("relay"), errors.Errorf("unknown option %q%s", a, seeHelp)
			}
			long = append(long, fmt.Sprintf("%s=%d", f.long, 1+len(rest)))
		case attached:
			if rest == "" {
				rest = "daemon"
			}
			long = append(long, f.long+rest)
		case following:
			if rest == "" {
				if i++; i == len(args) {
					return finish("relay"), errors.Errorf("option %s requires an argument%s", a, seeHelp)
				}
				if rest = args[i]; rest == "" {
					return finish("relay"), errors.Errorf("option %s: its argument is empty", a)
				}
			}
			long = append(long, f.long+rest)
		case verbosity:
			switch {
			case len(rest) == 1 && '0' <= rest[0] && rest[0] <= '4':
				level = int(rest[0] - '0')
			case strings.Trim(rest, "d") == "":
				level = min(level+1+len(rest), 4) // there is nothing more to show
			default:
				return finish("relay"), errors.Errorf("unknown option %q%s", a, seeHelp)
			}
			leveled = true
		}
	}
	return finish("relay"), nil
}

// isAddress says that a word is an address, not a flag: "-", "-,raw", "-!!X" and "-:" are.
func isAddress(word string) bool {
	return !strings.HasPrefix(word, "-") || word == "-" || strings.ContainsRune(",:!", rune(word[1]))
}

// findShort returns the short form a word begins with, and what follows it in the word.
func findShort(word string) (*shortForm, string) {
	for i := range shortForms {
		if rest, ok := strings.CutPrefix(word, shortForms[i].short); ok {
			return &shortForms[i], rest
		}
	}
	return nil, ""
}

// newParser returns kong's view of the flags. It prints nothing and never exits.
func newParser(c *commandLine) *kong.Kong {
	return kong.Must(c, kong.Name("tunsplice"), kong.NoDefaultHelp(), kong.Writers(io.Discard, io.Discard), kong.Exit(func(int) {}))
}

// parseArgs reads a command line (without the program's name) and says which command it is: "relay", "help" or "keygen". Even with an error c holds what was read before it, so that the error goes to the log that was asked for.
func parseArgs(c *commandLine, args []string) (command string, err error) {
	k := newParser(c)
	takesValue := func(name string) bool {
		for _, f := range k.Model.Flags {
			if f.Name == name {
				return !f.IsBool() && !f.IsCounter()
			}
		}
		return false
	}
	isCommand := func(name string) bool {
		for _, n := range k.Model.Children {
			if n.Name == name && !n.Hidden {
				return true
			}
		}
		return false
	}
	long, mistake := longForms(args, takesValue, isCommand)
	parsed, err := k.Parse(long)
	switch {
	case mistake != nil:
		return "", mistake
	case err != nil:
		return "", asTyped(err, args)
	case c.LeftToRight && c.RightToLeft:
		return "", errors.New("-u and -U must not be combined")
	case c.Lock != "" && c.WaitLock != "":
		return "", errors.New("-L and -W must not be combined")
	case c.Level < 0 || c.Level > 4:
		return "", errors.New("--level: wanted a number from 0 to 4")
	}
	command, _, _ = strings.Cut(parsed.Command(), " ")
	return command, nil
}

// asTyped puts the short form that the user typed in place of the long flag that kong's error names.
func asTyped(err error, args []string) error {
	text := err.Error()
	for _, f := range shortForms {
		name, _, _ := strings.Cut(f.long, "=")
		if !strings.HasPrefix(text, name+":") && !strings.HasPrefix(text, name+" ") {
			continue
		}
		for _, a := range args {
			if strings.HasPrefix(a, f.short) && !strings.HasPrefix(a, "--") {
				return errors.Errorf("option %q%s", f.short, text[len(name):])
			}
		}
	}
	return errors.New(text)
}

// seconds is a flag's time in seconds with optional fraction.
type seconds time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *seconds) UnmarshalText(text []byte) error {
	d, err := addr.ParseSeconds(string(text))
	*s = seconds(d)
	return err
}

// descriptor is a flag's number of an inherited descriptor, -1 for none.
type descriptor int

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *descriptor) UnmarshalText(text []byte) error {
	if string(text) == "-1" { // the default
		*d = -1
		return nil
	}
	n, err := addr.ParseNumber(string(text))
	if err == nil && (n < 0 || n > 1<<20) {
		err = errors.New("wanted the number of an open descriptor")
	}
	*d = descriptor(n)
	return err
}

// maxBuffer is the largest -b: two such buffers are held for each session.
const maxBuffer = 1 << 30

// size is a flag's number of bytes.
type size int

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *size) UnmarshalText(text []byte) error {
	n, err := addr.ParseNumber(string(text))
	switch {
	case err != nil:
		return err
	case n < 1 || n > maxBuffer:
		return errors.Errorf("wanted a number of bytes from 1 to %d", maxBuffer)
	}
	*s = size(n)
	return nil
}

// signalMask is the value of -S: bit N stands for signal N.
type signalMask uint32

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *signalMask) UnmarshalText(text []byte) error {
	n, err := addr.ParseNumber(string(text))
	if err == nil && (n < 0 || n > 1<<32-1) {
		err = errors.New("wanted a mask of 32 bits")
	}
	*m = signalMask(n)
	return err
}
