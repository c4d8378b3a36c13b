package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What the process gives up after set-up, read from /proc for each of its threads. The program is built as it is shipped: without cgo, which the race detector needs, and with which a Go
// program can't change all its threads.

// shipped builds the program and returns a directory that others may enter, with the program in it.
func shipped(t *testing.T) (dir, program string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("giving up privileges needs some: run as root")
	}
	dir, err := os.MkdirTemp("/var/tmp", "tunsplice-test-") // t.TempDir is nobody else's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(dir, "tunsplice")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir, program
}

// threads returns the named line of /proc/PID/task/*/status, which must be the same for all threads.
func threads(t *testing.T, pid int, names ...string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) < 2 {
		t.Fatalf("threads of %d: %v %v", pid, files, err)
	}
	values := map[string]string{}
	for i, file := range files {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) { // it has ended
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			m := regexp.MustCompile(`(?m)^` + name + `:\s*(.*?)\s*$`).FindSubmatch(text)
			if m == nil {
				t.Fatalf("%s: no %s", file, name)
			}
			value := strings.Join(strings.Fields(string(m[1])), " ")
			if i > 0 && values[name] != value {
				t.Errorf("%s: %s is %s, in another thread %s", file, name, value, values[name])
			}
			values[name] = value
		}
	}
	return values
}

func TestPrivileges(t *testing.T) {
	dir, program := shipped(t)
	nobody, err := exec.Command("id", "-u", "nobody").Output()
	if err != nil {
		t.Skip("there is no user nobody")
	}
	uid := strings.TrimSpace(string(nobody))
	four := func(id string) string { return strings.Join([]string{id, id, id, id}, " ") }
	const none = "0000000000000000"
	capSet := func(caps ...int) string {
		var set uint64
		for _, c := range caps {
			set |= 1 << c
		}
		return fmt.Sprintf("%016x", set)
	}
	all, err := readCaps()
	if err != nil {
		t.Fatal(err)
	}
	full := fmt.Sprintf("%08x%08x", all[1].Effective, all[0].Effective)
	for _, c := range []struct {
		name           string
		flags          string
		options, inner string
		uid            string
		eff, bounding  string // capabilities, "" not looked at
		nnp            string
		root           string
	}{
		{"nothing", "", "", "PIPE", "0", full, "", "0", "/"},
		{"su", "", ",su=nobody", "PIPE", uid, none, "", "0", "/"},
		{"su-d and chroot", "", ",su-d=nobody,chroot=" + dir, "PIPE", uid, none, "", "0", dir},
		{"setuid and setgid", "", ",setuid=7,setgid=8", "PIPE", "7", none, "", "0", "/"},
		{"drop", "--drop", "", "PIPE", "0", none, none, "1", "/"},
		{"drop and su", "--drop", ",su=nobody", "PIPE", uid, none, none, "1", "/"},
		{"drop, device for each peer", "--drop", "", "TUN:10.9.9.1/24,iff-no-pi,up", "0", capSet(unix.CAP_NET_ADMIN), capSet(unix.CAP_NET_ADMIN), "1", "/"},
		{"drop and su, device for each peer", "--drop", ",su=nobody", "TUN:10.9.9.1/24,iff-no-pi,up", uid, capSet(unix.CAP_NET_ADMIN), capSet(unix.CAP_NET_ADMIN), "1", "/"},
		{"drop, low port", "--drop", "", "TCP:127.0.0.1:9,bind=:99", "0", capSet(unix.CAP_NET_BIND_SERVICE), capSet(unix.CAP_NET_BIND_SERVICE), "1", "/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.dir = dir
			os.Remove(filepath.Join(dir, "s"))
			argv := append([]string{program, "-d", "-d", "--log-format=json"}, strings.Fields(c.flags)...)
			p := l.start(on(l.a, append(argv, "UNIX-LISTEN:s,fork,mode=666"+c.options, c.inner)...)...)
			eventually(t, "it listens and has given up what it should", func() bool {
				return p.says(`"state":"listening"`) && (c.uid == "0" || p.says("user ")) && (c.flags == "" || p.says("capabilities left"))
			}, p.output)
			got := threads(t, p.cmd.Process.Pid, "Uid", "Gid", "CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd", "NoNewPrivs")
			if got["Uid"] != four(c.uid) || got["CapEff"] != c.eff || got["CapPrm"] != c.eff || got["NoNewPrivs"] != c.nnp || got["CapAmb"] != none ||
				c.bounding != "" && got["CapBnd"] != c.bounding || c.uid == "7" && got["Gid"] != four("8") || c.flags != "" && got["CapInh"] != none {
				t.Errorf("%+v\n%s", got, p.output())
			}
			if root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", p.cmd.Process.Pid)); err != nil || root != c.root {
				t.Errorf("root directory %s %v", root, err)
			}
			// It still serves.
			client, err := net.Dial("unix", filepath.Join(dir, "s"))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			switch c.inner {
			case "PIPE":
				client.Write([]byte("hello"))
				b := make([]byte, 5)
				if _, err := client.Read(b); err != nil || string(b) != "hello" {
					t.Errorf("%q %v\n%s", b, err, p.output())
				}
			case "TUN:10.9.9.1/24,iff-no-pi,up":
				eventually(t, "the device is made", func() bool { return p.says(`"state":"connected".*"iface":"tun0","mtu":1500,"addr":"10.9.9.1/24"`) }, p.output)
			default:
				eventually(t, "the connection is refused, not the port", func() bool { return p.says("Connection refused") }, p.output)
			}
			if status := p.stop(syscall.SIGTERM); status != 143 {
				t.Errorf("status %d\n%s", status, p.output())
			}
		})
	}
}

