package addr

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func TestFilesLikeSocat(t *testing.T) {
	needRoot(t) // some of the command lines change owners
	prepare := func(dir string) {
		write(t, dir, "f", "0123456789")
		if err := os.Symlink("f", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []string{
		"-u - OPEN:f", "-u OPEN:f -", "-u - OPEN:none", "-u - OPEN:new,creat", "-u OPEN:none,creat -",
		"-u - OPEN:f,trunc", "-u - OPEN:f,append", "-u - OPEN:f,append=0", "-u - OPEN:f,creat,excl", "-u - OPEN:new,creat,excl,mode=640,user=1,group=2",
		"-u - OPEN:f,perm=600", "-u - OPEN:new,creat,perm=666", "-u - OPEN:new,creat,perm=666,umask=077", "-u - FILE:f,wronly", "-u OPEN:f,rdwr -",
		"-u - CREATE:f", "-u - CREAT:new,perm=604", "-u - CREATE:f,unlink-early", "-u - CREATE:f,append",
		"-u - GOPEN:f", "-u GOPEN:f -", "-u - GOPEN:new", "-u - ./f", "-u - ./new,perm=600",
		"-u - OPEN:f,perm-early=600,user-early=3", "-u - OPEN:new,creat,perm-early=600,user-early=3,group-early=4", "OPEN:f,rdonly /dev/null", "-U - OPEN:f,rdonly",
		"-u - OPEN:f,perm-late=600,group-late=3", "-u - OPEN:f,unlink,creat", "-u - OPEN:f,unlink-late",
		"-u - OPEN:f,unlink-close", "-u - OPEN:f,unlink", "-u OPEN:f,seek=3 -", "-u OPEN:f,seek-end=-2 -", "-u OPEN:f,lseek=2,seek-cur=3 -", "-u - OPEN:f,seek=20",
		"-u - OPEN:f,ftruncate=4", "-u - OPEN:f,ftruncate=14,append", "-u - OPEN:f,lock,flock", "-u - OPEN:f,setlk,flock-nb,noatime,cloexec",
		"-u - OPEN:link,nofollow", "-u - OPEN:.", "-u OPEN:f,directory -", "-u OPEN:f,nonblock -", "-u OPEN:f,readbytes=4 -", "-u - OPEN:f,sync,dsync,rsync,noctty,largefile",
		"-u /dev/zero,readbytes=5 -", "-u - OPEN:/dev/null", "-u - OPEN:d/new,creat", "-u - OPEN:new,creat,chdir=/nonexistent",
	} {
		likeSocat(t, prepare, "abc", strings.Fields(line)...)
	}
}

func TestOpenRefusals(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f", "x")
	for line, want := range map[string]string{
		"-u OPEN:f,wronly -":         "o-wronly",
		"-u - OPEN:f,rdonly":         "o-rdonly",
		"-u - OPEN:new,rdonly,creat": "o-rdonly",
		"-u ./new -":                 "No such file", // socat makes an empty one
		"-u CREATE:new -":            "is no address for reading",
		"-u - OPEN:f,iff-up":         "option",
		"-u - OPEN:f,perm=9":         "file mode",
		"-u - OPEN:f,user=nobdy_":    "unknown user",
		"-u - OPEN":                  "wrong number of parameters",
		"-u - OPEN:f,setlk=x":        "numerical",
		"-u - PIPE,perm-early=1":     "needs a path",
	} {
		got := finish(t, relayCmd(t, dir, strings.Fields(line)...), "")
		if got.status != 1 || !strings.Contains(got.err, want) {
			t.Errorf("%s: %+v", line, got)
		}
	}
}

// umask and chdir are for one address: the process keeps its own.
func TestUmaskAndChdirAreLocal(t *testing.T) {
	leavesNothing(t)
	dir := t.TempDir()
	here, _ := os.Getwd()
	ep := endpoint(t, &Env{}, Write, "OPEN:new,creat,perm=666,umask=027,unlink-close,chdir="+dir)
	st, err := os.Stat(filepath.Join(dir, "new"))
	if err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", st, err)
	}
	if err := ep.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); !os.IsNotExist(err) {
		t.Error("unlink-close left the file", err)
	}
	if now, _ := os.Getwd(); now != here {
		t.Errorf("working directory %s, was %s", now, here)
	}
	old := syscall.Umask(0o22)
	syscall.Umask(old)
	f := filepath.Join(dir, "plain")
	os.WriteFile(f, nil, 0o666)
	if st, err := os.Stat(f); err != nil || st.Mode().Perm() != 0o666&^os.FileMode(old) {
		t.Errorf("%v %v", st.Mode(), err)
	}
}

