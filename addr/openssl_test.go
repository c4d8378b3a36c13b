package addr

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
)

// tlsPair is a listening address and the port it listens on.
func (h *host) tlsServer(options string) (src Source, port string) {
	h.t.Helper()
	port = freePort(h.t, "tcp")
	return h.source("OPENSSL-LISTEN:"+port+",reuseaddr,bind=127.0.0.1"+options, ReadWrite), port
}

// accepting returns what Next of a source returns.
func accepting(h *host, src Source) <-chan *relay.Endpoint {
	got := make(chan *relay.Endpoint, 1)
	ctx, cancel := context.WithTimeout(h.ctx, testTimeout)
	h.t.Cleanup(cancel)
	go func() {
		ep, err := src.Next(ctx)
		if err != nil {
			ep = nil
		}
		got <- ep
	}()
	return got
}

// joined opens a TLS connection between two addresses of ours.
func (h *host) joined(server, client string) (s, c *relay.Endpoint) {
	h.t.Helper()
	src, port := h.tlsServer(server)
	got := accepting(h, src)
	c = h.open("OPENSSL:127.0.0.1:"+port+client, ReadWrite)
	if s = <-got; s == nil {
		h.t.Fatal("no client came")
	}
	h.t.Cleanup(func() { s.Close() })
	return s, c
}

// exchange sends a text each way and ends both.
func exchange(t *testing.T, a, b *relay.Endpoint) {
	t.Helper()
	for _, pair := range [][2]*relay.Endpoint{{a, b}, {b, a}} {
		writeText(t, pair[0].W, "hello")
		if err := pair[0].W.CloseWrite(); err != nil {
			t.Error(err)
		}
		if got := readAll(t, pair[1].R); got != "hello" {
			t.Errorf("read %q", got)
		}
	}
}

func TestTLSBothWays(t *testing.T) {
	c := newCertificates(t)
	ca := c.make("authority", nil, authority)
	c.make("server", ca, forNames("server.test", "*.wild.test"), forIPs("127.0.0.1"))
	c.makeRSA("rsaserver", ca, forIPs("127.0.0.1"))
	client := c.make("client", ca)
	trust := ",cafile=" + c.path("authority.crt")
	server := ",cert=" + c.path("server.pem")
	for _, v := range []struct{ name, server, client string }{
		{"verified", server + trust, trust + ",cert=" + c.path("client.pem")},
		{"key apart", ",cert=" + c.path("server.crt") + ",key=" + c.path("server.key") + ",verify=0", trust},
		{"rsa", ",cert=" + c.path("rsaserver.pem") + ",verify=0", trust},
		{"other name", server + ",verify=0", trust + ",commonname=server.test"},
		{"wildcard", server + ",verify=0", trust + ",commonname=a.wild.test"},
		{"any name", server + ",verify=0", trust + ",commonname="},
		{"client's name", server + trust + ",commonname=client", trust + ",cert=" + c.path("client.pem")},
		{"nothing checked", server + ",verify=0", ",verify=0"},
		{"pinned", server + ",fingerprint=" + fingerprintOf(ca.cert).String() + ",fingerprint=" + fingerprintOf(client.cert).String(), trust + ",cert=" + c.path("client.pem")},
		{"directory", server + ",verify=0", ",capath=" + c.dir},
		{"TLS 1.2", server + ",verify=0,max-version=TLS1.2", trust},
		{"old", server + ",verify=0,method=TLS1.1", trust + ",min-proto-version=TLS1"},
		{"cipher", server + ",verify=0,ciphers=ECDHE+CHACHA20,openssl-max-proto-version=TLS1.2", trust},
	} {
		t.Run(v.name, func(t *testing.T) {
			h := newHost(t)
			a, b := h.joined(v.server, v.client)
			if !a.CanAnswer || a.Traffic != relay.Stream || fileOf(a) != nil {
				t.Errorf("endpoint: %+v", a)
			}
			exchange(t, a, b)
			switch v.name {
			case "cipher":
				h.waitLog("TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305")
			case "old":
				h.waitLog("TLSv1.1 ECDHE-ECDSA-AES")
			case "TLS 1.2":
				h.waitLog("TLSv1.2 ECDHE-ECDSA-AES")
			}
		})
	}
}

