package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// certify makes a key and a certificate of its own making, in one file, and returns the file and the fingerprint.
func certify(l *lab, name string) (file, pin string) {
	file = filepath.Join(l.dir, name+".pem")
	l.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN="+name, "-keyout", file+".key", "-out", file+".crt")
	l.run("sh", "-c", "cat "+file+".key "+file+".crt >"+file)
	_, pin, _ = strings.Cut(strings.TrimSpace(l.run("openssl", "x509", "-in", file, "-noout", "-fingerprint", "-sha256")), "=")
	return file, pin
}

// TestTLSTunnel has a tunnel over TLS, with strangers at its door, and kills an end.
func TestTLSTunnel(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	l := newLab(t)
	fileA, pinA := certify(l, "a")
	fileB, pinB := certify(l, "b")
	other, _ := certify(l, "other")
	p := startPair(l, "tap", "OPENSSL-LISTEN:40839,reuseaddr,reconnect,heartbeat=0.3,source-rate=50,cert="+fileA+",fingerprint="+pinB,
		"OPENSSL:10.74.68.1:40839,reconnect,heartbeat=0.3,cert="+fileB+",fingerprint="+pinA)
	l.transfer(50<<20, p.say)
	eventually(t, "the link protocol", func() bool { return strings.Contains(p.say(), "packets are framed") }, p.say)

	// Neither a stranger with a certificate nor one without disturbs it.
	for _, options := range []string{",cert=" + other, ""} {
		stranger := l.start(on(l.b, "tunsplice", "-t", "5", "-", "OPENSSL:10.74.68.1:40839,verify=0"+options)...)
		if status := stranger.ended(); status != 1 {
			t.Errorf("a stranger ended with %d: %s", status, stranger.output())
		}
	}
	p.flows("after strangers")

	p.endA.stop(syscall.SIGKILL)
	p.stops("without the server")
	p.startA()
	p.flows("with the server back")
	p.endB.stop(syscall.SIGKILL)
	p.startB()
	p.flows("with the client back")
	p.endB.stop(syscall.SIGTERM)
	p.endA.stop(syscall.SIGTERM)
}
