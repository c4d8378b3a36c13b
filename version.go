package main

import (
	"bufio"
	"fmt"
	"io"
	"runtime/debug"

	"tunsplice/addr"

	"golang.org/x/sys/unix"
)

// features are the lines of -V: a feature of socat's and an address type (or option) by which it can be seen whether the program has it. Ours come last.
var features = []struct{ name, address, option string }{
	{"STDIO", "STDIO", ""}, {"FDNUM", "FD", ""}, {"FILE", "OPEN", ""}, {"CREAT", "CREATE", ""}, {"GOPEN", "GOPEN", ""}, {"TERMIOS", "", "raw"},
	{"PIPE", "PIPE", ""}, {"SOCKETPAIR", "SOCKETPAIR", ""}, {"UNIX", "UNIX-CONNECT", ""}, {"ABSTRACT_UNIXSOCKET", "ABSTRACT-CONNECT", ""},
	{"IP4", "TCP4-CONNECT", ""}, {"IP6", "TCP6-CONNECT", ""}, {"RAWIP", "IP-SENDTO", ""}, {"GENERICSOCKET", "SOCKET-CONNECT", ""},
	{"INTERFACE", "INTERFACE", ""}, {"TCP", "TCP-CONNECT", ""}, {"UDP", "UDP-CONNECT", ""}, {"SCTP", "SCTP-CONNECT", ""}, {"DCCP", "DCCP-CONNECT", ""},
	{"UDPLITE", "UDPLITE-CONNECT", ""}, {"LISTEN", "TCP-LISTEN", ""}, {"POSIXMQ", "POSIXMQ", ""}, {"SOCKS4", "SOCKS4", ""}, {"SOCKS4A", "SOCKS4A", ""},
	{"SOCKS5", "SOCKS5-CONNECT", ""}, {"VSOCK", "VSOCK-CONNECT", ""}, {"NAMESPACES", "", "netns"}, {"PROXY", "PROXY-CONNECT", ""},
	{"SYSTEM", "SYSTEM", ""}, {"SHELL", "SHELL", ""}, {"EXEC", "EXEC", ""}, {"READLINE", "READLINE", ""}, {"TUN", "TUN", ""}, {"PTY", "PTY", ""},
	{"OPENSSL", "OPENSSL", ""}, {"FIPS", "", ""}, {"LIBWRAP", "", "tcpwrappers"}, {"SYCLS", "", ""}, {"FILAN", "STDIO", ""}, {"RETRY", "", "retry"},
	{"STATS", "STDIO", ""}, {"TAP", "TAP", ""}, {"FRAMING", "", "framing"},
}

// showFeatures prints version, system and features. Scripts take the version from the third word of the second line.
func showFeatures(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, "tunsplice joins any two endpoints, as socat does")
	fmt.Fprintf(b, "tunsplice version %s on %s\n", version, sourceDate())
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		text := unix.ByteSliceToString
		fmt.Fprintf(b, "   running on %s version %s, release %s, machine %s\n", text(u.Sysname[:]), text(u.Version[:]), text(u.Release[:]), text(u.Machine[:]))
	}
	fmt.Fprintln(b, "features:")
	for _, f := range features {
		if f.address != "" && addr.LookupType(f.address) != nil || f.option != "" && addr.HasOption(f.option) {
			fmt.Fprintf(b, "  #define WITH_%s 1\n", f.name)
		} else {
			fmt.Fprintf(b, "  #undef WITH_%s\n", f.name)
		}
	}
	return b.Flush()
}

// sourceDate returns the date of the commit that the program was built from.
func sourceDate() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.time" {
				return s.Value
			}
		}
	}
	return "an unknown date"
}