// TestTLSRefusals looks for the words that either side has for what is wrong, and for their hints.
func TestTLSRefusals(t *testing.T) {
	c := newCertificates(t)
	ca := c.make("authority", nil, authority)
	c.make("server", ca, forNames("server.test"), forIPs("127.0.0.1"))
	c.make("expired", ca, forIPs("127.0.0.1"), between(-2*time.Hour, -time.Hour))
	c.make("future", ca, forIPs("127.0.0.1"), between(time.Hour, 2*time.Hour))
	c.make("elsewhere", ca, forNames("a.test", "b.test"))
	c.make("named", ca)
	stranger := c.make("stranger", nil, forIPs("127.0.0.1"))
	c.make("clientonly", ca, forIPs("127.0.0.1"), forUse(x509.ExtKeyUsageClientAuth))
	trust := ",cafile=" + c.path("authority.crt")
	open := func(name string) string { return ",cert=" + c.path(name+".pem") + ",verify=0" }
	checks := ",cert=" + c.path("server.pem") + trust
	for _, v := range []struct{ name, server, client, atServer, atClient, hint string }{
		{"expired", open("expired"), trust, "the peer does not take our certificate", "expired on 20", "fingerprint=SHA256:"},
		{"future", open("future"), trust, "", "is not valid before 20", "is the clock right?"},
		{"name", open("elsewhere"), trust, "", "is for a.test, b.test, and not for 127.0.0.1", "commonname=NAME"},
		{"no name", open("named"), trust, "", "is for named, and not for 127.0.0.1", "commonname=NAME"},
		{"unknown", open("server"), "", "", "is from an unknown authority: CN=authority", "cafile=FILE"},
		{"self-made", open("stranger"), "", "", "is of its own making", "fingerprint=" + fingerprintOf(stranger.cert).String()},
		{"wrong pin", open("server"), ",fingerprint=" + fingerprintOf(ca.cert).String(), "", "which is none of option fingerprint", "fingerprint=SHA256:"},
		{"wrong use", open("clientonly"), trust, "", "is not for this use", ""},
		{"pin and name", open("stranger"), ",commonname=other,fingerprint=" + fingerprintOf(stranger.cert).String(), "", "and not for other", ""},
		{"versions", open("server") + ",min-version=TLS1.3", trust + ",max-version=TLS1.2", "no version of TLS in common", "no version of TLS in common", "min-proto-version"},
		{"ciphers", open("server") + ",max-version=TLS1.2,ciphers=ECDHE+AESGCM", trust + ",ciphers=CHACHA20", "no cipher suite in common", "the peer finds no cipher suite", "ciphers"},
		{"no client certificate", checks, trust, "the client has shown no certificate", "", "option cert"},
		{"strange client", checks, trust + ",cert=" + c.path("stranger.pem"), "is of its own making", "", ""},
		{"client's name", checks + ",commonname=server.test", trust + ",cert=" + c.path("named.pem"), "is for named, and not for server.test", "", ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			h := newHost(t)
			src, port := h.tlsServer(v.server)
			accepting(h, src)
			ep, err := tryEndpoint(h.env, ReadWrite, "OPENSSL:127.0.0.1:"+port+v.client)
			if err == nil { // with TLS 1.3 a client learns later what its certificate is worth
				_, err = ep.R.Read(make([]byte, 1))
				ep.Close()
			}
			if err == nil || !strings.Contains(err.Error(), v.atClient) || v.atClient != "" && !strings.Contains(Hint(err), v.hint) {
				t.Errorf("client: %v (%s)", err, Hint(err))
			}
			if v.atServer != "" {
				h.waitLog("peer refused: ")
				h.waitLog(v.atServer)
			} else if v.atClient == "" {
				t.Error("nothing is wanted")
			}
			if v.atClient == "" && v.hint != "" {
				h.waitLog(v.hint)
			}
		})
	}
}

// TestTLSForeign has peers that speak no TLS.
func TestTLSForeign(t *testing.T) {
	c := newCertificates(t)
	c.make("server", nil)
	for _, v := range []struct{ say, want string }{
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "the peer speaks HTTP"},
		{"SSH-2.0-OpenSSH_9.2\r\n", "the peer speaks SSH"},
		{"what is this", `the peer speaks no TLS, its first bytes are "what is this"`},
		{"\x16\x03\x01\x00", "the peer closed the connection"},
		{"", "closed the connection without a word"},
	} {
		h := newHost(t)
		src, port := h.tlsServer(",verify=0,cert=" + c.path("server.pem"))
		accepting(h, src)
		conn := dialTest(t, "127.0.0.1:"+port, v.say)
		conn.(*net.TCPConn).CloseWrite()
		h.waitLog("peer refused: TLS handshake: ")
		h.waitLog(v.want)

		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if conn, err := l.Accept(); err == nil {
				io.WriteString(conn, v.say)
				conn.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, conn)
				conn.Close()
			}
		}()
		_, err = tryEndpoint(h.env, ReadWrite, "OPENSSL:"+l.Addr().String())
		l.Close()
		if err == nil || !strings.Contains(err.Error(), v.want) {
			t.Errorf("%q: %v", v.say, err)
		}
	}
}

