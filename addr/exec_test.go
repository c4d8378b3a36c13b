package addr

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tunsplice/relay"

	"golang.org/x/sys/unix"
)

func TestExecLikeSocat(t *testing.T) {
	prepare := func(dir string) {
		os.WriteFile(filepath.Join(dir, "script"), []byte("echo script $*\n"), 0o755)
		os.WriteFile(filepath.Join(dir, "noexec"), []byte("echo\n"), 0o644)
	}
	for _, c := range [][]string{
		{"-", "EXEC:cat"}, {"-", "EXEC:cat,pipes"}, {"-u", "EXEC:echo  a \\\"b  c\\\" d", "-"}, {"-u", "-", "EXEC:cat"}, {"-U", "-", "EXEC:echo hi"},
		{"-u", "EXEC:true", "-"},
		{"-u", "SYSTEM:echo out; echo err >&2,stderr", "-"}, {"-u", "SYSTEM:echo $0 $#", "-"}, {"-", "SYSTEM:cat; echo end"}, {"-", "SYSTEM:cat; echo end,pipes"},
		{"-", "SYSTEM:cat <&3 >&4,fdin=3,fdout=4"}, {"-", "SYSTEM:cat <&3 >&4,fdin=3,fdout=4,pipes"}, {"-", "SYSTEM:cat <&9 >&5,fdin=9,fdout=5"},
		{"-u", "EXEC:./script a b", "-"}, {"-u", "EXEC:script,path=.", "-"}, {"-u", "SYSTEM:echo $PATH,path=/bin:/usr/bin", "-"},
		{"-u", "EXEC:yes,readbytes=10", "-"},
		{"-u", "SYSTEM:'sleep 30 & echo hi'", "-"}, {"-", "SYSTEM:read x; echo \"$x!\""},
		{"-u", "EXEC:cat /dev/null", "SYSTEM:cat >f"}, {"-u", "EXEC:head -c 100000 /dev/zero", "-"},
	} {
		likeSocat(t, prepare, "hello\n", c...)
	}
}

// What plain socat has not got, or leaves to chance.
func TestExecBeyondSocat(t *testing.T) {
	for line, want := range map[string]run{
		"-u|EXEC:pwd,chdir=/usr|-":                                 {out: "/usr\n"},
		"-u|SYSTEM:umask,umask=027|-":                              {out: "0027\n"},
		"-u|EXEC:false|-":                                          {status: 1},
		"-|EXEC:false":                                             {status: 1},
		"-u|SYSTEM:exit 3,pipes|-":                                 {status: 1},
		"-u|-|SYSTEM:cat; exit 4":                                  {out: "hello\n", status: 1},
		"-|SYSTEM:sleep 0.1; echo out":                             {out: "out\n"},
		"-u|EXEC:sh -c : ssh://host:22/x,y -|-":                    {},
		"-u|SYSTEM:echo a:b,c d=e:f,pipes|-":                       {out: "a:b,c d=e:f\n"},
		"-u|SYSTEM:head -c 200000 /dev/zero,readbytes=5|/dev/null": {},
	} {
		got := relayed(t, "hello\n", strings.Split(line, "|")...)
		if got.out != want.out || got.status != want.status {
			t.Errorf("%s: %+v", line, got)
		}
	}
}

// Whether a program failed must be seen each time.
func TestExitStatusIsCertain(t *testing.T) {
	for range 20 {
		if got := relayed(t, "", "-u", "EXEC:false", "-"); got.status != 1 || !strings.Contains(got.err, "W waitpid(): child ") || !strings.Contains(got.err, "exited with status 1") {
			t.Fatalf("%+v", got)
		}
	}
	if got := relayed(t, "", "-u", "EXEC:sh -c 'kill -9 $$'", "-"); got.status != 1 || !strings.Contains(got.err, "exited on signal 9") {
		// The quotes are taken away by the grammar: the shell's own are those that are escaped.
		got = relayed(t, "", "-u", `SYSTEM:kill -9 $$`, "-")
		if got.status != 1 || !strings.Contains(got.err, "exited on signal 9") {
			t.Errorf("%+v", got)
		}
	}
}

