package addr

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestUnixAgainstSocat(t *testing.T) {
	for _, k := range []string{"UNIX", "ABSTRACT"} {
		name := func(t *testing.T) string {
			if k == "ABSTRACT" {
				return fmt.Sprintf("tunsplice-test-%d-%d", os.Getpid(), time.Now().UnixNano())
			}
			return tempSocket(t)
		}
		for _, ours := range []string{"-CONNECT", "-CLIENT"} {
			t.Run(k+ours, func(t *testing.T) {
				n := name(t)
				s := plainSocat(t, k+"-LISTEN:"+n, "-")
				s.stderr.wait(t, "listening on")
				h := newHost(t)
				ep := h.open(k+ours+":"+n, ReadWrite)
				writeText(t, ep.W, "to socat")
				ep.W.CloseWrite()
				io.WriteString(s.in, "from socat")
				s.in.Close()
				if got := readAll(t, ep.R); got != "from socat" {
					t.Errorf("read %q", got)
				}
				if got := s.end(); got != "to socat" {
					t.Errorf("socat read %q", got)
				}
			})
		}
		t.Run(k+"-LISTEN", func(t *testing.T) {
			n := name(t)
			h := newHost(t)
			src := h.source(k+"-LISTEN:"+n, ReadWrite)
			s := plainSocat(t, "-", k+"-CONNECT:"+n)
			ep := h.next(src)
			io.WriteString(s.in, "from socat")
			s.in.Close()
			if got := readAll(t, ep.R); got != "from socat" {
				t.Errorf("read %q", got)
			}
			writeText(t, ep.W, "to socat")
			ep.W.CloseWrite()
			if got := s.end(); got != "to socat" {
				t.Errorf("socat read %q", got)
			}
			src.Close()
			if k == "UNIX" && exists(n) {
				t.Error("the entry is still there")
			}
		})
		for _, ours := range []string{"-SENDTO", "-CLIENT"} {
			t.Run(k+ours+" datagrams", func(t *testing.T) {
				n := name(t)
				s := plainSocat(t, k+"-RECVFROM:"+n, "EXEC:cat")
				s.stderr.wait(t, "receiving on")
				h := newHost(t)
				ep := h.open(k+ours+":"+n+",bind="+name(t)+"c", ReadWrite)
				if ep.Traffic != relay.Datagrams {
					t.Errorf("traffic %s", ep.Traffic)
				}
				writeText(t, ep.W, "packet")
				if got := readOne(t, ep.R); got != "packet" {
					t.Errorf("read %q", got)
				}
			})
		}
		for _, options := range []string{"", ",fork"} {
			t.Run(k+"-RECVFROM"+options, func(t *testing.T) {
				n := name(t)
				h := newHost(t)
				src := h.source(k+"-RECVFROM:"+n+options, ReadWrite)
				s := plainSocat(t, "-", k+"-SENDTO:"+n+",bind="+name(t)+"c")
				io.WriteString(s.in, "packet")
				ep := h.next(src)
				if got := readAll(t, ep.R); got != "packet" {
					t.Errorf("read %q", got)
				}
				writeText(t, ep.W, "answer")
				if got := s.end(); got != "answer" {
					t.Errorf("socat read %q", got)
				}
			})
		}
		t.Run(k+"-RECV", func(t *testing.T) {
			n := name(t)
			h := newHost(t)
			ep := h.open(k+"-RECV:"+n, Read)
			s := plainSocat(t, "-", k+"-SENDTO:"+n)
			io.WriteString(s.in, "packet")
			if got := readOne(t, ep.R); got != "packet" {
				t.Errorf("read %q", got)
			}
			s.end()
			ep.Close()
			if k == "UNIX" && exists(n) {
				t.Error("the entry is still there")
			}
		})
	}
}

func TestUnixUnlink(t *testing.T) {
	h := newHost(t)
	path := tempSocket(t)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := mustBind(t, "UNIX-LISTEN:"+path, ReadWrite).Open(h.ctx, h.env)
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(Hint(err), "unlink-early") || !exists(path) {
		t.Errorf("error %v, hint %q", err, Hint(err))
	}
	first := h.source("UNIX-LISTEN:"+path+",unlink-early,unlink-close=0", ReadWrite)
	first.Close()
	if !exists(path) {
		t.Error("removed in spite of unlink-close=0")
	}
	first = h.source("UNIX-LISTEN:"+path+",unlink-early,fork", ReadWrite)
	second := h.source("UNIX-LISTEN:"+path+",unlink-early,fork", ReadWrite)
	first.Close()
	if !exists(path) {
		t.Error("the first listener removed the second one's entry")
	}
	second.Close()
	if exists(path) {
		t.Error("the entry is still there")
	}
}