func TestTLSBindMistakes(t *testing.T) {
	c := newCertificates(t)
	c.make("a", nil)
	c.make("b", nil)
	c.write("empty", nil)
	c.write("locked.key", []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"))
	pin := fingerprintForm + strings.Repeat("ab", 32)
	cert := ",cert=" + c.path("a.pem")
	for _, v := range []struct{ text, want, hint string }{
		{"OPENSSL-LISTEN:1", "needs a certificate", "openssl req -x509"},
		{"OPENSSL-LISTEN:1,cert=/nowhere", "option cert: open /nowhere", ""},
		{"OPENSSL-LISTEN:1,cert=" + c.path("empty"), "there is no certificate in", "PEM"},
		{"OPENSSL-LISTEN:1,cert=" + c.path("a.crt"), "there is no private key in", "option key=FILE"},
		{"OPENSSL-LISTEN:1,cert=" + c.path("a.crt") + ",key=" + c.path("b.key"), "is not that of the certificate", ""},
		{"OPENSSL-LISTEN:1,cert=" + c.path("a.crt") + ",key=" + c.path("locked.key"), "is encrypted", "openssl pkey"},
		{"OPENSSL-LISTEN:1,cert=/dev/zero", "has more than", ""},
		{"OPENSSL:h:1,key=" + c.path("a.key"), "without option cert", ""},
		{"OPENSSL:h:1,cafile=" + c.path("empty"), "there is no certificate in", ""},
		{"OPENSSL:h:1,capath=" + t.TempDir(), "there is no certificate in a file of", ""},
		{"OPENSSL:h:1,fingerprint=" + pin + ",verify=0", "exclude each other", ""},
		{"OPENSSL:h:1,fingerprint=" + pin + ",cafile=" + c.path("a.crt"), "no say beside fingerprint", ""},
		{"OPENSSL:h:1,fingerprint=SHA256:abc", "is no fingerprint", ""},
		{"OPENSSL:h:1,snihost=a,nosni", "exclude each other", ""},
		{"OPENSSL:h:1,method=SSL3", "SSL3 is broken", ""},
		{"OPENSSL:h:1,method=DTLS1", "is for datagrams", ""},
		{"OPENSSL:h:1,method=TLS1.2,min-version=TLS1.2", "excludes", ""},
		{"OPENSSL:h:1,min-version=TLS1.3,max-version=TLS1.2", "is above", ""},
		{"OPENSSL:h:1,min-version=TLS2", "unknown version of TLS", ""},
		{"OPENSSL:h:1,ciphers=AES512-SHA", "unknown cipher suite", ""},
		{"OPENSSL:h:1,ciphers=TLS_AES_128_GCM_SHA256", "always all on", ""},
		{"OPENSSL:h:1,ciphers=RC4", "weak suites only", ""},
		{"OPENSSL:h:1,ciphers=AESGCM:!AES", "no cipher suite is left", ""},
		{"OPENSSL:h:1,ciphers=HIGH,min-version=TLS1.3", "about TLS 1.2", ""},
		{"OPENSSL:h:1,compress=zlib", "unknown method of compression", ""},
		{"OPENSSL:h:1,fips", "no FIPS mode", ""},
		{"OPENSSL:h:1,maxfraglen=512", "can't be asked", ""},
		{"OPENSSL:h:1,maxsendfrag=100", "out of range", ""},
		{"OPENSSL:h:nowhere", "unknown service", ""},
	} {
		spec, err := Parse(v.text)
		if err == nil {
			_, err = Bind(spec, BindConfig{Mode: ReadWrite})
		}
		if err == nil || !strings.Contains(err.Error(), v.want) || !strings.Contains(Hint(err), v.hint) {
			t.Errorf("%s: %v (%s)", v.text, err, Hint(err))
		}
	}
	for _, good := range []string{"SSL:h:1,compress=auto,fips=0,maxfraglen=0,fingerprint=" + strings.ToUpper(strings.TrimSuffix(strings.Repeat("ab:", 32), ":")),
		"openssl-connect:h:1,ciphers=DEFAULT:!aNULL:!SHA1:+AES256:@STRENGTH,openssl-method=TLS", "SSL-L:1,verify=0" + cert} {
		mustBind(t, good, ReadWrite)
	}
}

func TestTLSUnusedOptionsAreNamed(t *testing.T) {
	c := newCertificates(t)
	c.make("server", nil)
	h := newHost(t)
	h.joined(",verify=0,dhparam=/nowhere,cert="+c.path("server.pem"), ",verify=0,egd=/x,pseudo")
	for _, name := range []string{"dhparam", "egd", "pseudo"} {
		h.waitLog(`option "` + name + `" has no effect here`)
	}
}

func TestTLSEnd(t *testing.T) {
	c := newCertificates(t)
	c.make("server", nil)
	server := ",verify=0,cert=" + c.path("server.pem")
	dial := func(h *host) (*relay.Endpoint, *tls.Conn) {
		src, port := h.tlsServer(server)
		got := accepting(h, src)
		conn, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(func() { conn.Close() })
		ep := <-got
		h.t.Cleanup(func() { ep.Close() })
		return ep, conn
	}
	t.Run("farewell", func(t *testing.T) {
		ep, conn := dial(newHost(t))
		io.WriteString(conn, "last words")
		conn.CloseWrite()
		if got := readAll(t, ep.R); got != "last words" {
			t.Errorf("read %q", got)
		}
		writeText(t, ep.W, "after the end of the other direction")
		ep.Close()
		if got := readAll(t, conn); got != "after the end of the other direction" {
			t.Errorf("read %q", got)
		}
	})
	t.Run("cut off", func(t *testing.T) {
		ep, conn := dial(newHost(t))
		io.WriteString(conn, "half of it")
		conn.NetConn().Close()
		if got, err := io.ReadAll(ep.R); string(got) != "half of it" || !errors.Is(err, errCutOff) {
			t.Errorf("read %q, %v", got, err)
		}
	})
	t.Run("garbage", func(t *testing.T) {
		ep, conn := dial(newHost(t))
		conn.NetConn().Write([]byte("\x17\x03\x03\x00\x20this is no ciphertext, it's clear"))
		if got, err := io.ReadAll(ep.R); len(got) > 0 || err == nil || !strings.Contains(err.Error(), "bad record MAC") {
			t.Errorf("read %q, %v", got, err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		ep, conn := dial(newHost(t))
		ep.R.SetReadDeadline(time.Unix(1, 0))
		if _, err := ep.R.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "timeout") {
			t.Error(err)
		}
		ep.R.SetReadDeadline(time.Time{})
		io.WriteString(conn, "later")
		if got := readOne(t, ep.R); got != "later" {
			t.Errorf("read %q", got)
		}
	})
	t.Run("peer does not read", func(t *testing.T) {
		ep, _ := dial(newHost(t))
		ep.W.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		var err error
		for err == nil {
			_, err = ep.W.Write(make([]byte, 1<<20))
		}
		if !strings.Contains(err.Error(), "timeout") {
			t.Error(err)
		}
		start := time.Now()
		ep.Close()
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("closing took %s", took)
		}
	})
}

// TestTLSWriteOnly looks that whoever only writes learns that it was refused.
func TestTLSWriteOnly(t *testing.T) {
	c := newCertificates(t)
	c.make("server", nil, forIPs("127.0.0.1"))
	trust := ",cafile=" + c.path("server.crt")
	h := newHost(t)
	src, port := h.tlsServer(",cert=" + c.path("server.pem") + trust)
	accepting(h, src)
	got := relayed(t, "important", "-u", "-", "OPENSSL:127.0.0.1:"+port+trust)
	if got.status != 1 || !strings.Contains(got.err, "the peer wants a certificate of ours") {
		t.Errorf("status %d, %s", got.status, got.err)
	}
	got = relayed(t, "important", "-u", "-", "OPENSSL:127.0.0.1:"+port+trust+",cert="+c.path("server.pem"))
	if got.status != 0 || got.err != "" {
		t.Errorf("status %d, %s", got.status, got.err)
	}
}

func TestTLSMuchData(t *testing.T) {
	c := newCertificates(t)
	c.make("server", nil)
	for _, options := range []string{"", ",maxsendfrag=777"} {
		h := newHost(t)
		a, b := h.joined(",verify=0,cert="+c.path("server.pem")+options, ",verify=0"+options)
		const size = 8 << 20
		sent := make(chan []byte, 2)
		for _, ep := range []*relay.Endpoint{a, b} {
			go func() {
				sum := sha256.New()
				for n, piece := 0, 1; n < size; n += piece {
					piece = min(size-n, (piece*7+13)%(300<<10)+1)
					p := bytes.Repeat([]byte{byte(n), byte(n >> 8), byte(piece)}, piece/3+1)[:piece]
					sum.Write(p)
					if _, err := ep.W.Write(p); err != nil {
						t.Error(err)
						break
					}
				}
				ep.W.CloseWrite()
				sent <- sum.Sum(nil)
			}()
		}
		received := make(chan []byte, 2)
		for _, ep := range []*relay.Endpoint{a, b} {
			go func() {
				sum := sha256.New()
				if n, err := io.Copy(sum, ep.R); n != size || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
				received <- sum.Sum(nil)
			}()
		}
		for range 2 {
			if s, r := <-sent, <-received; !bytes.Equal(s, r) {
				t.Error("not what was sent")
			}
		}
	}
}

// TestTLSCrowd has many connections that say nothing, and a client that speaks.
func TestTLSCrowd(t *testing.T) {
	c := newCertificates(t)
	c.make("server", nil)
	h := newHost(t)
	src, port := h.tlsServer(",verify=0,fork,backlog=4096,max-children=2,cert=" + c.path("server.pem"))
	got := accepting(h, src)
	for range 3 * maxHandshakes {
		dialTest(t, "127.0.0.1:"+port, "\x16")
	}
	b := h.open("OPENSSL:127.0.0.1:"+port+",verify=0", ReadWrite)
	a := <-got
	if a == nil {
		t.Fatal("no client came")
	}
	exchange(t, a, b)
	a.Close()
	src.Close()
}

func TestTLSResumes(t *testing.T) {
	c := newCertificates(t)
	c.make("server", nil, forIPs("127.0.0.1"))
	c.make("client", nil)
	h := newHost(t)
	src, port := h.tlsServer(",fork,cafile=" + c.path("client.crt") + ",cert=" + c.path("server.pem"))
	dialer := h.source("OPENSSL:127.0.0.1:"+port+",fork,interval=0,cafile="+c.path("server.crt")+",cert="+c.path("client.pem"), ReadWrite)
	for range 3 {
		got := accepting(h, src)
		b := h.next(dialer)
		a := <-got
		if a == nil {
			t.Fatal("no client came")
		}
		exchange(t, a, b)
		if !slices.Contains(a.Env, "OPENSSL_X509_COMMONNAME=client") {
			t.Errorf("%q", a.Env)
		}
		a.Close()
		b.Close()
	}
	h.waitLog("resumed, certificate SHA256:")
}

// TestTLSAgainstSocat compares what programs get to know, and moves data both ways.
func TestTLSAgainstSocat(t *testing.T) {
	c := newCertificates(t)
	ca := c.make("authority", nil, authority)
	c.make("localhost", ca, forNames("localhost", "other.test"), forIPs("127.0.0.1"))
	c.make("client", ca, func(c *x509.Certificate) {
		c.Subject.Country, c.Subject.Organization, c.Subject.OrganizationalUnit = []string{"XY"}, []string{"Works, Inc"}, []string{"a", "b"}
		c.DNSNames = []string{"one.test", "two.test"}
	})
	server := ",cert=" + c.path("localhost.pem") + ",cafile=" + c.path("authority.crt")
	client := ",cert=" + c.path("client.pem") + ",cafile=" + c.path("authority.crt")
	vars := func(out string) (names []string) {
		for line := range strings.Lines(out) {
			name, _, _ := strings.Cut(line, "=")
			if strings.HasPrefix(name, "SOCAT_OPENSSL_") && name != "SOCAT_OPENSSL_X509_FINGERPRINT" {
				names = append(names, strings.TrimSpace(line))
			}
		}
		slices.Sort(names)
		return names
	}
	show := "SYSTEM:env; cat"
	// socat serves us.
	port := freePort(t, "tcp")
	s := plainSocat(t, "OPENSSL-LISTEN:"+port+",reuseaddr,bind=127.0.0.1"+server, show)
	s.stderr.wait(t, "listening on")
	theirs := relayed(t, "to socat", "-t", "5", "-", "OPENSSL:localhost:"+port+client)
	if theirs.status != 0 || !strings.Contains(theirs.out, "to socat") {
		t.Errorf("status %d: %s %s", theirs.status, theirs.out, theirs.err)
	}
	// And we serve socat.
	h := newHost(t)
	src, port := h.tlsServer(server)
	got := accepting(h, src)
	p := plainSocat(t, "-", "OPENSSL:localhost:"+port+client)
	ep := <-got
	if ep == nil {
		t.Fatalf("socat does not come: %s", p.stderr.String())
	}
	defer ep.Close()
	io.WriteString(p.in, "to us")
	p.in.Close()
	if got := readAll(t, ep.R); got != "to us" {
		t.Errorf("read %q", got)
	}
	writeText(t, ep.W, "to socat")
	ep.W.CloseWrite()
	if got := p.end(); got != "to socat" {
		t.Errorf("socat read %q", got)
	}
	ours := vars("SOCAT_" + strings.Join(ep.Env, "\nSOCAT_"))
	theirVars := vars(theirs.out)
	if !slices.Equal(ours, theirVars) || len(ours) < 8 {
		t.Errorf("variables:\n%s\nsocat's:\n%s", strings.Join(ours, "\n"), strings.Join(theirVars, "\n"))
	}
}

// TestTLSAgainstOpenSSL talks to the programs of OpenSSL.
func TestTLSAgainstOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	c := newCertificates(t)
	c.make("ec", nil, forNames("localhost"), forIPs("127.0.0.1"))
	c.makeRSA("rsa", nil, forNames("localhost"), forIPs("127.0.0.1"))
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		for _, key := range []string{"ec", "rsa"} {
			t.Run(key+version, func(t *testing.T) {
				h := newHost(t)
				src, port := h.tlsServer(",cert=" + c.path(key+".pem") + ",cafile=" + c.path(key+".crt"))
				got := accepting(h, src)
				cmd := exec.Command("openssl", "s_client", version, "-quiet", "-connect", "127.0.0.1:"+port, "-CAfile", c.path(key+".crt"), "-verify_return_error",
					"-verify_ip", "127.0.0.1", "-cert", c.path(key+".crt"), "-key", c.path(key+".key"))
				talk(t, cmd, func() *relay.Endpoint { return <-got })

				port = freePort(t, "tcp")
				cmd = exec.Command("openssl", "s_server", version, "-quiet", "-naccept", "1", "-accept", "127.0.0.1:"+port, "-cert", c.path(key+".crt"), "-key", c.path(key+".key"),
					"-Verify", "1", "-CAfile", c.path(key+".crt"), "-verify_return_error")
				talk(t, cmd, func() *relay.Endpoint {
					return h.open("OPENSSL:localhost:"+port+",retry=100,interval=0.05,cafile="+c.path(key+".crt")+",cert="+c.path(key+".pem"), ReadWrite)
				})
			})
		}
	}
}