func TestProgramNotFound(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "noexec", "echo")
	for line, want := range map[string]string{
		"-u CREATE:made!!CREATE:made EXEC:nosuchprogram": "", // nothing is made: see below
		"-U CREATE:made EXEC:nosuchprogram":              "No such file",
		"-U CREATE:made EXEC:./nosuchprogram":            "No such file",
		"-U CREATE:made EXEC:./noexec":                   "Permission denied",
		"-U CREATE:made EXEC:cat,path=/nonexistent":      "No such file",
		"-U CREATE:made EXEC:":                           "empty",
		"-U CREATE:made EXEC:true,fdin=3":                "writes nothing",
		"-u - EXEC:true,fdout=3":                         "reads nothing",
		"- EXEC:true,pipes,fdin=3,fdout=3":               "two descriptors",
		"- EXEC:true,so-type=3":                          "so-type",
		"- EXEC:true,su=nobdy_":                          "unknown user",
		"- SYSTEM:true,dash=x":                           "numerical",
		"- SYSTEM:true,shell=/bin/sh":                    "not for SYSTEM",
		"- OPEN:f,dash":                                  "not for OPEN",
		"- SHELL:true,shell=/nonexistent":                "No such file",
	} {
		got := finish(t, relayCmd(t, dir, strings.Fields(line)...), "")
		if got.status != 1 || !strings.Contains(strings.ToLower(got.err), want) && !strings.Contains(got.err, want) {
			t.Errorf("%s: %+v", line, got)
		}
		if _, err := os.Stat(filepath.Join(dir, "made")); err == nil {
			t.Errorf("%s: a file was made before the mistake was found", line)
		}
	}
}

func TestChildEnvironment(t *testing.T) {
	t.Setenv("SOCAT_PID", "stale")
	t.Setenv("PASSED", "on")
	var out bytes.Buffer
	cmd := relayCmd(t, "", "-u", "EXEC:env", "-")
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	vars := strings.Split(out.String(), "\n")
	for _, want := range []string{"SOCAT_VERSION=9.9", "SOCAT_PID=" + pid, "SOCAT_PPID=" + pid, "SOCAT_PEERADDR=10.0.0.1", "RELAY_VERSION=9.9", "RELAY_PID=" + pid, "RELAY_PEERADDR=10.0.0.1", "PASSED=on"} {
		n := 0
		name, _, _ := strings.Cut(want, "=")
		for _, v := range vars {
			if strings.HasPrefix(v, name+"=") {
				n++
			}
		}
		if n != 1 || !slices.Contains(vars, want) {
			t.Errorf("%s is there %d times in\n%s", want, n, out.String())
		}
	}
}

// The program has descriptors 0, 1 and 2, whatever we were started with.
func TestChildDescriptors(t *testing.T) {
	for opts, want := range map[string]string{"": "0 1 2", ",pipes": "0 1 2", ",fdin=5,fdout=7": "0 1 2 5 7"} {
		f, err := os.Open("/etc/passwd")
		if err != nil {
			t.Fatal(err)
		}
		out := "1"
		if strings.Contains(opts, "fdout") {
			out = "7"
		}
		cmd := relayCmd(t, "", "-", "SYSTEM:exec ls -l /proc/self/fd >&"+out+opts)
		cmd.ExtraFiles = []*os.File{f, f, f}
		got := finish(t, cmd, "")
		f.Close()
		var fds []string
		for _, line := range strings.Split(got.out, "\n") {
			left, target, _ := strings.Cut(line, " -> ")
			// The directory itself is open too, by ls.
			if f := strings.Fields(left); target != "" && !strings.HasPrefix(target, "/proc/") {
				fds = append(fds, f[len(f)-1])
			}
		}
		if strings.Join(fds, " ") != want {
			t.Errorf("%q: %q in %q %q", opts, fds, got.out, got.err)
		}
	}
}

func TestChildSignals(t *testing.T) {
	got := relayed(t, "", "-u", "EXEC:grep Sig /proc/self/status", "-")
	for _, line := range strings.Split(got.out, "\n") {
		name, value, _ := strings.Cut(line, ":\t")
		if (name == "SigBlk" || name == "SigIgn") && value != "0000000000000000" {
			t.Errorf("%s", line)
		}
	}
	if got.out == "" {
		t.Error(got)
	}
}

func TestChildUser(t *testing.T) {
	needRoot(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip("there is no user nobody")
	}
	const show = `SYSTEM:echo $(id -u) $(id -g) $(id -G) $USER $LOGNAME $HOME`
	want := nobody.Uid + " " + nobody.Gid
	for opts, want := range map[string]string{
		",su=nobody":        want + " " + nobody.Gid + " nobody nobody " + nobody.HomeDir + "\n",
		",su-d=nobody":      want + " " + nobody.Gid + " nobody nobody " + nobody.HomeDir + "\n",
		",su=" + nobody.Uid: want + " " + nobody.Gid + " nobody nobody " + nobody.HomeDir + "\n",
	} {
		if got := relayed(t, "", "-u", show+opts, "-"); got.out != want {
			t.Errorf("%s: %+v, want %q", opts, got, want)
		}
	}
	if got := relayed(t, "", "-u", "SYSTEM:echo $(id -u) $(id -g),setuid=7,setgid=8", "-"); got.out != "7 8\n" {
		t.Errorf("%+v", got)
	}
	if got := relayed(t, "", "-u", "EXEC:id -u,setuid=7", "-"); got.out != "7\n" {
		t.Errorf("%+v", got)
	}
}

