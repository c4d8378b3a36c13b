package addr

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pkg/errors"
)

// fingerprint is the SHA-256 of a certificate in DER.
type fingerprint [sha256.Size]byte

// fingerprintForm is what a fingerprint begins with.
const fingerprintForm = "SHA256:"

// String returns the form that option fingerprint takes.
func (f fingerprint) String() string { return fingerprintForm + hex.EncodeToString(f[:]) }

func fingerprintOf(c *x509.Certificate) fingerprint { return sha256.Sum256(c.Raw) }

var kindFingerprint = kindOf[fingerprint]{"FINGERPRINT", need(parseFingerprint)}

// parseFingerprint reads a fingerprint as we log it, or as "openssl x509 -fingerprint -sha256" prints it.
func parseFingerprint(text string) (f fingerprint, err error) {
	digits := text
	if len(digits) > len(fingerprintForm) && strings.EqualFold(digits[:len(fingerprintForm)], fingerprintForm) {
		digits = digits[len(fingerprintForm):]
	}
	digits = strings.ReplaceAll(digits, ":", "")
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(f) {
		return f, withHint{errors.Errorf("%q is no fingerprint", text), "SHA256: and 64 hex digits, as in the log with -d -d -d, or from openssl x509 -noout -fingerprint -sha256 -in FILE"}
	}
	return fingerprint(b), nil
}

// Why a peer's certificate is not taken.
type (
	errNoCertificate struct{ server bool } // server: we are
	errWrongName     struct {
		want string
		cert *x509.Certificate
	}
	errWrongPin  struct{ got fingerprint }
	errUntrusted struct {
		err  error
		cert *x509.Certificate
	}
)

func (e errNoCertificate) Error() string {
	if e.server {
		return "the client has shown no certificate"
	}
	return "the server has shown no certificate"
}

func (e errNoCertificate) Hint() string {
	if e.server {
		return "the client needs the option cert; verify=0 here lets in clients without a certificate"
	}
	return ""
}

func (e errWrongName) Error() string {
	names := certificateNames(e.cert)
	if len(names) == 0 {
		return "the certificate of the peer is for no name at all, and not for " + printable(e.want)
	}
	more := ""
	if len(names) > 8 {
		names, more = names[:8], " and others"
	}
	return "the certificate of the peer is for " + strings.Join(names, ", ") + more + ", and not for " + e.want
}

func (e errWrongName) Hint() string {
	return "if that is the right peer: commonname=NAME says which name to expect, commonname= takes any"
}

func (e errWrongPin) Error() string {
	return "the certificate of the peer has the fingerprint " + e.got.String() + ", which is none of option fingerprint"
}

func (e errWrongPin) Hint() string {
	return "if the peer has a new certificate, and that is the one: fingerprint=" + e.got.String()
}

func (e errUntrusted) Unwrap() error { return e.err }

func (e errUntrusted) Error() string {
	const who = "the certificate of the peer "
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(e.err, &invalid) && invalid.Reason == x509.Expired:
		whose := who
		if invalid.Cert != nil && !sameCertificate(invalid.Cert, e.cert) {
			whose = who + "comes from an authority whose own certificate "
		}
		if invalid.Cert != nil && time.Now().Before(invalid.Cert.NotBefore) {
			return whose + "is not valid before " + day(invalid.Cert.NotBefore)
		}
		if invalid.Cert != nil {
			return whose + "expired on " + day(invalid.Cert.NotAfter)
		}
		return whose + "has expired or is not yet valid"
	case errors.As(e.err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return who + "is not for this use (TLS servers, TLS clients)"
	case errors.As(e.err, &unknown):
		if sameSubject(e.cert) {
			return who + "is of its own making, from no authority that is trusted"
		}
		return who + "is from an unknown authority: " + printable(e.cert.Issuer.String())
	}
	return who + "is refused: " + strings.TrimPrefix(e.err.Error(), "x509: ")
}

func (e errUntrusted) Hint() string {
	var invalid x509.CertificateInvalidError
	if errors.As(e.err, &invalid) && invalid.Reason == x509.Expired {
		return "is the clock right? fingerprint=" + fingerprintOf(e.cert).String() + " takes this certificate whatever its time"
	}
	return "cafile=FILE trusts an authority, or a certificate of its own making; fingerprint=" + fingerprintOf(e.cert).String() + " takes exactly this one (compare it with what the peer's administrator says); verify=0 takes any"
}

// verifyPeer is asked by crypto/tls at the end of each handshake, also of a resumed session.
func (s *tlsSetup) verifyPeer(state tls.ConnectionState) error {
	if !s.verify {
		return nil
	}
	if len(state.PeerCertificates) == 0 {
		return errNoCertificate{s.server}
	}
	cert := state.PeerCertificates[0]
	if len(s.pins) > 0 {
		if got := fingerprintOf(cert); !slices.Contains(s.pins, got) {
			return errWrongPin{got}
		}
		return s.verifyName(cert)
	}
	opts := x509.VerifyOptions{Roots: s.roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if s.server {
		opts.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	for _, c := range state.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := cert.Verify(opts); err != nil {
		return errUntrusted{err, cert}
	}
	return s.verifyName(cert)
}

// verifyName checks the name of a certificate. The common name counts only if there is no alternative name, as RFC 6125, 6.4.4, has it.
func (s *tlsSetup) verifyName(cert *x509.Certificate) error {
	if s.name == "" {
		return nil
	}
	if len(cert.DNSNames)+len(cert.IPAddresses) > 0 {
		if cert.VerifyHostname(s.name) == nil {
			return nil
		}
		return errWrongName{s.name, cert}
	}
	if !matchName(cert.Subject.CommonName, s.name) {
		return errWrongName{s.name, cert}
	}
	return nil
}

// matchName says whether a common name stands for a name: a star in front stands for one label (RFC 6125, 6.4.3).
func matchName(pattern, name string) bool {
	if strings.EqualFold(pattern, name) {
		return name != ""
	}
	domain, wild := strings.CutPrefix(pattern, "*.")
	if _, err := netip.ParseAddr(name); err == nil || !wild || !strings.Contains(domain, ".") {
		return false
	}
	_, parent, ok := strings.Cut(name, ".")
	return ok && strings.EqualFold(parent, domain)
}

// certificateNames are the names that a certificate is for, made printable.
func certificateNames(c *x509.Certificate) (names []string) {
	for _, n := range c.DNSNames {
		names = append(names, printable(n))
	}
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 && c.Subject.CommonName != "" {
		names = append(names, printable(c.Subject.CommonName))
	}
	return names
}
