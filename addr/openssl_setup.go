package addr

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
)

// tlsSetup is what the options of a TLS address come to. It is read only, but for the tickets and sessions in config.
type tlsSetup struct {
	server bool
	config *tls.Config
	verify bool
	roots  *x509.CertPool // nil: the system's
	name   string         // that the peer's certificate must be for, "" for any
	pins   []fingerprint  // if there are any, nothing else counts
	advice []string       // warnings for whoever opens the address
}

// clientSessions is how many sessions a connecting address keeps for resumption.
const clientSessions = 64

// prepareTLS reads the options of a TLS address, and the files that they name, into b.tls.
func (b *Bound) prepareTLS(server bool) error {
	s := &tlsSetup{server: server, verify: optVerify.Or(b, true), pins: optFingerprint.All(b), name: optCommonName.Or(b, "")}
	s.config = &tls.Config{
		InsecureSkipVerify:          true, // verifyPeer does it: crypto/tls knows neither names in the subject nor fingerprints
		VerifyConnection:            s.verifyPeer,
		CipherSuites:                optCiphers.Or(b, nil),
		MinVersion:                  optMinProto.Or(b, tls.VersionTLS12),
		MaxVersion:                  optMaxProto.Or(b, 0),
		DynamicRecordSizingDisabled: true, // many records leave in one write anyway
	}
	if err := b.chooseVersions(s.config); err != nil {
		return err
	}
	if err := b.checkVerification(s); err != nil {
		return err
	}
	if !server {
		host := b.Param(0)
		if ip, literal, err := parseIP(host); err == nil && literal {
			host = ip.WithZone("").String()
		}
		if host == "" {
			host = "localhost"
		}
		if !optCommonName.Given(b) && len(s.pins) == 0 {
			s.name = host
		}
		s.config.ServerName = optSNIHost.Or(b, "")
		if s.config.ServerName == "" {
			s.config.ServerName = optCommonName.Or(b, "")
		}
		if s.config.ServerName == "" {
			s.config.ServerName = host
		}
		if optNoSNI.Or(b, false) {
			if optSNIHost.Given(b) {
				return errors.New("options snihost and no-sni exclude each other")
			}
			s.config.ServerName = ""
		}
		s.config.ClientSessionCache = tls.NewLRUClientSessionCache(clientSessions)
	}
	err := b.insideFS(func() error {
		if err := b.loadCertificate(s); err != nil {
			return err
		}
		return b.loadAuthorities(s)
	})
	if err != nil {
		return err
	}
	if server {
		if s.config.Certificates == nil {
			return withHint{errors.New("a TLS server needs a certificate"),
				"option cert=FILE; to make one: openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=$(hostname) -keyout server.pem -out server.crt; cat server.crt >> server.pem"}
		}
		if s.verify {
			s.config.ClientAuth = tls.RequireAnyClientCert
			s.config.ClientCAs = s.roots // told to clients, so that they can choose
			if s.roots == nil && len(s.pins) == 0 {
				s.advice = append(s.advice, "clients need a certificate from an authority that this system trusts, by default any such client is let in: see options cafile, fingerprint and commonname; verify=0 lets anyone in")
			}
		}
	}
	b.tls = s
	return nil
}

// chooseVersions puts option method into a configuration and checks the versions.
func (b *Bound) chooseVersions(c *tls.Config) error {
	if v, given := optMethod.Get(b); given && v != 0 {
		if optMinProto.Given(b) || optMaxProto.Given(b) {
			return errors.New("option method excludes min-proto-version and max-proto-version")
		}
		c.MinVersion, c.MaxVersion = v, v
	}
	if c.MaxVersion != 0 && c.MaxVersion < c.MinVersion {
		if !optMinProto.Given(b) {
			c.MinVersion = c.MaxVersion // older ones must be asked for, and were
			return nil
		}
		return errors.Errorf("min-proto-version %s is above max-proto-version %s", tls.VersionName(c.MinVersion), tls.VersionName(c.MaxVersion))
	}
	if c.CipherSuites != nil && c.MinVersion == tls.VersionTLS13 {
		return errors.New("option ciphers is about TLS 1.2 and older, which the versions exclude")
	}
	return nil
}

// checkVerification finds options about the peer's certificate that contradict each other.
func (b *Bound) checkVerification(s *tlsSetup) error {
	for _, k := range []Key[string]{optCAFile, optCAPath} {
		if !k.Given(b) {
			continue
		}
		if len(s.pins) > 0 {
			return errors.Errorf("option %s has no say beside fingerprint: the certificate with the fingerprint is taken, whoever made it", k.opt.Name)
		}
	}
	if len(s.pins) > 0 && !s.verify {
		return errors.New("options fingerprint and verify=0 exclude each other")
	}
	return nil
}