func TestChildChroot(t *testing.T) {
	needRoot(t)
	if to, err := os.Readlink("/lib"); err != nil || to != "usr/lib" {
		t.Skip("needs a system whose programs run below /usr as their root")
	}
	ls, err := os.ReadDir("/usr")
	if err != nil {
		t.Fatal(err)
	}
	var want string
	for _, e := range ls {
		want += e.Name() + "\n"
	}
	for _, command := range []string{"EXEC:ls,path=/bin", "EXEC:bin/ls", "EXEC:/bin/ls ."} {
		if got := relayed(t, "", "-u", command+",chroot=/usr", "-"); got.out != want {
			t.Errorf("%s: %+v", command, got)
		}
	}
	if got := relayed(t, "", "-u", "EXEC:/usr/bin/ls,chroot=/usr", "-"); got.status != 1 || !strings.Contains(got.err, "No such file") {
		t.Errorf("%+v", got)
	}
}

func TestChildSessionAndGroup(t *testing.T) {
	self := strconv.Itoa(syscall.Getpgrp())
	fields := func(opts string) []string {
		got := relayed(t, "", "-u", "EXEC:cat /proc/self/stat"+opts, "-")
		return strings.Fields(got.out)
	}
	for opts, ok := range map[string]func(pid, pgrp, session string) bool{
		",setsid":  func(pid, pgrp, session string) bool { return pid == pgrp && pid == session },
		",setpgid": func(pid, pgrp, session string) bool { return pid == pgrp && pid != session },
		",pgid=1":  func(pid, pgrp, session string) bool { return pid == pgrp && pid != session },
		",pgid=0":  func(pid, pgrp, session string) bool { return pid == pgrp && pid != session },
		"": func(pid, pgrp, session string) bool {
			return pid == pgrp != inForeground() && (pid == pgrp || pgrp == self)
		},
	} {
		if f := fields(opts); len(f) < 6 || !ok(f[0], f[4], f[5]) {
			t.Errorf("%q: %v", opts, f)
		}
	}
}

func TestDashAndShell(t *testing.T) {
	for args, want := range map[string]string{
		"EXEC:sh -c \\\"echo \\\\$0\\\",dash": "-sh\n",
		"SHELL:echo $0 ok,shell=/bin/sh":      "sh ok\n",
	} {
		if got := relayed(t, "", "-u", args, "-"); got.out != want {
			t.Errorf("%s: %+v", args, got)
		}
	}
	if got := relayed(t, "echo hello\n", "-", "SHELL,shell=/bin/sh"); got.out != "hello\n" || got.status != 0 {
		t.Errorf("%+v", got)
	}
}

// A program that is ended together with us may write out what it holds.
func TestProgramWritesOutAtTheEnd(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		dir := t.TempDir()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := os.Create(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		cmd := relayCmd(t, dir, "-u", "-", "SYSTEM:touch ready; exec od -c")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = r, out, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		r.Close()
		out.Close()
		w.WriteString("held back")
		waitFor(t, "the program", func() bool { _, err := os.Stat(filepath.Join(dir, "ready")); return err == nil })
		waitFor(t, "the data to be taken", func() bool { n, _ := unix.IoctlGetInt(int(w.Fd()), unix.TIOCINQ); return n == 0 })
		syscall.Kill(-cmd.Process.Pid, sig) // the whole group, as timeout(1) does
		cmd.Wait()
		w.Close()
		got, _ := os.ReadFile(filepath.Join(dir, "out"))
		if !strings.Contains(string(got), "h   e   l   d") {
			t.Errorf("%s: %q", sig, got)
		}
		if status := cmd.ProcessState.ExitCode(); status != 128+int(sig) {
			t.Errorf("%s: status %d", sig, status)
		}
	}
}

// programEnv counts failures of programs.
func programEnv(failed *atomic.Int32) *Env {
	return &Env{ChildFailed: func(status int) { failed.Store(int32(status)) }}
}