// says tells whether the output so far matches.
func (p *background) says(pattern string) bool {
	return regexp.MustCompile(pattern).MatchString(p.output())
}

// TestPrivilegesOfPrograms looks at what a program of a server that dropped everything can do, and at files that are removed from outside the new root.
func TestPrivilegesOfPrograms(t *testing.T) {
	dir, program := shipped(t)
	l := newLab(t)
	l.dir = dir
	p := l.start(program, "--drop", "--pid-file=pid", "--ready-file=ready", "-L", "lock", "UNIX-LISTEN:s,fork,mode=666,su=nobody", "EXEC:cat /proc/self/status")
	ready := func() bool { _, err := os.Stat(filepath.Join(dir, "ready")); return err == nil }
	eventually(t, "it is ready", ready, p.output)
	if text, err := os.ReadFile(filepath.Join(dir, "pid")); err != nil || strings.TrimSpace(string(text)) != strconv.Itoa(p.cmd.Process.Pid) {
		t.Errorf("%q %v", text, err)
	}
	client, err := net.Dial("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	status, err := io.ReadAll(client)
	for _, want := range []string{`Uid:\s+65534`, `CapEff:\s+0+\n`, `CapPrm:\s+0+\n`, `CapBnd:\s+0+\n`, `NoNewPrivs:\s+1`} {
		if err != nil || !regexp.MustCompile(want).Match(status) {
			t.Errorf("wanted %s: %v\n%s", want, err, status)
		}
	}
	p.stop(syscall.SIGTERM)
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	p = l.start(program, "--pid-file=pid", "--ready-file=ready", "-L", "lock", "UNIX-LISTEN:s,fork,chroot=root", "PIPE")
	eventually(t, "it is ready", ready, p.output)
	p.stop(syscall.SIGTERM)
	for _, name := range []string{"pid", "ready", "lock"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
}

// TestPrivilegesRefused looks that what can't work is said before anything is opened.
func TestPrivilegesRefused(t *testing.T) {
	dir, program := shipped(t)
	for line, want := range map[string]string{
		"UNIX-LISTEN:s,fork,su=nobody TUN:10.9.9.1/24":         "opened anew for each peer, which the new user may not do.*hint: add --drop",
		"UNIX-LISTEN:s,fork,chroot=. TUN:10.9.9.1/24":          "no /dev/net/tun below",
		"UNIX-LISTEN:s,fork,chroot=missing PIPE":               "option chroot: \"missing\" is no directory",
		"UNIX-LISTEN:s,su=nobody PIPE:made,su=root":            "option substuser: the other address says so too",
		"UNIX-LISTEN:s,su=nosuchuser PIPE":                     "unknown user",
		"--on-state=true UNIX-LISTEN:s,chroot=. PIPE":          "--on-state: \"true\": with option chroot",
		"--on-state=/no/prog UNIX-LISTEN:s,chroot=. PIPE":      "--on-state: program \"/no/prog\": No such file",
		"--drop --ready-file=/no/such UNIX-LISTEN:s,fork PIPE": "--ready-file /no/such: No such file",
	} {
		cmd := exec.Command(program, strings.Fields(line)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err == nil || !regexp.MustCompile("(?s)"+want).Match(out) {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
		for _, name := range []string{"s", "made"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				t.Errorf("%s: %s was made", line, name)
			}
		}
	}
	cmd := exec.Command(program, "-u", "OPEN:/etc/hostname,su=root", "OPEN:/dev/null")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("may not become another user")) {
		t.Errorf("%v %s", err, out)
	}
	// An ordinary user can drop what he does not have.
	cmd = exec.Command(program, "--drop", "-u", "OPEN:/etc/hostname", "OPEN:/dev/null")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
}
