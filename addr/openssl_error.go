package addr

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"strings"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Errors of TLS in the words of whoever has to mend them.

var errCutOff = withHint{errors.New("the connection was cut off without the farewell of TLS: data may be missing"),
	"the peer, or somebody between, has closed the connection before its end"}

// peerAlerts say what a peer means by an alert, and what to do about it; keys are the texts of crypto/tls for what RFC 8446, 6.2, calls by the name in the comment.
var peerAlerts = map[string]struct{ text, hint string }{
	"tls: bad certificate":                {"the peer does not take our certificate", "see its log; the certificate and key are options cert and key"},                                                        // bad_certificate
	"tls: unsupported certificate":        {"the peer does not take certificates like ours", "see its log"},                                                                                                   // unsupported_certificate
	"tls: revoked certificate":            {"our certificate has been revoked, says the peer", ""},                                                                                                            // certificate_revoked
	"tls: expired certificate":            {"our certificate has expired, says the peer", "are both clocks right?"},                                                                                           // certificate_expired
	"tls: unknown certificate":            {"the peer does not take our certificate", "see its log"},                                                                                                          // certificate_unknown
	"tls: unknown certificate authority":  {"the peer does not know the authority of our certificate", "there, cafile must name that authority or the certificate itself"},                                    // unknown_ca
	"tls: certificate required":           {"the peer wants a certificate of ours", "option cert=FILE"},                                                                                                       // certificate_required
	"tls: access denied":                  {"the peer takes our certificate, but does not let us in", ""},                                                                                                     // access_denied
	"tls: handshake failure":              {"the peer finds no cipher suite, version or certificate that both have, or wants a certificate of ours", "options ciphers, min-proto-version, cert; see its log"}, // handshake_failure
	"tls: protocol version not supported": {"the peer has no version of TLS in common with us", "options min-proto-version and max-proto-version, on both sides"},                                             // protocol_version
	"tls: insufficient security level":    {"the peer wants better ciphers than ours", "option ciphers"},                                                                                                      // insufficient_security
	"tls: unrecognized name":              {"the peer does not know the name that it was asked for", "option snihost, or no-sni"},                                                                             // unrecognized_name
	"tls: no certificate":                 {"the peer has no certificate", ""},
}

// alertOf returns the text of an alert that came from the peer, "" if err is something else.
func alertOf(err error) string {
	var op *net.OpError // "remote error" is how crypto/tls marks what came
	if errors.As(err, &op) && op.Op == "remote error" {
		return op.Err.Error()
	}
	return ""
}

func alertError(text string) error {
	if a, ok := peerAlerts[text]; ok {
		if a.hint == "" {
			return errors.New(a.text)
		}
		return withHint{errors.New(a.text), a.hint}
	}
	return errors.Errorf("the peer ended TLS: %s", strings.TrimPrefix(text, "tls: "))
}

// explainHandshake puts the end of a handshake into words.
func (s *tlsSetup) explainHandshake(err error, wire *tlsWire) error {
	if alert := alertOf(err); alert != "" {
		return errors.Wrap(alertError(alert), "TLS handshake")
	}
	var header tls.RecordHeaderError
	text := strings.TrimPrefix(err.Error(), "tls: ")
	switch {
	case errors.As(err, &header), strings.Contains(text, "unsupported SSLv2 handshake"):
		return s.explainNoTLS(wire.first)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		if len(wire.first) == 0 {
			return withHint{errors.New("TLS handshake: the peer closed the connection without a word"), "it may speak no TLS"}
		}
		return withHint{errors.New("TLS handshake: the peer closed the connection"), "its log may say why"}
	case strings.Contains(text, "client didn't provide a certificate"):
		return errNoCertificate{true}
	case strings.Contains(text, "offered only unsupported versions"), strings.Contains(text, "selected unsupported protocol version"):
		return withHint{errors.New("TLS handshake: the peer has no version of TLS in common with us"), "options min-proto-version and max-proto-version, on both sides"}
	case strings.Contains(text, "no cipher suite supported by both"):
		return withHint{errors.New("TLS handshake: the peer has no cipher suite in common with us"), "option ciphers, on both sides"}
	}
	return errors.Wrap(withoutPrefix(err), "TLS handshake")
}

// explainNoTLS says of a peer that speaks something else what it may be.
func (s *tlsSetup) explainNoTLS(first []byte) error {
	hint := "TCP:host:port is for servers without TLS"
	if s.server {
		hint = "it must connect with OPENSSL:host:port"
	}
	if name := relay.Foreign(first, 0); name != "" && name != "TLS" {
		return withHint{errors.Errorf("TLS handshake: the peer speaks %s", name), hint}
	}
	return withHint{errors.Errorf("TLS handshake: the peer speaks no TLS, its first bytes are %q", first[:min(len(first), 16)]), hint}
}

// explainTransfer puts an error after the handshake into words.
func (s *tlsSetup) explainTransfer(err error) error {
	if alert := alertOf(err); alert != "" {
		return alertError(alert)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errCutOff
	}
	return withoutPrefix(err)
}

// withoutPrefix takes the name of the package off an error of crypto/tls; others stay what they are.
func withoutPrefix(err error) error {
	if text, ok := strings.CutPrefix(err.Error(), "tls: "); ok {
		return errors.New("TLS: " + text)
	}
	return err
}