func TestProgramThatDoesNotEnd(t *testing.T) {
	leavesNothing(t)
	for command, want := range map[string]struct {
		signalled time.Duration
		failed    int32
	}{
		`EXEC:sleep 100`:         {childLinger, 0},
		`SYSTEM:sleep 100; true`: {childLinger, 0}, // the shell and its sleep
		`SYSTEM:exec 2>/dev/null; trap \"\" TERM; while :; do sleep 0.1; done`:       {childLinger + childTerm, 0},
		`SYSTEM:exec 2>/dev/null; trap \"exit 7\" TERM; while :; do sleep 0.1; done`: {childLinger, 7},
		`SYSTEM:cat >/dev/null; sleep 0.2; exit 9`:                                   {0, 9},
	} {
		var failed atomic.Int32
		ep := endpoint(t, programEnv(&failed), ReadWrite, command)
		began := time.Now()
		if err := ep.Close(); err != nil {
			t.Error(err)
		}
		took := time.Since(began)
		if took < want.signalled || took > want.signalled+time.Second {
			t.Errorf("%s: closed after %s", command, took)
		}
		if failed.Load() != want.failed {
			t.Errorf("%s: status %d", command, failed.Load())
		}
		if err := ep.Close(); err != nil {
			t.Error("second close", err)
		}
	}
}

func TestEndCloseLeavesTheProgram(t *testing.T) {
	dir := t.TempDir()
	began := time.Now()
	got := finish(t, relayCmd(t, dir, "-u", "-", "SYSTEM:cat >/dev/null; sleep 1; echo done >made,end-close"), "x")
	if took := time.Since(began); got.status != 0 || took > 900*time.Millisecond {
		t.Errorf("%+v after %s", got, took)
	}
	waitFor(t, "the program's end", func() bool { b, _ := os.ReadFile(filepath.Join(dir, "made")); return string(b) == "done\n" })
}

// A descendant that keeps the descriptors does not keep the session, but what it writes in time is delivered.
func TestDescendantHoldsDescriptors(t *testing.T) {
	for _, opts := range []string{"", ",pipes", ",crnl"} {
		began := time.Now()
		got := relayed(t, "", "-u", "SYSTEM:(for i in 1 2 3 4; do sleep 0.3; echo $i; done; exec sleep 60) & echo 0"+opts, "-")
		if got.out != "0\n1\n2\n3\n4\n" || got.status != 0 {
			t.Errorf("%s: %+v", opts, got)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: took %s", opts, took)
		}
	}
}

// The end of a program that is only written to ends the session although the input is silent.
func TestProgramEndsWhileInputIsSilent(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, args := range [][]string{{"-u", "-", "EXEC:true"}, {"-", "EXEC:true"}, {"-", "EXEC:true,pipes"}} {
		cmd := relayCmd(t, "", args...)
		cmd.Stdin = r
		if got := finish(t, cmd, ""); got.status != 0 {
			t.Errorf("%q: %+v", args, got)
		}
	}
}

// What a program has written is delivered to a slow reader although the program has ended long since.
func TestSlowReaderGetsAll(t *testing.T) {
	leavesNothing(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	const size = 300_000
	cmd := relayCmd(t, "", "-t", "0.05", "-u", "EXEC:head -c "+strconv.Itoa(size)+" /dev/zero", "-")
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	total := 0
	buf := make([]byte, 60_000)
	for {
		time.Sleep(150 * time.Millisecond) // slower than -t: that is what is tested
		n, err := r.Read(buf)
		total += n
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r.Close()
	if err := cmd.Wait(); err != nil || total != size {
		t.Errorf("%d of %d bytes, %v", total, size, err)
	}
}

func TestProgramsLeaveNothing(t *testing.T) {
	leavesNothing(t)
	before := runtime.NumGoroutine()
	for range 10 {
		for _, opts := range []string{"", ",pipes", ",so-type=5"} {
			ep := endpoint(t, &Env{}, ReadWrite, "EXEC:cat"+opts)
			want := relay.Stream
			if opts == ",so-type=5" {
				want = relay.Datagrams
			}
			if ep.Traffic != want || !ep.CanAnswer {
				t.Errorf("%s: %s, answers: %t", opts, ep.Traffic, ep.CanAnswer)
			}
			ep.W.Write([]byte("x"))
			if n, err := ep.R.Read(make([]byte, 10)); n != 1 {
				t.Errorf("%s: %d %v", opts, n, err)
			}
			if err := ep.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	waitFor(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}

// Namespace, directory and file mode mask are those of one program, all at once.
func TestProgramInNamespace(t *testing.T) {
	needRoot(t)
	holder := exec.Command("cat")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	hold, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Skip("no network namespaces:", err)
	}
	defer holder.Wait()
	defer hold.Close()
	want, err := os.Readlink("/proc/" + strconv.Itoa(holder.Process.Pid) + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	got := relayed(t, "", "-u", "SYSTEM:readlink /proc/self/ns/net; pwd; umask,netns="+strconv.Itoa(holder.Process.Pid)+",chdir=/usr,umask=027", "-")
	if got.out != want+"\n/usr\n0027\n" {
		t.Errorf("%+v, want %s", got, want)
	}
}