// talk exchanges a line each way with a program that speaks TLS.
func talk(t *testing.T, cmd *exec.Cmd, open func() *relay.Endpoint) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr lockedBuffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	ep := open()
	if ep == nil {
		t.Fatalf("no connection: %s", stderr.String())
	}
	defer ep.Close()
	io.WriteString(in, "from openssl\n")
	if got := readOne(t, ep.R); got != "from openssl\n" {
		t.Errorf("read %q", got)
	}
	writeText(t, ep.W, "to openssl\n")
	p := make([]byte, len("to openssl\n"))
	if _, err := io.ReadFull(out, p); err != nil || string(p) != "to openssl\n" {
		t.Errorf("openssl read %q, %v: %s", p, err, stderr.String())
	}
}

func TestCipherNames(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	out, err := exec.Command("openssl", "ciphers", "-V", "ALL:@SECLEVEL=0").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for id, name := range opensslSuites {
		// 0xC0,0x2B - ECDHE-ECDSA-AES128-GCM-SHA256 ...
		code := "0x" + strings.ToUpper(hexByte(id>>8)) + ",0x" + strings.ToUpper(hexByte(id)) + " - "
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, code) {
				found++
				if !strings.Contains(line, code+name+" ") {
					t.Errorf("%s: %s", name, line)
				}
			}
		}
	}
	if found < 15 {
		t.Errorf("openssl knows only %d", found)
	}
}

func hexByte(n uint16) string {
	return string([]byte{"0123456789abcdef"[n>>4&15], "0123456789abcdef"[n&15]})
}
