package addr

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tunsplice/relay"
)

func TestHalvesLikeSocat(t *testing.T) {
	const text = "a\rb\r\nc\r\r\nd\n\re\r"
	for _, args := range [][]string{
		{"-u", "-,crnl", "-"}, {"-u", "-,cr", "-"}, {"-u", "-", "-,crnl"}, {"-u", "-", "-,cr"}, {"-U", "-,crlf", "OPEN:f"},
		{"-u", "-,readbytes=3", "-"}, {"-u", "-,escape=13", "-"}, {"-u", "-,escape=0", "-"}, {"-u", "-,readbytes=0", "-"},
		{"-", "EXEC:cat,crnl"}, {"-", "EXEC:cat,shut-none"}, {"-", "SYSTEM:cat; echo end,pipes,cr"},
		{"-u", "-", "EXEC:true,cool-write"},
	} {
		likeSocat(t, func(dir string) { write(t, dir, "f", text) }, text, args...)
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The bytes after readbytes belong to the next program on the same standard input.
func TestReadBytesSharedInput(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `GORACE=atexit_sleep_ms=0 ADDR_TEST_RELAY=1 "$0" -u -,readbytes=4 -; echo; cat`, self)
	if got := finish(t, cmd, "123456789"); got.out != "1234\n56789" {
		t.Errorf("%q %q", got.out, got.err)
	}
	file := filepath.Join(t.TempDir(), "f")
	os.WriteFile(file, []byte("123456789"), 0o600)
	cmd = exec.Command("sh", "-c", `exec <"$1"; GORACE=atexit_sleep_ms=0 ADDR_TEST_RELAY=1 "$0" -u -,readbytes=4 -; echo; cat`, self, file)
	if got := finish(t, cmd, ""); got.out != "1234\n56789" {
		t.Errorf("file: %q %q", got.out, got.err)
	}
}

func TestContradictions(t *testing.T) {
	for arg, want := range map[string]string{
		"-,shut-none,shut-close": "exclude each other",
		"-,cr,crnl":              "exclude each other",
		"-,escape=256":           "out of range",
	} {
		if _, err := bindArg(arg, ReadWrite); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

// Halves without such options must stay plain files: splice depends on it.
func TestPlainHalves(t *testing.T) {
	leavesNothing(t)
	ep := endpoint(t, &Env{}, ReadWrite, "SOCKETPAIR,shut-none,cool-write")
	defer ep.Close()
	if _, ok := ep.R.(*relay.File); !ok {
		t.Errorf("reader is a %T", ep.R)
	}
	if _, ok := ep.W.(*relay.File); !ok {
		t.Errorf("writer is a %T", ep.W)
	}
	if !ep.GoneIsEnd {
		t.Error("cool-write had no effect")
	}
	crnl := endpoint(t, &Env{}, ReadWrite, "SOCKETPAIR,crnl")
	defer crnl.Close()
	for _, half := range []any{crnl.R, crnl.W} {
		if _, ok := half.(syscall.Conn); ok {
			t.Errorf("a %T hands out its descriptor", half)
		}
		if fdOf(half) < 0 {
			t.Errorf("a %T does not know its number", half)
		}
	}
}

func TestShutNull(t *testing.T) {
	leavesNothing(t)
	ep := endpoint(t, &Env{}, ReadWrite, "SOCKETPAIR,so-type=2,shut-null")
	defer ep.Close()
	ep.W.Write([]byte("one"))
	if err := ep.W.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := ep.R.Read(buf)
	if string(buf[:n]) != "one" || err != nil {
		t.Fatalf("%q %v", buf[:n], err)
	}
	if n, err := ep.R.Read(buf); n != 0 || err != io.EOF {
		t.Fatalf("%d %v", n, err)
	}
}

// shut-close on an inherited descriptor lets the reader see the end at once, not only when the program ends.
func TestShutCloseStandardOutput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	cmd := relayCmd(t, "", "-t", "20", "SYSTEM:echo hi; exec >&-; read x || true,pipes", "-,shut-close")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, w, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	w.Close()
	got, err := io.ReadAll(r)
	if string(got) != "hi\n" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	feed.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v", err)
	}
}

func TestIgnoreEOFFollowsFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "log", "one\n")
	cmd := relayCmd(t, dir, "-u", "OPEN:log,ignoreeof", "-")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() }).Stop()
	buf := make([]byte, 4)
	for _, line := range []string{"one\n", "two\n"} {
		if _, err := io.ReadFull(out, buf); err != nil || string(buf) != line {
			t.Fatalf("%q %v", buf, err)
		}
		f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString("two\n")
		f.Close()
	}
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != 128+15 {
		t.Errorf("status %d", status)
	}
}