func TestUnixModeAndOwner(t *testing.T) {
	needRoot(t)
	h := newHost(t)
	for i, c := range []struct {
		options string
		mode    os.FileMode
		uid     uint32
	}{
		{",mode=0606", 0o606, 0}, {",perm=600,user=12345,group=23456", 0o600, 12345}, {",umask=0177", 0o600, 0}, {",umask=0177,mode=0666", 0o666, 0},
		{",user=12345", 0o777 &^ currentUmask(), 12345},
	} {
		path := filepath.Join(t.TempDir(), fmt.Sprint("s", i))
		h.source("UNIX-LISTEN:"+path+c.options, ReadWrite)
		st, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		var raw unix.Stat_t
		unix.Lstat(path, &raw)
		if st.Mode().Perm() != c.mode || raw.Uid != c.uid {
			t.Errorf("%s: mode %o, owner %d", c.options, st.Mode().Perm(), raw.Uid)
		}
	}
	if now := currentUmask(); now == 0o177 {
		t.Error("the process has the address's umask")
	}
}

func currentUmask() os.FileMode {
	data, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(data), "\n") {
		var m os.FileMode
		if _, err := fmt.Sscanf(line, "Umask:\t%o", &m); err == nil {
			return m
		}
	}
	return 0
}

func TestUnixChdir(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	src := h.source("UNIX-LISTEN:s,chdir="+dir, ReadWrite)
	h.open("UNIX-CONNECT:s,chdir="+dir, ReadWrite)
	h.next(src)
	if !exists(dir + "/s") {
		t.Error("not in the directory")
	}
	src.Close()
	if exists(dir + "/s") {
		t.Error("the entry is still there")
	}
}

func TestUnixTempName(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	src := h.source("UNIX-RECVFROM:"+dir+"/s", ReadWrite)
	client := h.open("UNIX-SENDTO:"+dir+"/s,bind-tempname="+dir+"/c.XXXXXX", ReadWrite)
	writeText(t, client.W, "question")
	server := h.next(src)
	writeText(t, server.W, "answer")
	if got := readOne(t, client.R); got != "answer" {
		t.Errorf("read %q", got)
	}
	i := slices.IndexFunc(server.Env, func(s string) bool { return strings.HasPrefix(s, "PEERADDR="+dir+"/c.") })
	if i < 0 || !slices.Contains(server.Env, "SOCKADDR="+dir+"/s") {
		t.Errorf("env %q", server.Env)
	}
	client.Close()
	if files, _ := filepath.Glob(dir + "/c.*"); len(files) > 0 {
		t.Errorf("left behind: %q", files)
	}
}

// A sender is another one than the peer.
func TestUnixSendtoOthers(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	peer := h.source("UNIX-RECVFROM:"+dir+"/peer", ReadWrite)
	ep := h.open("UNIX-SENDTO:"+dir+"/peer,bind="+dir+"/own", ReadWrite)
	writeText(t, h.open("UNIX-SENDTO:"+dir+"/own", ReadWrite).W, "without a name")
	writeText(t, h.open("UNIX-SENDTO:"+dir+"/own,bind="+dir+"/other", ReadWrite).W, "from another")
	writeText(t, ep.W, "question")
	writeText(t, h.next(peer).W, "from the peer")
	if got := readOne(t, ep.R); got != "from the peer" {
		t.Errorf("read %q", got)
	}
}

// The queue of a datagram socket that nobody reads from is short: a writer waits until there is room.
func TestUnixSendtoWaits(t *testing.T) {
	h := newHost(t)
	path := tempSocket(t)
	recv := h.open("UNIX-RECV:"+path, Read)
	send := h.open("UNIX-SENDTO:"+path, Write)
	const packets = 2000
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range packets {
			if _, err := fmt.Fprint(send.W, i); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range packets {
		if got := readOne(t, recv.R); got != fmt.Sprint(i) {
			t.Fatalf("read %q, want %d", got, i)
		}
	}
	wg.Wait()
	send.W.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for range packets {
		if _, err := io.WriteString(send.W, "x"); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			return
		}
	}
	t.Error("no end to the queue")
}

