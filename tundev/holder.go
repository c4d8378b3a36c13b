package tundev

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// holders names the processes that have a device of this name open, as far as /proc lets this user see them. The
// fdinfo of an open TUN/TAP descriptor has a line "iff:\tNAME" (tun_chr_show_fdinfo in drivers/net/tun.c). Devices of
// the same name in other namespaces can't be told apart there, so this is for messages only.
func holders(name string) string {
	want := []byte("iff:\t" + name + "\n")
	var found []string
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well-formed; directories that can't be read are left out
	for _, fd := range fds {
		// every process has many descriptors: look at the cheap link first
		if target, err := os.Readlink(fd); err != nil || !strings.HasPrefix(target, "/dev/") && !strings.HasSuffix(target, "/tun") {
			continue
		}
		proc := filepath.Dir(filepath.Dir(fd))
		info, err := os.ReadFile(filepath.Join(proc, "fdinfo", filepath.Base(fd)))
		if err != nil || !bytes.Contains(info, want) {
			continue
		}
		who := "process " + filepath.Base(proc)
		if filepath.Base(proc) == strconv.Itoa(os.Getpid()) {
			who = "this process"
		} else if comm, err := os.ReadFile(filepath.Join(proc, "comm")); err == nil {
			who += fmt.Sprintf(" (%s)", bytes.TrimSpace(comm))
		}
		if !slices.Contains(found, who) {
			found = append(found, who)
		}
	}
	if found == nil {
		return "a process that this user cannot see"
	}
	return strings.Join(found, ", ")
}
