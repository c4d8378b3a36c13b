package addr

import (
	"crypto/tls"
	"slices"
	"strings"

	"github.com/pkg/errors"
)

// tlsVersions are the names of protocol versions as socat has them, in upper case; nothing older than TLS 1.0 is spoken.
var tlsVersions = map[string]uint16{"TLS1": tls.VersionTLS10, "TLS1.0": tls.VersionTLS10, "TLS1.1": tls.VersionTLS11, "TLS1.2": tls.VersionTLS12, "TLS1.3": tls.VersionTLS13}

var kindTLSVersion = kindOf[uint16]{"STRING", need(parseTLSVersion)}

func parseTLSVersion(text string) (uint16, error) {
	name := strings.Replace(strings.ToUpper(text), "TLSV", "TLS", 1)
	if v, ok := tlsVersions[name]; ok {
		return v, nil
	}
	hint := "TLS1.0, TLS1.1, TLS1.2 and TLS1.3 are there"
	if strings.HasPrefix(name, "SSL") {
		return 0, withHint{errors.Errorf("%s is broken and not spoken any more", text), hint}
	}
	return 0, withHint{errors.Errorf("unknown version of TLS %q", text), hint}
}

// kindTLSMethod is the one version of option method, 0 for any.
var kindTLSMethod = kindOf[uint16]{"STRING", need(func(text string) (uint16, error) {
	switch strings.ToUpper(text) {
	case "TLS", "SSL23", "SSL23ANY":
		return 0, nil
	case "DTLS", "DTLS1", "DTLS1.0", "DTLS1.2":
		return 0, withHint{errors.Errorf("%s is for datagrams, this address speaks TLS", text), "leave the option out"}
	}
	return parseTLSVersion(text)
})}

var kindCompress = kindOf[string]{"STRING", need(func(text string) (string, error) {
	if text != "none" && text != "auto" {
		return "", withHint{errors.Errorf("unknown method of compression %q", text), "none and auto are there, and both mean none"}
	}
	return text, nil
})}

// opensslSuites are OpenSSL's names of the suites of TLS 1.2 and older that crypto/tls has (openssl-ciphers(1)).
var opensslSuites = map[uint16]string{
	tls.TLS_RSA_WITH_RC4_128_SHA:                      "RC4-SHA",
	tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA:                 "DES-CBC3-SHA",
	tls.TLS_RSA_WITH_AES_128_CBC_SHA:                  "AES128-SHA",
	tls.TLS_RSA_WITH_AES_256_CBC_SHA:                  "AES256-SHA",
	tls.TLS_RSA_WITH_AES_128_CBC_SHA256:               "AES128-SHA256",
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256:               "AES128-GCM-SHA256",
	tls.TLS_RSA_WITH_AES_256_GCM_SHA384:               "AES256-GCM-SHA384",
	tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA:              "ECDHE-ECDSA-RC4-SHA",
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA:          "ECDHE-ECDSA-AES128-SHA",
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA:          "ECDHE-ECDSA-AES256-SHA",
	tls.TLS_ECDHE_RSA_WITH_RC4_128_SHA:                "ECDHE-RSA-RC4-SHA",
	tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA:           "ECDHE-RSA-DES-CBC3-SHA",
	tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA:            "ECDHE-RSA-AES128-SHA",
	tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA:            "ECDHE-RSA-AES256-SHA",
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256:       "ECDHE-ECDSA-AES128-SHA256",
	tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256:         "ECDHE-RSA-AES128-SHA256",
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:         "ECDHE-RSA-AES128-GCM-SHA256",
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:       "ECDHE-ECDSA-AES128-GCM-SHA256",
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:         "ECDHE-RSA-AES256-GCM-SHA384",
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       "ECDHE-ECDSA-AES256-GCM-SHA384",
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:   "ECDHE-RSA-CHACHA20-POLY1305",
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: "ECDHE-ECDSA-CHACHA20-POLY1305",
}

// suiteName is OpenSSL's name of a suite. Those of TLS 1.3 have the same name everywhere.
func suiteName(id uint16) string {
	if name, ok := opensslSuites[id]; ok {
		return name
	}
	return tls.CipherSuiteName(id)
}