// A full queue of connections: connect waits, and obeys its time limit.
func TestUnixConnectWaits(t *testing.T) {
	h := newHost(t)
	path := tempSocket(t)
	src := h.source("UNIX-LISTEN:"+path+",backlog=0,fork", ReadWrite)
	h.open("UNIX-CONNECT:"+path, ReadWrite)
	_, err := mustBind(t, "UNIX-CONNECT:"+path+",connect-timeout=0.05", ReadWrite).Open(h.ctx, h.env)
	if !errors.Is(err, unix.ETIMEDOUT) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithTimeout(h.ctx, 50*time.Millisecond)
	defer cancel()
	if _, err = mustBind(t, "UNIX-CONNECT:"+path, ReadWrite).Open(ctx, h.env); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	connected := make(chan error, 1)
	go func() {
		second, err := mustBind(t, "UNIX-CONNECT:"+path, ReadWrite).Open(h.ctx, h.env)
		if err == nil {
			err = second.Close()
		}
		connected <- err
	}()
	h.next(src)
	h.next(src)
	if err := <-connected; err != nil {
		t.Error(err)
	}
}

func TestUnixSeqpacket(t *testing.T) {
	h := newHost(t)
	path := tempSocket(t)
	src := h.source("UNIX-LISTEN:"+path+",socktype=5", ReadWrite)
	client := h.open("UNIX-CLIENT:"+path, ReadWrite)
	server := h.next(src)
	if client.Traffic != relay.Datagrams || server.Traffic != relay.Datagrams {
		t.Fatalf("traffic %s, %s", client.Traffic, server.Traffic)
	}
	writeText(t, client.W, "one")
	writeText(t, client.W, "two")
	client.W.CloseWrite()
	for _, want := range []string{"one", "two"} {
		if got := readOne(t, server.R); got != want {
			t.Errorf("read %q", got)
		}
	}
	if _, err := server.R.Read(make([]byte, 10)); err != io.EOF {
		t.Errorf("error %v", err)
	}
}

func TestUnixAbstractNetns(t *testing.T) {
	name := newNetns(t)
	h := newHost(t)
	sock := "tunsplice-test-" + name
	src := h.source("ABSTRACT-LISTEN:"+sock+",netns="+name, ReadWrite)
	if _, err := mustBind(t, "ABSTRACT-CONNECT:"+sock, ReadWrite).Open(h.ctx, h.env); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("from outside: %v", err)
	}
	h.open("ABSTRACT-CONNECT:"+sock+",netns="+name, ReadWrite)
	h.next(src)
}

// The names as the kernel has them: net's UnixConn is the other side.
func TestUnixTightSockLen(t *testing.T) {
	h := newHost(t)
	name := fmt.Sprint("tunsplice-test-tight-", os.Getpid())
	h.source("ABSTRACT-LISTEN:"+name, ReadWrite)
	c, err := net.Dial("unix", "@"+name)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	h.source("ABSTRACT-LISTEN:"+name+",tightsocklen=0,fork", ReadWrite)
	if c, err = net.Dial("unix", "@"+name+strings.Repeat("\x00", 107-len(name))); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestUnixErrors(t *testing.T) {
	h := newHost(t)
	for arg, want := range map[string]error{
		"UNIX-CONNECT:/nonexistent/s": unix.ENOENT, "UNIX-CLIENT:/nonexistent/s": unix.ENOENT, "UNIX-LISTEN:/nonexistent/s": unix.ENOENT,
		"ABSTRACT:tunsplice-nobody": unix.ECONNREFUSED,
	} {
		if _, err := mustBind(t, arg, ReadWrite).Open(h.ctx, h.env); !errors.Is(err, want) {
			t.Errorf("%s: %v", arg, err)
		}
	}
	ep := h.open("UNIX-SENDTO:/nonexistent/s", Write)
	if _, err := io.WriteString(ep.W, "x"); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	for arg, want := range map[string]string{
		"UNIX-LISTEN:": "name is missing",
		"UNIX-LISTEN:" + strings.Repeat("x", 108):      "at most 107 bytes",
		"UNIX-LISTEN:/tmp/s,bind=/tmp/c":               "binds to its parameter",
		"UNIX-SENDTO:/tmp/s,bind=/tmp/c,bind-tempname": "exclude each other",
		"UNIX-SENDTO:/tmp/s,bind-tempname=/tmp/c":      "XXXXXX",
		"ABSTRACT-LISTEN:s,unlink-early":               "not for ABSTRACT-LISTEN",
	} {
		spec, err := Parse(arg)
		if err == nil {
			_, err = Bind(spec, BindConfig{Mode: ReadWrite})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", arg, err, want)
		}
	}
}
