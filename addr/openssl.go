package addr

import (
	"context"
	"crypto/tls"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Theory of operation of TLS
//
// A TLS address is a TCP address whose endpoints pass a handshake (handshake.go) before anyone sees them. What options say about certificates and protocol is read once, when the
// address is bound, into a tlsSetup, so that mistakes show before anything is opened and files need not be readable later; it lives in the Bound, and with it the
// keys of session tickets (server) and the sessions to resume (client).
//
//	openssl.go          the address types and their options
//	openssl_setup.go    options to a tls.Config; certificates, authorities
//	openssl_verify.go   is the peer the right one
//	openssl_choice.go   versions and cipher suites by the names of OpenSSL
//	openssl_wire.go     the two halves of the endpoint, many records in a write
//	openssl_name.go     what programs get to know of the peer's certificate
//	openssl_error.go    what went wrong, in words

var (
	optCert = declare(kindString, Option{Name: "openssl-certificate", Aliases: "cert certificate", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "PEM file with the own certificate, those between it and its authority, and, unless option key is given, its private key"})
	optKey = declare(kindString, Option{Name: "openssl-key", Aliases: "key", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "PEM file with the private key of the certificate, not encrypted"})
	optCAFile = declare(kindString, Option{Name: "openssl-cafile", Aliases: "cafile", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "PEM file with the authorities that the peer's certificate may be from, or with that certificate itself (default: the system's authorities)"})
	optCAPath = declare(kindString, Option{Name: "openssl-capath", Aliases: "capath", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "directory of such files"})
	optVerify = declare(kindBool, Option{Name: "openssl-verify", Aliases: "verify", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "check the peer's certificate; 0 takes any server, and any client also without certificate (default 1, on both sides)"})
	optCommonName = declare(kindString, Option{Name: "openssl-commonname", Aliases: "cn commonname", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "name that the peer's certificate must be for; empty: any (default: the host of the address; for a client's certificate any)"})
	optFingerprint = declare(kindFingerprint, Option{Name: "fingerprint", Groups: GOPENSSL, Phase: PhSpecific, Ours: true,
		Doc: "take the peer with this certificate, SHA256:<64 hex digits>, whoever made it and for whatever name and time; may be given more than once"})
	optSNIHost = declare(kindString, Option{Name: "openssl-snihost", Aliases: "snihost", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "name to ask the server for (default: that of commonname, else the host of the address)"})
	optNoSNI = declare(kindBool, Option{Name: "openssl-no-sni", Aliases: "no-sni nosni", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "do not tell the server a name"})
	optCiphers = declare(kindCiphers, Option{Name: "openssl-cipherlist", Aliases: "cipher cipherlist ciphers", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "cipher suites of TLS 1.2 and older to take, by OpenSSL's or the IANA names, separated by colons; the order means nothing"})
	optMinProto = declare(kindTLSVersion, Option{Name: "openssl-min-proto-version", Aliases: "min-proto-version min-version", Groups: GOPENSSL, Phase: PhOffset,
		Doc: "lowest version of TLS: TLS1.0, TLS1.1, TLS1.2 or TLS1.3 (default TLS1.2)"})
	optMaxProto = declare(kindTLSVersion, Option{Name: "openssl-max-proto-version", Aliases: "max-proto-version max-version", Groups: GOPENSSL, Phase: PhOffset,
		Doc: "highest version of TLS (default TLS1.3)"})
	optMethod = declare(kindTLSMethod, Option{Name: "openssl-method", Aliases: "method opensslmethod", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "one version of TLS: TLS1, TLS1.1, TLS1.2 or TLS1.3; TLS takes any"})
	optMaxSendFrag = declare(kindSendFrag, Option{Name: "openssl-maxsendfrag", Aliases: "maxsendfrag", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "payload of the records to send, 512 to 16384 bytes (default 16384)"})

	// These exist so that command lines for socat go on to work. What can't be done is refused; what makes no difference today gets the warning of every option that nobody reads.
	_ = declare(kindCompress, Option{Name: "openssl-compress", Aliases: "compress", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "none or auto: both mean none, there is no compression in today's TLS"})
	_ = declare(kindString, Option{Name: "openssl-dhparam", Aliases: "dh dhparam dhparams openssl-dhparams", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "without effect: keys are exchanged over elliptic curves, which need no parameters"})
	_ = declare(kindString, Option{Name: "openssl-egd", Aliases: "egd", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "without effect: random numbers come from the kernel"})
	_ = declare(kindBool, Option{Name: "openssl-pseudo", Aliases: "pseudo", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "without effect: random numbers come from the kernel"})
	_ = declare(kindRefused("TLS of this program has no FIPS mode", "leave the option out"), Option{Name: "openssl-fips", Aliases: "fips", Groups: GOPENSSL, Phase: PhSpecific,
		Doc: "refused unless 0: there is no FIPS mode"})
	_ = declare(kindRefused("the peer can't be asked for small records", "option maxsendfrag limits the records that go out"),
		Option{Name: "openssl-maxfraglen", Aliases: "maxfraglen", Groups: GOPENSSL, Phase: PhSpecific,
			Doc: "refused unless 0: the peer can't be asked for small records"})
)

// kindRefused is a number that must be 0, because what it asks for can't be had.
func kindRefused(why, hint string) kindOf[int] {
	return kindOf[int]{"INT", func(text string, given bool) (int, error) {
		n, err := parseOptInt(text, given)
		if err == nil && n != 0 {
			err = withHint{errors.New(why), hint}
		}
		return n, err
	}}
}

var kindSendFrag = kindOf[int]{"INT", need(func(text string) (int, error) {
	n, err := parseUint(text, tlsRecord)
	if err == nil && n < 512 {
		err = errors.Errorf("number out of range (512 to %d)", tlsRecord)
	}
	return int(n), err
})}

var _ = addType(Type{
	Name: "OPENSSL", Aliases: "OPENSSL-CONNECT SSL", Params: []Param{{Name: "host"}, {Name: "port"}},
	Groups: GFD | GSOCKET | GCHILD | GRETRY | GIP4 | GIP6 | GTCP | GOPENSSL | GPACKETS | GSTREAMS, Can: ReadWrite,
	Summary: "connect to a TLS server",
	Doc: "The server's certificate must be from an authority that is trusted (the system's, or that of cafile or capath) and for the host of the address (or the name in " +
		"commonname); or it must be the one of option fingerprint. The fingerprint of each peer is logged with -d -d -d.",
	Examples: []Example{
		{"- OPENSSL:www.example.org:443", "talk to a TLS server from the terminal"},
		{"TCP-LISTEN:8080,fork,reuseaddr OPENSSL:127.0.0.1:4433,cafile=/tmp/server.crt,commonname=server", "let clients without TLS talk to a server with a certificate of its own making"},
	},
	Check: func(b *Bound) error {
		if err := tcp.checkClient(b, b.ipFamily(unix.AF_UNSPEC)); err != nil {
			return err
		}
		return b.prepareTLS(false)
	},
	Open: func(ctx context.Context, b *Bound, env *Env) (Source, error) {
		b.tls.advise(env.Log, b.Label())
		return tcp.connect(ctx, b, env, b.ipFamily(unix.AF_UNSPEC))
	},
})

var _ = addType(Type{
	Name: "OPENSSL-LISTEN", Aliases: "SSL-L", Params: []Param{{Name: "port"}},
	Groups: GFD | GSOCKET | GLISTEN | GCHILD | GRETRY | GRANGE | GIP4 | GIP6 | GTCP | GOPENSSL | GPACKETS | GSTREAMS, Can: ReadWrite,
	Summary: "wait for TLS clients",
	Doc: "Needs a certificate (option cert). Clients need one too, from an authority that is trusted, or one of option fingerprint, unless verify=0 lets anyone in. Without fork the port is " +
		"closed once a client has passed; those that did not, or that say nothing for the time of handshake-timeout, are turned away and logged.",
	Examples: []Example{
		{"OPENSSL-LISTEN:4433,fork,reuseaddr,cert=/tmp/server.pem,verify=0 TCP:127.0.0.1:8080", "give a local server TLS"},
		{"OPENSSL-LISTEN:4433,cert=/tmp/server.pem,cafile=/tmp/clients.crt TUN:10.0.0.1/24,up", "a tunnel for the client whose certificate is in clients.crt"},
	},
	Check: func(b *Bound) error {
		if err := tcp.checkServer(b, b.ipFamily(unix.AF_UNSPEC)); err != nil {
			return err
		}
		return b.prepareTLS(true)
	},
	Open: func(ctx context.Context, b *Bound, env *Env) (Source, error) {
		b.tls.advise(env.Log, b.Label())
		return tcp.listen(ctx, b, env, b.ipFamily(unix.AF_UNSPEC))
	},
})

// tlsHandshake is the handshake of either side: ep is a socket as bareEndpoint has it.
func (b *Bound) tlsHandshake(env *Env) handshake {
	return func(ctx context.Context, ep *relay.Endpoint) (*relay.Endpoint, error) {
		file, ok := ep.R.(*relay.File)
		if !ok {
			return nil, errors.New("TLS needs a socket")
		}
		wire := &tlsWire{file: file}
		err := onFile(file, func(fd int) (err error) {
			if err := b.guard(fd); err != nil {
				return err
			}
			if wire.local.sockaddr, err = getsockname(fd); err == nil {
				wire.remote.sockaddr, err = getpeername(fd)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		half := &tlsHalf{wire: wire, setup: b.tls, chunk: optMaxSendFrag.Or(b, tlsRecord), silent: optShutNone.Given(b) || optEndClose.Given(b)}
		if b.tls.server {
			half.conn = tls.Server(wire, b.tls.config)
		} else {
			half.conn = tls.Client(wire, b.tls.config)
		}
		if err := half.conn.Handshake(); err != nil {
			if b.tls.server && alertOf(err) == "" {
				wire.letRead(ctx)
			}
			return nil, b.tls.explainHandshake(err, wire)
		}
		wire.first = nil
		state := half.conn.ConnectionState()
		env.Log.Infof("%s: TLS with %s: %s", b.Label(), wire.remote.text(), describeTLS(&state))
		got, err := b.tlsEndpoint(half, env)
		if err != nil {
			return nil, err
		}
		got.Label = ep.Label
		got.Authenticated = len(state.PeerCertificates) > 0 && (b.tls.verify || len(b.tls.pins) > 0)
		got.Env = tlsVariables(ep.Env, &state)
		return got, nil
	}
}

// tlsEndpoint makes an endpoint of a connection that has passed its handshake.
func (b *Bound) tlsEndpoint(h *tlsHalf, env *Env) (*relay.Endpoint, error) {
	var r relay.Reader
	var w relay.Writer
	if b.Mode&Read != 0 {
		r = h
	}
	if b.Mode&Write != 0 {
		w = h
	}
	closeAll := h.close
	if b.Mode == Write {
		closeAll = h.closeUnread(min(env.Linger, tlsFarewellTime))
	}
	ep, err := b.makeEndpointOf(r, w, h.wire.file, h.wire.file, closeAll)
	if err != nil {
		return nil, err
	}
	ep.CanAnswer = b.Mode == ReadWrite
	return b.watched(ep, h.wire.file)
}

// bareEndpoint makes an endpoint of a connected socket without the options that belong on top of what will be spoken on it.
func (b *Bound) bareEndpoint(f *relay.File) *relay.Endpoint {
	return &relay.Endpoint{Label: b.Label(), R: f, W: f, Close: f.Close}
}

// handshakeLimit is the time that the peer of a connection that we made has. Where connections are made again and again, a dead one must not hold up the next for long.
func (b *Bound) handshakeLimit() time.Duration {
	limit := defaultHandshakeTimeout
	if short := b.attemptTime(); short > 0 {
		limit = short
	}
	return optHandshakeTimeout.Or(b, limit)
}
