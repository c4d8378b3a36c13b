package relay

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Frames of framing u16 go through a VDE switch, from one vde_plug to another, as
// they are.
func TestU16MeetsVDEPlug(t *testing.T) {
	for _, program := range []string{"vde_switch", "vde_plug"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs vde2: ", err)
		}
	}
	sameDescriptors(t)
	control := filepath.Join(t.TempDir(), "control")
	console, prompt := startPiped(t, "vde_switch", "--hub", "--sock", control)
	// The console speaks once the switch has its socket.
	if _, err := console.WriteString("showinfo\n"); err != nil {
		t.Fatal(err)
	}
	expectText(t, prompt, "1000 Success")

	f := U16(VDEMaxPacket)
	in, _ := startPiped(t, "vde_plug", control)
	_, out := startPiped(t, "vde_plug", control)
	// A switch forgets what it carries for nobody, so the first frame is sent until it
	// is through. A read of an answer that does not come ends after a while.
	first := vdeFrame(60, 0)
	var buf []byte
	chunk := make([]byte, 1<<16)
	deadline := time.Now().Add(20 * time.Second)
	for len(buf) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("no frame comes through")
		}
		if _, err := in.Write(mustAppend(t, f, nil, first)); err != nil {
			t.Fatal(err)
		}
		if err := out.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := out.Read(chunk)
		if err != nil && !os.IsTimeout(err) {
			t.Fatal(err)
		}
		buf = append(buf, chunk[:n]...)
	}

	// The switch of vde2 2.3 cuts what is longer than 1518 bytes.
	want := [][]byte{vdeFrame(60, 1), vdeFrame(1514, 2), vdeFrame(1518, 3), vdeFrame(61, 4)}
	for _, pkt := range want {
		if _, err := in.Write(mustAppend(t, f, nil, pkt)); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	for len(want) > 0 {
		pkt, used, err := f.Next(buf)
		if err != nil {
			t.Fatal(err)
		}
		buf = buf[used:]
		switch {
		case used == 0:
			n, err := out.Read(chunk)
			if err != nil {
				t.Fatalf("%d frames are missing: %v", len(want), err)
			}
			buf = append(buf, chunk[:n]...)
		case bytes.Equal(pkt, want[0]):
			want = want[1:]
		case !bytes.Equal(pkt, first):
			t.Fatalf("a frame of %d bytes came as one of %d", len(want[0]), len(pkt))
		}
	}
}

// vdeFrame makes a broadcast frame of n bytes, filled with mark.
func vdeFrame(n int, mark byte) []byte {
	return append([]byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb6"), bytes.Repeat([]byte{mark}, n-MinEthernet)...)
}

// startPiped runs a program until the test ends and returns the ends of pipes to its
// standard input and output.
func startPiped(t *testing.T, name string, args ...string) (in, out *os.File) {
	t.Helper()
	itsIn, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, itsOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout = itsIn, itsOut
	err = cmd.Start()
	itsIn.Close()
	itsOut.Close()
	t.Cleanup(func() {
		in.Close()
		out.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return in, out
}

func expectText(t *testing.T, r *os.File, text string) {
	t.Helper()
	if err := r.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var got []byte
	b := make([]byte, 1)
	for !bytes.Contains(got, []byte(text)) {
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatalf("%q does not come, only %q: %v", text, got, err)
		}
		got = append(got, b[0])
	}
}
