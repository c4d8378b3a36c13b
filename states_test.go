package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// A script follows a tunnel: readiness, states and variables of both ends.
func TestStatesOfTunnel(t *testing.T) {
	for _, tr := range []struct{ name, listen, dial string }{
		{"tcp", "TCP-LISTEN:4000,reuseaddr", "TCP:10.74.68.1:4000,retry=100,interval=0.05"},
		{"udp", "UDP-LISTEN:4000", "UDP:10.74.68.1:4000"},
		{"framing", "TCP-LISTEN:4000,reuseaddr,framing=qemu", "TCP:10.74.68.1:4000,framing=qemu"},
	} {
		t.Run(tr.name, func(t *testing.T) {
			l := newLab(t)
			const script = "echo $STATE $IFACE $MTU $ADDR $PEER $FRAMING $SOCAT_IFACE >>"
			for _, name := range []string{"a", "b"} {
				if err := os.WriteFile(filepath.Join(l.dir, name+".sh"), []byte(script+name+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			read := func(name string) string {
				text, _ := os.ReadFile(filepath.Join(l.dir, name)) // not there yet: empty
				return string(text)
			}
			// The listening end is ready before there is a peer, the other one when the tunnel is up.
			a := l.start(on(l.a, "tunsplice", "--ready-file=a.ready", "--on-state=sh a.sh", tr.listen, "TAP:172.0.0.1/24,up,mtu=1400,tun-name=ts0")...)
			eventually(t, "a is ready", func() bool { return read("a.ready") != "" }, a.output)
			if got := read("a"); strings.Contains(got, "connected") {
				t.Errorf("a has a peer already: %s", got)
			}
			b := l.start(on(l.b, "sh", "-c", "exec tunsplice --log-format=json --ready-fd=3 '--on-state=sh b.sh' TAP:172.0.0.2/24,up,tun-name=ts1 "+tr.dial+" 3>b.ready")...)
			eventually(t, "b is ready", func() bool { return read("b.ready") == "ready\n" }, b.output)
			if !b.says(`"event":"state","message":"up","state":"up","iface":"ts1","mtu":1500,"addr":"172.0.0.2/24","peer":"10.74.68.1:4000","framing":"(link|qemu)"`) {
				t.Errorf("b is ready, but not up:\n%s", b.output())
			}
			framing := map[bool]string{true: "qemu", false: "link"}[tr.name == "framing"]
			eventually(t, "a is up", func() bool {
				return regexp.MustCompile(`(?m)^up ts0 1400 172.0.0.1/24 10.74.68.100:[0-9]+ ` + framing + ` ts0$`).MatchString(read("a"))
			}, func() string { return read("a") + a.output() })
			if status := b.stop(syscall.SIGTERM); status != 143 {
				t.Errorf("status %d", status)
			}
			if status := a.stop(syscall.SIGTERM); status != 143 && status != 0 {
				t.Errorf("status %d", status)
			}
			states := func(name string) string {
				return strings.Join(regexp.MustCompile(`(?m)^[a-z]+`).FindAllString(read(name), -1), " ")
			}
			if got := states("a"); got != "listening device connected up down closed" {
				t.Errorf("a: %s", got)
			}
			if got := states("b"); got != "device connected up down closed" {
				t.Errorf("b: %s", got)
			}
			if _, err := os.Stat(filepath.Join(l.dir, "a.ready")); err == nil {
				t.Error("the ready file is still there")
			}
		})
	}
}

// A tunnel whose peer never speaks is ready when packets may go unframed, and never with framing=link.
func TestReadyWithoutHello(t *testing.T) {
	l := newLab(t)
	l.start(on(l.a, "socat", "-u", "TCP-LISTEN:4000,fork,reuseaddr", "OPEN:/dev/null")...)
	silent := l.start(on(l.b, "tunsplice", "--log-format=json", "TUN:172.0.0.2/24,iff-no-pi,up", "TCP:10.74.68.1:4000,retry=100,interval=0.05,hello-timeout=0.2")...)
	eventually(t, "the tunnel is up without frames", func() bool { return silent.says(`"state":"up".*"framing":"none"`) }, silent.output)
	must := l.start(on(l.b, "tunsplice", "-d", "-d", "--ready-file=must", "TUN:172.0.0.3/24,iff-no-pi,up", "TCP:10.74.68.1:4000,framing=link,hello-timeout=0.2")...)
	eventually(t, "it waits for a hello", func() bool { return must.says("packets wait for it") }, must.output)
	if _, err := os.Stat(filepath.Join(l.dir, "must")); err == nil {
		t.Error("it says that it is ready")
	}
	if status := must.stop(syscall.SIGTERM); status != 143 {
		t.Errorf("status %d", status)
	}
}

// A program that is joined to a device gets to know it.
func TestDeviceVariables(t *testing.T) {
	l := newLab(t)
	p := l.start(on(l.a, "tunsplice", "-u", "TUN:172.0.0.1/24,iff-no-pi,up,mtu=1300,tun-name=ts0", "SYSTEM:echo $IFACE $MTU $ADDR $SOCAT_IFACE $TUNSPLICE_MTU $SOCAT_ADDR >&2")...)
	eventually(t, "the variables", func() bool { return p.says("ts0 1300 172.0.0.1/24 ts0 1300 172.0.0.1/24") }, p.output)
}

// The rest of a log that could not be written for a while says so in the log itself.
func TestLogAfterFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	var text strings.Builder
	s := &logSink{name: "prog", out: full, file: "log"}
	stderr := os.Stderr
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	os.Stderr = w
	s.write(0, "one")
	s.write(0, "two")
	os.Stderr = stderr
	w.Close()
	b := make([]byte, 1000)
	n, _ := r.Read(b)
	r.Close()
	if got := string(b[:n]); strings.Count(got, "\n") != 1 || !strings.Contains(got, "log file log: No space left on device") {
		t.Errorf("standard error: %q", got)
	}
	s.redirect(full, &text)
	s.write(0, "three")
	s.write(0, "four")
	if got := text.String(); !regexp.MustCompile(`(?s)^[^\n]* W 2 lines of the log were lost: No space left on device\n[^\n]* D three\n[^\n]* D four\n$`).MatchString(got) {
		t.Errorf("%q", got)
	}
}