// loadCertificate reads the own certificate.
func (b *Bound) loadCertificate(s *tlsSetup) error {
	file, given := optCert.Get(b)
	keyFile, keyGiven := optKey.Get(b)
	if !given {
		if keyGiven {
			return errors.New("option key is of no use without option cert")
		}
		return nil
	}
	if !keyGiven {
		keyFile = file
	}
	certPEM, err := readLimited(file)
	if err != nil {
		return errors.Wrap(err, "option cert")
	}
	keyPEM, err := readLimited(keyFile)
	if err != nil {
		return errors.Wrap(err, "option key")
	}
	if len(pemBlocks(certPEM, func(kind string) bool { return kind == "CERTIFICATE" })) == 0 {
		return withHint{errors.Errorf("option cert: there is no certificate in %s", file), "it must be a PEM file, with a line -----BEGIN CERTIFICATE-----"}
	}
	if err := checkKey(keyPEM, keyFile, keyGiven); err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		text := strings.TrimPrefix(err.Error(), "tls: ")
		if strings.Contains(text, "does not match") {
			return withHint{errors.Errorf("the key in %s is not that of the certificate in %s", keyFile, file), "the certificate of the server itself comes first in its file"}
		}
		return errors.Errorf("certificate %s: %s", file, text)
	}
	s.config.Certificates = []tls.Certificate{cert}
	// As OpenSSL does, a client shows its certificate also if it is from none of the authorities that the server lists: so the server can say what is wrong with it.
	s.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	switch now := time.Now(); {
	case now.After(cert.Leaf.NotAfter):
		s.advice = append(s.advice, "the own certificate "+file+" expired on "+day(cert.Leaf.NotAfter)+": peers will refuse it")
	case now.Before(cert.Leaf.NotBefore):
		s.advice = append(s.advice, "the own certificate "+file+" is not valid before "+day(cert.Leaf.NotBefore)+": peers will refuse it")
	}
	return nil
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// checkKey finds what is wrong with a file that should hold a private key.
func checkKey(text []byte, file string, given bool) error {
	keys := pemBlocks(text, func(kind string) bool { return strings.HasSuffix(kind, "PRIVATE KEY") })
	if len(keys) == 0 {
		hint := "option key=FILE names the file that has it"
		if given {
			hint = "it must be a PEM file, with a line -----BEGIN PRIVATE KEY-----"
		}
		return withHint{errors.Errorf("there is no private key in %s", file), hint}
	}
	if keys[0].Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(keys[0].Headers["Proc-Type"], "ENCRYPTED") {
		return withHint{errors.Errorf("the private key in %s is encrypted", file), "openssl pkey -in " + file + " -out plain.key; chmod 600 plain.key"}
	}
	return nil
}

// pemBlocks returns the blocks of the wanted kinds.
func pemBlocks(text []byte, wanted func(kind string) bool) (blocks []*pem.Block) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return blocks
		}
		if wanted(block.Type) {
			blocks = append(blocks, block)
		}
	}
}

// loadAuthorities reads what options cafile and capath name.
func (b *Bound) loadAuthorities(s *tlsSetup) error {
	file, haveFile := optCAFile.Get(b)
	dir, haveDir := optCAPath.Get(b)
	if !haveFile && !haveDir {
		return nil
	}
	s.roots = x509.NewCertPool()
	if haveFile {
		n, err := addAuthorities(s.roots, file)
		if err != nil {
			return errors.Wrap(err, "option cafile")
		}
		if n == 0 {
			return withHint{errors.Errorf("option cafile: there is no certificate in %s", file), "it must be a PEM file, with a line -----BEGIN CERTIFICATE-----"}
		}
	}
	if !haveDir {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return errors.Wrap(err, "option capath")
	}
	found := 0
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
			continue // hashed names are links, some to nowhere
		}
		n, err := addAuthorities(s.roots, path)
		if err != nil {
			return errors.Wrap(err, "option capath")
		}
		found += n
	}
	if found == 0 {
		return withHint{errors.Errorf("option capath: there is no certificate in a file of %s", dir), "PEM files are looked for, with whatever name"}
	}
	return nil
}

// addAuthorities adds the certificates of a PEM file to a pool and returns their number.
func addAuthorities(pool *x509.CertPool, file string) (n int, err error) {
	text, err := readLimited(file)
	if err != nil {
		return 0, err
	}
	for _, block := range pemBlocks(text, func(kind string) bool {
		return slices.Contains([]string{"CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CERTIFICATE"}, kind)
	}) {
		der := block.Bytes
		if block.Type == "TRUSTED CERTIFICATE" { // OpenSSL puts its opinion behind the certificate
			der = firstElement(der)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return n, errors.Errorf("certificate %d in %s: %s", n+1, file, strings.TrimPrefix(err.Error(), "x509: "))
		}
		pool.AddCert(cert)
		n++
	}
	return n, nil
}

// maxSetupFile bounds what is read of a file that an option names: enough for all authorities of the world.
const maxSetupFile = 16 << 20

// readLimited reads a file of at most maxSetupFile bytes; it may be a pipe, as <(command) of a shell is.
func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSetupFile+1))
	if err == nil && len(text) > maxSetupFile {
		err = errors.Errorf("%s: has more than %d bytes", path, maxSetupFile)
	}
	return text, err
}

// advise logs the warnings about the options.
func (s *tlsSetup) advise(log *relay.Log, label string) {
	for _, a := range s.advice {
		log.Warnf("%s: %s", label, a)
	}
}

// firstElement returns the first element of DER that holds several.
func firstElement(der []byte) []byte {
	if len(der) < 4 || der[1] != 0x82 { // a certificate is longer than 255 bytes and shorter than 65536
		return der
	}
	return der[:min(len(der), 4+int(der[2])<<8+int(der[3]))]
}

// sameCertificate says whether two certificates are the same, byte for byte.
func sameCertificate(a, b *x509.Certificate) bool { return bytes.Equal(a.Raw, b.Raw) }
