package addr

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// certificates makes certificates in a directory: NAME.crt, NAME.key, and both in NAME.pem.
type certificates struct {
	t   *testing.T
	dir string
}

func newCertificates(t *testing.T) *certificates { return &certificates{t, t.TempDir()} }

// path returns the path of a file.
func (c *certificates) path(name string) string { return filepath.Join(c.dir, name) }

// issued is a certificate with its key.
type issued struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// with changes what make makes.
type with func(c *x509.Certificate)

func forNames(dns ...string) with { return func(c *x509.Certificate) { c.DNSNames = dns } }

func forIPs(ips ...string) with {
	return func(c *x509.Certificate) {
		for _, ip := range ips {
			c.IPAddresses = append(c.IPAddresses, net.ParseIP(ip))
		}
	}
}

func between(from, until time.Duration) with {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(until) }
}

func forUse(use x509.ExtKeyUsage) with {
	return func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{use} }
}

func authority(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
}

// make makes a certificate with the common name name, signed by the authority by, or by itself if that is nil.
func (c *certificates) make(name string, by *issued, changes ...with) *issued {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.sign(name, by, key, changes...)
}

// makeRSA is make with an RSA key.
func (c *certificates) makeRSA(name string, by *issued, changes ...with) *issued {
	c.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.sign(name, by, key, changes...)
}

func (c *certificates) sign(name string, by *issued, key crypto.Signer, changes ...with) *issued {
	c.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		c.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	for _, change := range changes {
		change(template)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	c.write(name+".crt", certPEM)
	c.write(name+".key", keyPEM)
	c.write(name+".pem", append(keyPEM, certPEM...))
	return &issued{cert, key}
}

func (c *certificates) write(name string, text []byte) {
	c.t.Helper()
	if err := os.WriteFile(c.path(name), text, 0o600); err != nil {
		c.t.Fatal(err)
	}
}