// suiteWords are words of OpenSSL's cipher lists that stand for many suites: by the parts of OpenSSL's name that a suite must have, and must not have.
var suiteWords = map[string]struct{ has, lacks string }{
	"ECDHE": {"ECDHE-", ""}, "EECDH": {"ECDHE-", ""}, "KECDHE": {"ECDHE-", ""}, "KEECDH": {"ECDHE-", ""},
	"AECDSA": {"ECDSA-", ""}, "ECDSA": {"ECDSA-", ""}, "KRSA": {"", "ECDHE-"}, "RSA": {"", "ECDHE-"}, "ARSA": {"", "ECDSA-"},
	"AES": {"AES", ""}, "AES128": {"AES128", ""}, "AES256": {"AES256", ""}, "AESGCM": {"-GCM-", ""}, "CHACHA20": {"CHACHA20", ""},
	"3DES": {"DES-CBC3", ""}, "RC4": {"RC4", ""}, "SHA1": {"-SHA", "-SHA256 -SHA384"}, "SHA": {"-SHA", "-SHA256 -SHA384"},
	"SHA256": {"-SHA256", ""}, "SHA384": {"-SHA384", ""},
}

// absentWords stand for suites that crypto/tls has none of; to leave these out is easily done.
const absentWords = " ANULL ENULL NULL ADH AECDH EXP EXPORT LOW MD5 DES RC2 IDEA SEED PSK KPSK APSK SRP KSRP CAMELLIA CAMELLIA128 CAMELLIA256 ARIA ARIA128 ARIA256 DSS ADSS DH KDH KDHE KEDH DHE EDH ECDH KECDH SSLV2 GOST KGOST AGOST "

var kindCiphers = kindOf[[]uint16]{"STRING", need(parseCiphers)}

// parseCiphers reads a cipher list as openssl-ciphers(1) describes it, as far as it chooses among the suites that crypto/tls has.
func parseCiphers(text string) ([]uint16, error) {
	const hint = "a list of names such as ECDHE-RSA-AES256-GCM-SHA384:ECDHE+AESGCM:!SHA1"
	var chosen, banned []uint16
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ':' || r == ',' || r == ' ' }) {
		switch word[0] {
		case '@':
			if !strings.EqualFold(word, "@STRENGTH") { // an order, as is "+": crypto/tls has its own
				return nil, withHint{errors.Errorf("%s can't be set", word), hint}
			}
			continue
		case '+':
			if _, err := suitesOf(word[1:], true); err != nil {
				return nil, withHint{err, hint}
			}
			continue
		case '!', '-':
			suites, err := suitesOf(word[1:], true)
			if err != nil {
				return nil, withHint{err, hint}
			}
			if word[0] == '!' {
				banned = append(banned, suites...)
			}
			chosen = slices.DeleteFunc(chosen, func(id uint16) bool { return slices.Contains(suites, id) })
			continue
		}
		suites, err := suitesOf(word, false)
		if err != nil {
			return nil, withHint{err, hint}
		}
		chosen = append(chosen, suites...)
	}
	chosen = slices.DeleteFunc(chosen, func(id uint16) bool { return slices.Contains(banned, id) })
	if len(chosen) == 0 {
		return nil, withHint{errors.New("no cipher suite is left"), hint}
	}
	slices.Sort(chosen)
	return slices.Compact(chosen), nil
}

// suitesOf returns the suites that a word of a cipher list stands for; maybe none if they are to be left out.
func suitesOf(word string, out bool) (suites []uint16, err error) {
	name := strings.ToUpper(word)
	switch name {
	case "DEFAULT", "HIGH", "ALL":
		for _, s := range tls.CipherSuites() {
			if opensslSuites[s.ID] != "" {
				suites = append(suites, s.ID)
			}
		}
		return suites, nil
	}
	for id, openssl := range opensslSuites {
		if openssl == name || tls.CipherSuiteName(id) == name {
			return []uint16{id}, nil
		}
	}
	for _, s := range tls.CipherSuites() {
		if s.Name == name {
			return nil, errors.Errorf("the suites of TLS 1.3, such as %s, are always all on", word)
		}
	}
	parts := strings.Split(name, "+")
	for _, p := range parts {
		if out && strings.Contains(absentWords, " "+p+" ") {
			return nil, nil
		}
		if _, ok := suiteWords[p]; !ok {
			return nil, errors.Errorf("unknown cipher suite %q", word)
		}
	}
	for id, openssl := range opensslSuites {
		if !slices.ContainsFunc(parts, func(p string) bool { return !isSuiteOf(openssl, p) }) && (out || isSafeSuite(id)) {
			suites = append(suites, id)
		}
	}
	if len(suites) == 0 && !out {
		return nil, errors.Errorf("%s stands for weak suites only: they must be named one by one", word)
	}
	return suites, nil
}

func isSuiteOf(openssl, word string) bool {
	w := suiteWords[word]
	for lack := range strings.FieldsSeq(w.lacks) {
		if strings.Contains(openssl, lack) {
			return false
		}
	}
	return strings.Contains(openssl, w.has)
}

func isSafeSuite(id uint16) bool {
	return slices.ContainsFunc(tls.CipherSuites(), func(s *tls.CipherSuite) bool { return s.ID == id })
}
