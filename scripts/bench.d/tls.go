package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"time"
)

// The client and the server of these cases speak Go's TLS, which costs the same with every program. No session is resumed. Nobody checks certificates: the cost of that is the client's.

func tlsCases() []benchCase {
	relay := func(t relayTask) func(*bench, *program) ([]figure, error) {
		return func(b *bench, p *program) ([]figure, error) { return b.relayed(p, t, 1, false) }
	}
	return []benchCase{
		{name: "tls-in", doc: "TLS to TCP, one connection", suits: relays, run: relay(relayTask{tlsIn: true}), aims: []aim{{gbits, best, 1}}},
		{name: "tls-out", doc: "TCP to TLS, one connection", suits: relays, run: relay(relayTask{tlsOut: true}), aims: []aim{{gbits, best, 1}}},
		{name: "tls-handshakes", doc: "TLS to TCP, handshake, one byte there and back, close; 8 at a time, with fork",
			suits: relaysPlain,
			run:   func(b *bench, p *program) ([]figure, error) { return b.connect(p, relayTask{fork: true, tlsIn: true}) },
			aims:  []aim{{"connections/s", "socat", 1}, {"connections/s", "haproxy", 1}, {"connections/s", "nginx", 0.9}}},
	}
}

// An identity is a self-signed certificate (ECDSA, P-256) in files.
type identity struct {
	cert, key, both string // PEM files
	fingerprint     string // SHA-256 of the certificate, hexadecimal with colons
	pair            tls.Certificate
}

// identity returns the identity of that name, the same for the whole run.
func (b *bench) identity(name string) (*identity, error) {
	if id := b.identities[name]; id != nil {
		return id, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	certText := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	keyText := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	id := &identity{cert: b.work + "/" + name + ".crt", key: b.work + "/" + name + ".key", both: b.work + "/" + name + ".pem",
		pair: tls.Certificate{Certificate: [][]byte{cert}, PrivateKey: key}}
	for file, text := range map[string][]byte{id.cert: certText, id.key: keyText, id.both: append(certText, keyText...)} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return nil, err
		}
	}
	id.fingerprint = strings.ReplaceAll(fmt.Sprintf("% X", sha256.Sum256(cert)), " ", ":")
	b.identities[name] = id
	return id, nil
}

func tlsClient(c net.Conn) (net.Conn, error) {
	t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.CurveP256}}) // socat and nginx take no other, and would ask again
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if err := t.Handshake(); err != nil {
		c.Close()
		return nil, err
	}
	c.SetDeadline(time.Time{})
	return t, nil
}

// tlsServer makes no handshake yet: reading does.
func tlsServer(c net.Conn, id *identity) net.Conn {
	return tls.Server(c, &tls.Config{Certificates: []tls.Certificate{id.pair}})
}
