package addr

import (
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"tunsplice/relay"

	"golang.org/x/sys/unix"
)

func TestStdioLikeSocat(t *testing.T) {
	for _, args := range [][]string{
		{"-u", "-", "STDOUT"}, {"-u", "STDIN", "-"}, {"-u", "FD:0", "FD:1"}, {"-u", "0", "1"}, {"-u", "stdin", "stdio"},
		{"-U", "-", "STDIN"}, {"-", "PIPE"}, {"STDIN!!STDOUT", "EXEC:cat"},
	} {
		likeSocat(t, nil, "hello\n", args...)
	}
}

func TestUnusableDescriptor(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f", "text")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"descriptor 99 is not open", []string{"-u", "FD:99", "CREATE:made"}},
		{"descriptor 99 is not open", []string{"-U", "CREATE:made", "99"}},
		{"numerical", []string{"-u", "FD:x", "CREATE:made"}},
	} {
		got := finish(t, relayCmd(t, dir, c.args...), "")
		if got.status != 1 || !strings.Contains(got.err, c.want) {
			t.Errorf("%q: %+v", c.args, got)
		}
		if _, err := os.Stat(dir + "/made"); err == nil {
			t.Errorf("%q: a file was made", c.args)
		}
	}
	// The access mode counts.
	f, err := os.Open(dir + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := relayCmd(t, dir, "-u", "-", "FD:3")
	cmd.ExtraFiles = []*os.File{f}
	if got := finish(t, cmd, "x"); got.status != 1 || !strings.Contains(got.err, "descriptor 3 is not open for writing") {
		t.Errorf("%+v", got)
	}
}

// What we do with an inherited descriptor must not be seen by its other holders: its flags stay, and it is left open.
func TestInheritedStaysAsItWas(t *testing.T) {
	leavesNothing(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	cmd := relayCmd(t, "", "FD:3", "EXEC:cat")
	cmd.ExtraFiles = []*os.File{theirs}
	ours.WriteString("ping")
	unix.Shutdown(fds[0], unix.SHUT_WR)
	if got := finish(t, cmd, ""); got.status != 0 {
		t.Errorf("%+v", got)
	}
	flags, err := unix.FcntlInt(uintptr(fds[1]), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags %#x %v", flags, err)
	}
	// Nobody has shut the socket down: as with socat.
	if _, err := theirs.WriteString("more"); err != nil {
		t.Error(err)
	}
	buf := make([]byte, 8)
	if _, err := io.ReadFull(ours, buf); string(buf) != "pingmore" || err != nil {
		t.Errorf("%q %v", buf, err)
	}
}

func TestInheritedDatagrams(t *testing.T) {
	leavesNothing(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	ep := endpoint(t, &Env{}, ReadWrite, "FD:"+strconv.Itoa(fds[0]))
	defer ep.Close()
	if ep.Traffic != relay.Datagrams || !ep.CanAnswer {
		t.Errorf("%s, answers %t", ep.Traffic, ep.CanAnswer)
	}
	unix.Write(fds[1], []byte("one"))
	unix.Write(fds[1], []byte("two"))
	buf := make([]byte, relay.MaxPacket)
	for _, want := range []string{"one", "two"} {
		if n, err := ep.R.Read(buf); string(buf[:n]) != want || err != nil {
			t.Errorf("%q %v", buf[:n], err)
		}
	}
}

// A reader that does not read must not keep the program from ending.
func TestFullOutputCanBeInterrupted(t *testing.T) {
	for _, kind := range []string{"pipe", "socket"} {
		fds := make([]int, 2)
		var err error
		if kind == "pipe" {
			err = unix.Pipe2(fds, unix.O_CLOEXEC)
		} else {
			var pair [2]int
			pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			fds = pair[:]
		}
		if err != nil {
			t.Fatal(err)
		}
		r, w := os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
		cmd := relayCmd(t, "", "-u", "/dev/zero", "-")
		cmd.Stdout, cmd.Stderr = w, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		full := -1
		waitFor(t, "the "+kind+" to be full", func() bool {
			before := full
			full, _ = unix.IoctlGetInt(fds[0], unix.TIOCINQ)
			return full > 0 && full == before
		})
		cmd.Process.Signal(unix.SIGTERM)
		stop := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		stop.Stop()
		if status := cmd.ProcessState.ExitCode(); status != 128+15 {
			t.Errorf("%s: status %d", kind, status)
		}
		r.Close()
	}
}