func TestLocks(t *testing.T) {
	leavesNothing(t)
	file := filepath.Join(t.TempDir(), "f")
	os.WriteFile(file, nil, 0o600)
	held, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for _, opt := range []string{"flock-nb", "flock-sh-nb"} {
		if ep, err := tryEndpoint(&Env{}, Write, "OPEN:"+file+","+opt); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%s: %v %v", opt, ep, err)
		}
	}
	// Waiting ends when the lock is free...
	opened := make(chan error, 1)
	go func() {
		ep, err := tryEndpoint(&Env{}, Write, "OPEN:"+file+",flock")
		if err == nil {
			err = ep.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("opened a locked file: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	unix.Flock(int(held.Fd()), unix.LOCK_UN)
	if err := <-opened; err != nil {
		t.Error(err)
	}
	// ...and when the program is to end.
	unix.Flock(int(held.Fd()), unix.LOCK_EX)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	a, err := bindArg("OPEN:"+file+",flock-sh", Read)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Open(ctx, &Env{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	// fcntl locks are between processes: another one holds it.
	holder := relayCmd(t, "", "-u", "-", "OPEN:"+file+",setlk")
	feed, _ := holder.StdinPipe()
	holder.Stderr = os.Stderr
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	l := unix.Flock_t{Type: unix.F_WRLCK}
	waitFor(t, "the lock", func() bool {
		probe := l
		return unix.FcntlFlock(held.Fd(), unix.F_GETLK, &probe) == nil && probe.Type != unix.F_UNLCK
	})
	for _, opt := range []string{"setlk", "setlk-rd"} {
		if _, err := tryEndpoint(&Env{}, ReadWrite, "OPEN:"+file+","+opt); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			t.Errorf("%s: %v", opt, err)
		}
	}
	feed.Close()
	holder.Wait()
}

func TestFIFOWaitsAndCanBeStopped(t *testing.T) {
	leavesNothing(t)
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, m := range []Mode{Read, Write} {
		a, err := bindArg("OPEN:"+path, m)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		if _, err := a.Open(ctx, &Env{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", m, err)
		}
		cancel()
	}
	// Both ends at once, as two programs would.
	opened := make(chan error, 1)
	go func() {
		ep, err := tryEndpoint(&Env{}, Write, path)
		if err == nil {
			ep.W.Write([]byte("through"))
			err = ep.Close()
		}
		opened <- err
	}()
	ep := endpoint(t, &Env{}, Read, "PIPE:"+path)
	defer ep.Close()
	got, err := io.ReadAll(ep.R)
	if string(got) != "through" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("a FIFO that was there before is gone", err)
	}
}

func TestInodeFlags(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	os.WriteFile(file, []byte("x"), 0o600)
	if _, err := tryEndpoint(&Env{}, Write, "OPEN:"+file+",fs-append,append"); errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("the file system has no inode flags:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err == nil {
		t.Error("the flag was not set")
	}
	ep, err := tryEndpoint(&Env{}, Read, "OPEN:"+file+",fs-append=0")
	if err != nil {
		t.Fatal(err)
	}
	ep.Close()
	if err := os.Remove(file); err != nil {
		t.Error(err)
	}
}

func TestIoctlOptions(t *testing.T) {
	leavesNothing(t)
	// FIONBIO takes a pointer to a number, FIOCLEX nothing at all; both are known to every kind of descriptor.
	ep := endpoint(t, &Env{}, ReadWrite, "PIPE,ioctl-void=0x5450,ioctl-intp=0x5421:1,ioctl-bin=0x5421:x01000000")
	ep.Close()
	// Not even FIONBIO makes a descriptor blocking: a read from it would stop the program.
	ep = endpoint(t, &Env{}, ReadWrite, "PIPE,ioctl-intp=0x5421:0")
	if flags, err := unix.FcntlInt(uintptr(ep.R.(*relay.File).Fd()), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
	ep.Close()
	if _, err := tryEndpoint(&Env{}, ReadWrite, "PIPE,ioctl-int=0x12345678:1"); !errors.Is(err, unix.ENOTTY) {
		t.Error(err)
	}
}

func TestGopenUnixSocket(t *testing.T) {
	if LookupType("UNIX-CLIENT") == nil {
		t.Skip("UNIX-CLIENT is not there")
	}
	path, err := exec.LookPath("socat")
	if err != nil {
		t.Skip("plain socat is not installed")
	}
	sock := filepath.Join(t.TempDir(), "s")
	server := exec.Command(path, "UNIX-LISTEN:"+sock, "PIPE")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	waitFor(t, "the socket", func() bool { _, err := os.Stat(sock); return err == nil })
	if got := relayed(t, "hello", "-", sock); got.out != "hello" || got.status != 0 {
		t.Errorf("%+v", got)
	}
}

func TestPipesLikeSocat(t *testing.T) {
	for _, line := range []string{"- PIPE", "- ECHO,pipesz=65536", "- PIPE:p", "- PIPE:p,perm=600,unlink-close=0", "-u - PIPE:p,rdwr", "- SOCKETPAIR,so-type=1", "- PIPE,crnl"} {
		if strings.Contains(line, "SOCKETPAIR") || strings.Contains(line, "pipesz") { // newer than the usual socat
			if got := relayed(t, "abc\n", strings.Fields(line)...); got.out != "abc\n" || got.status != 0 {
				t.Errorf("%s: %+v", line, got)
			}
			continue
		}
		likeSocat(t, nil, "abc\n", strings.Fields(line)...)
	}
}

func TestSocketPairKinds(t *testing.T) {
	leavesNothing(t)
	buf := make([]byte, 1<<16)
	for _, kind := range []string{"", ",socktype=1", ",so-type=2", ",type=5"} {
		ep := endpoint(t, &Env{}, ReadWrite, "SOCKETPAIR"+kind)
		ep.W.Write([]byte("one"))
		ep.W.Write([]byte("two"))
		n, err := ep.R.Read(buf)
		want := "onetwo"
		if kind == ",so-type=2" || kind == ",type=5" {
			want = "one"
		}
		if string(buf[:n]) != want || err != nil {
			t.Errorf("%s: %q %v", kind, buf[:n], err)
		}
		if err := ep.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := bindArg("SOCKETPAIR,so-type=3", ReadWrite); err == nil {
		t.Error("a raw socket pair")
	}
}

// A pipe, a file and a socket pair carry much data unharmed.
func TestBulk(t *testing.T) {
	dir := t.TempDir()
	data := bytes.Repeat([]byte("0123456789abcdef\n"), 1<<17)
	os.WriteFile(filepath.Join(dir, "in"), data, 0o600)
	for _, other := range []string{"EXEC:cat", "EXEC:cat,pipes", "SYSTEM:'cat | cat'", "PIPE", "SOCKETPAIR"} {
		if got := finish(t, relayCmd(t, dir, "-t", "10", "OPEN:in,rdonly!!CREATE:out", other), ""); got.status != 0 {
			t.Errorf("%s: %+v", other, got)
		}
		got, err := os.ReadFile(filepath.Join(dir, "out"))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d of %d bytes, %v", other, len(got), len(data), err)
		}
	}
}
