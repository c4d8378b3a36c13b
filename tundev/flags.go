package tundev

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// ifaceFlags are the interface flags with the names that netdevice(7) and ip-link(8) use.
var ifaceFlags = []struct {
	bit     uint32
	name    string
	command string // word of ip-link(8) that takes on or off; empty: none
}{
	{unix.IFF_UP, "up", ""},
	{unix.IFF_BROADCAST, "broadcast", ""},
	{unix.IFF_DEBUG, "debug", ""},
	{unix.IFF_LOOPBACK, "loopback", ""},
	{unix.IFF_POINTOPOINT, "pointopoint", ""},
	{unix.IFF_NOTRAILERS, "notrailers", ""},
	{unix.IFF_RUNNING, "running", ""},
	{unix.IFF_NOARP, "noarp", "arp"},
	{unix.IFF_PROMISC, "promisc", "promisc"},
	{unix.IFF_ALLMULTI, "allmulti", "allmulticast"},
	{unix.IFF_MASTER, "master", ""},
	{unix.IFF_SLAVE, "slave", ""},
	{unix.IFF_MULTICAST, "multicast", "multicast"},
	{unix.IFF_PORTSEL, "portsel", ""},
	{unix.IFF_AUTOMEDIA, "automedia", ""},
	{unix.IFF_DYNAMIC, "dynamic", "dynamic"},
}

// flagNames returns "up,promisc"; bits without a name come last in hexadecimal.
func flagNames(flags uint32) string {
	var words []string
	for _, f := range ifaceFlags {
		if flags&f.bit != 0 {
			words = append(words, f.name)
			flags &^= f.bit
		}
	}
	if flags != 0 {
		words = append(words, fmt.Sprintf("%#x", flags))
	}
	return strings.Join(words, ",")
}

// flagWords returns "up,promisc, clear multicast".
func flagWords(set, clear uint32) string {
	switch {
	case clear == 0:
		return flagNames(set)
	case set == 0:
		return flagNames(clear) + " off"
	}
	return flagNames(set) + " on, " + flagNames(clear) + " off"
}

// flagCommand returns the arguments of ip(8) that make the flags named by mask as they are in flags.
func (s *settings) flagCommand(flags, mask uint32) string {
	words := "link set dev " + s.name()
	for _, f := range ifaceFlags {
		if mask&f.bit == 0 {
			continue
		}
		on := flags&f.bit != 0
		switch {
		case f.bit == unix.IFF_UP && on:
			words += " up"
		case f.bit == unix.IFF_UP:
			words += " down"
		case f.command != "" && on != (f.bit == unix.IFF_NOARP): // the word for noarp is its contrary
			words += " " + f.command + " on"
		case f.command != "":
			words += " " + f.command + " off"
		}
	}
	return words
}
