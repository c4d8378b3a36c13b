package addr

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
)

// What programs on the other side get to know of a TLS peer, in OpenSSL's words. All of it comes from the peer, so it is made printable: a zero byte would keep the
// program from being started, a newline would be a second line in a script.

// attributeNames are OpenSSL's short and long names of what distinguished names are made of, by object identifier (RFC 4519, RFC 2985).
var attributeNames = map[string][2]string{
	"2.5.4.3": {"CN", "commonName"}, "2.5.4.4": {"SN", "surname"}, "2.5.4.5": {"serialNumber", "serialNumber"}, "2.5.4.6": {"C", "countryName"},
	"2.5.4.7": {"L", "localityName"}, "2.5.4.8": {"ST", "stateOrProvinceName"}, "2.5.4.9": {"street", "streetAddress"}, "2.5.4.10": {"O", "organizationName"},
	"2.5.4.11": {"OU", "organizationalUnitName"}, "2.5.4.12": {"title", "title"}, "2.5.4.13": {"description", "description"}, "2.5.4.17": {"postalCode", "postalCode"},
	"2.5.4.41": {"name", "name"}, "2.5.4.42": {"GN", "givenName"}, "2.5.4.43": {"initials", "initials"}, "2.5.4.44": {"generationQualifier", "generationQualifier"},
	"2.5.4.45": {"x500UniqueIdentifier", "x500UniqueIdentifier"}, "2.5.4.46": {"dnQualifier", "dnQualifier"}, "2.5.4.65": {"pseudonym", "pseudonym"},
	"1.2.840.113549.1.9.1": {"emailAddress", "emailAddress"}, "0.9.2342.19200300.100.1.1": {"UID", "userId"}, "0.9.2342.19200300.100.1.25": {"DC", "domainComponent"},
}

// several joins values of one field, as socat does.
const several = " // "

// tlsVariables adds what a program gets to know of a connection: NAME=value, without the prefix.
func tlsVariables(vars []string, state *tls.ConnectionState) []string {
	vars = append(vars, "OPENSSL_PROTO_VERSION="+protoName(state.Version), "OPENSSL_CIPHER="+suiteName(state.CipherSuite))
	if len(state.PeerCertificates) == 0 {
		return vars
	}
	cert := state.PeerCertificates[0]
	vars = append(vars, "OPENSSL_X509_ISSUER="+oneLine(cert.RawIssuer), "OPENSSL_X509_SUBJECT="+oneLine(cert.RawSubject),
		"OPENSSL_X509_FINGERPRINT="+fingerprintOf(cert).String())
	vars = append(vars, fieldVariables(cert.RawSubject)...)
	var dns, ips []string
	for _, n := range cert.DNSNames {
		dns = append(dns, printable(n))
	}
	for _, ip := range cert.IPAddresses {
		ips = append(ips, ip.String())
	}
	if dns != nil {
		vars = append(vars, "OPENSSL_X509V3_SUBJECTALTNAME_DNS="+strings.Join(dns, several))
	}
	if ips != nil {
		vars = append(vars, "OPENSSL_X509V3_SUBJECTALTNAME_IPADD="+strings.Join(ips, several))
	}
	return vars
}

// protoName is OpenSSL's name of a version: TLSv1, TLSv1.3.
func protoName(version uint16) string {
	return "TLSv" + strings.TrimSuffix(strings.TrimPrefix(tls.VersionName(version), "TLS "), ".0")
}

// fieldVariables makes a variable of each field of a subject.
func fieldVariables(subject []byte) (vars []string) {
	index := make(map[string]int)
	for _, set := range parseName(subject) {
		for _, a := range set {
			names, known := attributeNames[a.Type.String()]
			if !known {
				continue // it has no name; the whole subject has it
			}
			field := strings.ToUpper(names[1])
			if i, again := index[field]; again {
				vars[i] += several + attributeText(a)
				continue
			}
			index[field] = len(vars)
			vars = append(vars, "OPENSSL_X509_"+field+"="+attributeText(a))
		}
	}
	return vars
}

// oneLine writes a distinguished name as "openssl x509 -nameopt oneline" does: "C = XY, O = Works, CN = host".
func oneLine(name []byte) string {
	var parts []string
	for _, set := range parseName(name) {
		var same []string
		for _, a := range set {
			short := a.Type.String()
			if names, known := attributeNames[short]; known {
				short = names[0]
			}
			text := attributeText(a)
			if strings.ContainsAny(text, ",+\"\\<>;") || strings.HasPrefix(text, " ") || strings.HasPrefix(text, "#") || strings.HasSuffix(text, " ") {
				text = `"` + strings.NewReplacer(`"`, `\"`).Replace(text) + `"`
			}
			same = append(same, short+" = "+text)
		}
		parts = append(parts, strings.Join(same, " + "))
	}
	return strings.Join(parts, ", ")
}

// parseName takes a distinguished name in DER apart, in its order; crypto/x509 has parsed it before.
func parseName(der []byte) (name pkix.RDNSequence) {
	if rest, err := asn1.Unmarshal(der, &name); err != nil || len(rest) > 0 {
		return nil
	}
	return name
}

func attributeText(a pkix.AttributeTypeAndValue) string { return printable(fmt.Sprint(a.Value)) }

// printable writes control characters as a backslash and two hex digits, as OpenSSL does.
func printable(s string) string {
	if !strings.ContainsFunc(s, isControl) {
		return s
	}
	var sb strings.Builder
	for i := range len(s) {
		if isControl(rune(s[i])) && s[i] < 0x80 {
			fmt.Fprintf(&sb, "\\%02X", s[i])
		} else {
			sb.WriteByte(s[i])
		}
	}
	return sb.String()
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// describeTLS is the line of the log about a connection.
func describeTLS(state *tls.ConnectionState) string {
	text := protoName(state.Version) + " " + suiteName(state.CipherSuite)
	if state.DidResume {
		text += ", resumed"
	}
	if len(state.PeerCertificates) == 0 {
		return text + ", without certificate"
	}
	cert := state.PeerCertificates[0]
	return text + ", certificate " + fingerprintOf(cert).String() + " of " + oneLine(cert.RawSubject) + " valid until " + day(cert.NotAfter)
}

// sameSubject says that a certificate is from whoever it is for.
func sameSubject(c *x509.Certificate) bool { return string(c.RawIssuer) == string(c.RawSubject) }
