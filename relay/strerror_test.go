package relay

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pkg/errors"
)

// TestStrerror compares every text with glibc's.
func TestStrerror(t *testing.T) {
	out, err := exec.Command("python3", "-c", "import os\nfor n in range(140): print(n, os.strerror(n))").Output()
	if err != nil {
		t.Skip("no python3 to ask for glibc's texts: ", err)
	}
	for line := range strings.Lines(string(out)) {
		number, want, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		if got := Strerror(syscall.Errno(n)); got != want {
			t.Errorf("%d: %q, glibc says %q", n, got, want)
		}
	}
}

func TestErrorText(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("no number"), "no number"},
		{syscall.ENOENT, "No such file or directory"},
		{errors.Wrap(syscall.ECONNREFUSED, "connect 127.0.0.1:1"), "connect 127.0.0.1:1: Connection refused"},
		{errors.Wrapf(syscall.EIO, "%s", syscall.EIO), "input/output error: Input/output error"},
	} {
		if got := ErrorText(c.err); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestLogSpellsErrors(t *testing.T) {
	var got string
	l := NewLog(Warn, func(_ Level, text string) { got = text })
	l.Warnf("%s: %v", "accept", syscall.EMFILE)
	if want := "accept: Too many open files"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
