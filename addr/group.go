package addr

import "strings"

// Group is a set of option groups. An option applies to an address type that shares a group with it.
type Group uint64

// The groups, named as in socat's help.
const (
	GFD Group = 1 << iota
	GFIFO
	GCHR
	GBLK
	GREG
	GSOCKET
	GREADLINE
	GNAMED
	GOPEN
	GEXEC
	GFORK
	GLISTEN
	GSHELL
	GCHILD
	GRETRY
	GTERMIOS
	GRANGE
	GPTY
	GPARENT
	GUNIX
	GIP4
	GIP6
	GINTERFACE
	GUDP
	GTCP
	GSOCKS
	GOPENSSL
	GPROCESS
	GAPPL
	GHTTP
	GPOSIXMQ
	GSCTP
	GDCCP
	GUDPLITE
	GHUB     // ours: what several peers can share (option hub and its kin)
	GPACKETS // ours: byte streams that packets can travel over (framing and its kin)
	GSTREAMS // ours: those of which one tunnel can have several (option streams): both ends can tell one connection from another

	gEvery = GPROCESS | GAPPL // the groups that every address type is in
)

var groupNames = [...]string{"FD", "FIFO", "CHR", "BLK", "REG", "SOCKET", "READLINE", "NAMED", "OPEN", "EXEC", "FORK", "LISTEN", "SHELL", "CHILD",
	"RETRY", "TERMIOS", "RANGE", "PTY", "PARENT", "UNIX", "IP4", "IP6", "INTERFACE", "UDP", "TCP", "SOCKS", "OPENSSL", "PROCESS", "APPL", "HTTP",
	"POSIXMQ", "SCTP", "DCCP", "UDPLITE", "HUB", "PACKETS", "STREAMS"}

// String lists the groups as socat's help does: "FD,SOCKET,TCP".
func (g Group) String() string {
	var names []string
	for i, n := range groupNames {
		if g&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}

// Phase says when, in the opening of an address, an option acts. The place of the option on the command line does not matter.
type Phase uint8

// The phases in their order. The big call of BIGEN is socketpair, pipe or openpty.
const (
	PhOffset Phase = iota
	PhInit
	PhEarly
	PhPreopen
	PhOpen
	PhPastopen
	PhPresocket
	PhSocket
	PhPastsocket
	PhPrebigen
	PhBigen
	PhPastbigen
	PhFD
	PhPrebind
	PhBind
	PhPastbind
	PhPrelisten
	PhListen
	PhPastlisten
	PhPreconnect
	PhConnect
	PhPastconnect
	PhPreaccept
	PhAccept
	PhPastaccept
	PhConnected
	PhPrefork
	PhFork
	PhPastfork
	PhLate
	PhLate2
	PhPreexec
	PhExec
	PhPastexec
	PhSpecific
)

var phaseNames = [...]string{"OFFSET", "INIT", "EARLY", "PREOPEN", "OPEN", "PASTOPEN", "PRESOCKET", "SOCKET", "PASTSOCKET", "PREBIGEN", "BIGEN",
	"PASTBIGEN", "FD", "PREBIND", "BIND", "PASTBIND", "PRELISTEN", "LISTEN", "PASTLISTEN", "PRECONNECT", "CONNECT", "PASTCONNECT", "PREACCEPT",
	"ACCEPT", "PASTACCEPT", "CONNECTED", "PREFORK", "FORK", "PASTFORK", "LATE", "LATE2", "PREEXEC", "EXEC", "PASTEXEC", "SPECIFIC"}

// String returns the name as in socat's help.
func (p Phase) String() string { return phaseNames[p] }
