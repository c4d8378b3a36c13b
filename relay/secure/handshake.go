package secure

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"

	"github.com/flynn/noise"
	"github.com/pkg/errors"
)

// Role is how an end begins.
type Role uint8

const (
	// Initiate sends the first message at once. If both ends do, the one with the greater ephemeral key (compared byte by byte) goes on as initiator and the other one answers.
	Initiate Role = iota
	// Answer says nothing until the peer has sent a first message under the key: a stranger learns nothing.
	Answer
)

// The two handshake messages have the same length and begin with a header: magic, version, kind. The first byte is not ASCII, so that no text is taken for it, and no data packet
// begins with it.
const (
	messageLen = headerLen + ephemeralLen + tagLen
	headerLen  = 8
	magic      = "\x89TSKEY"
	version    = 1

	ephemeralLen = 32
	tagLen       = 16

	kindFirst  = 1
	kindAnswer = 2
)

// The prologues bind a handshake to this protocol, its version and the kind of transport.
const (
	prologueStream    = "tunsplice psk 1 stream"
	prologueDatagrams = "tunsplice psk 1 datagrams"
)

// Errors of a handshake.
var (
	ErrKey  = errors.New("the peer has another key, or none")
	ErrEcho = errors.New("the peer sends back what it is sent: it is an echo")
)

// VersionError says that the peer speaks another version of the handshake.
type VersionError struct{ Peer byte }

func (e *VersionError) Error() string {
	return "the peer has a key too, but speaks another version of the handshake: use the same version of the program at both ends"
}

var suite = noise.NewCipherSuite(noise.DH25519, noise.CipherAESGCM, noise.HashSHA256)

func newState(key *Key, prologue string, initiator bool) (*noise.HandshakeState, error) {
	return noise.NewHandshakeState(noise.Config{CipherSuite: suite, Pattern: noise.HandshakeNN, Initiator: initiator, Prologue: []byte(prologue), PresharedKey: key[:]})
}

// keys is the result of a handshake.
type keys struct {
	send, receive *gcm
	id            [sessionIDLen]byte // names the session; no secret
}

// opening is a first message that was made here and waits for its answer.
type opening struct {
	state   *noise.HandshakeState
	message [messageLen]byte
}

func newOpening(key *Key, prologue string) (*opening, error) {
	state, err := newState(key, prologue, true)
	if err != nil {
		return nil, errors.Wrap(err, "handshake")
	}
	o := &opening{state: state}
	out, _, _, err := state.WriteMessage(appendHeader(o.message[:0], kindFirst), nil)
	if err != nil || len(out) != messageLen {
		return nil, errors.Wrap(err, "handshake")
	}
	return o, nil
}

func appendHeader(b []byte, kind byte) []byte { return append(append(b, magic...), version, kind) }

// finish reads the answer to o. After an error it may be called again with another message.
func (o *opening) finish(message []byte) (*keys, error) {
	payload, send, receive, err := o.state.ReadMessage(nil, message[headerLen:])
	if err != nil || len(payload) > 0 {
		return nil, ErrKey
	}
	return newKeys(o.state, send, receive), nil
}

// loses says that o gives way to a first message of the peer. Equal ones are an echo.
func (o *opening) loses(message []byte) (bool, error) {
	order := bytes.Compare(o.message[headerLen:headerLen+ephemeralLen], message[headerLen:headerLen+ephemeralLen])
	if order == 0 {
		return false, ErrEcho
	}
	return order < 0, nil
}

// answer reads a first message and makes the answer. It computes nothing costly before the message has shown that its sender holds the key, or did when it was recorded.
func answer(key *Key, prologue string, message []byte) (reply [messageLen]byte, k *keys, err error) {
	state, err := newState(key, prologue, false)
	if err != nil {
		return reply, nil, errors.Wrap(err, "handshake")
	}
	payload, _, _, err := state.ReadMessage(nil, message[headerLen:])
	if err != nil || len(payload) > 0 {
		return reply, nil, ErrKey
	}
	out, receive, send, err := state.WriteMessage(appendHeader(reply[:0], kindAnswer), nil)
	switch {
	case err != nil: // the peer's ephemeral key is of low order
		return reply, nil, ErrKey
	case len(out) != messageLen:
		return reply, nil, errors.New("handshake: answer of a wrong length")
	}
	return reply, newKeys(state, send, receive), nil
}

// CheckFirst says why a datagram of an unknown sender does not begin a handshake under the key; nil: it does, or is the recording of one that did.
func CheckFirst(key *Key, p []byte) error {
	kind, ok, err := header(p)
	switch {
	case err != nil:
		return err
	case len(p) >= Overhead && (p[0] == packetData || p[0] == packetAlive):
		return errUnknownSession
	case !ok || len(p) != messageLen:
		return foreign(p)
	case kind != kindFirst:
		return errUnknownSession
	}
	return checkFirst(key, prologueDatagrams, p)
}

// checkFirst returns ErrKey if a first message is not under the key.
func checkFirst(key *Key, prologue string, message []byte) error {
	state, err := newState(key, prologue, false)
	if err != nil {
		return errors.Wrap(err, "handshake")
	}
	if payload, _, _, err := state.ReadMessage(nil, message[headerLen:]); err != nil || len(payload) > 0 {
		return ErrKey
	}
	return nil
}

var errUnknownSession = errors.New("it goes on with a session that is not known here, and has to begin anew")

func newKeys(state *noise.HandshakeState, send, receive *noise.CipherState) *keys {
	k := &keys{send: newGCM(send.UnsafeKey()), receive: newGCM(receive.UnsafeKey())}
	copy(k.id[:], state.ChannelBinding())
	return k
}

// header checks what of a handshake message has come so far: kind is 0 until it is known.
func header(b []byte) (kind byte, ok bool, err error) {
	n := min(len(b), len(magic))
	if string(b[:n]) != magic[:n] {
		return 0, false, nil
	}
	if len(b) < headerLen {
		return 0, true, nil
	}
	if b[6] != version {
		return 0, true, &VersionError{b[6]}
	}
	return b[7], b[7] == kindFirst || b[7] == kindAnswer, nil
}

// gcm is AES-256-GCM as Noise uses it: the nonce is 4 zero bytes and a counter of 8 bytes, big-endian.
type gcm struct {
	aead  cipher.AEAD
	key   [32]byte
	nonce [12]byte // here, so that a call costs no allocation
}

func newGCM(key [32]byte) *gcm {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the length of the key is right
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return &gcm{aead: aead, key: key}
}

// seal appends the ciphertext and tag of plain to dst. The two may overlap exactly or not at all.
func (g *gcm) seal(dst []byte, counter uint64, plain, ad []byte) []byte {
	binary.BigEndian.PutUint64(g.nonce[4:], counter)
	return g.aead.Seal(dst, g.nonce[:], plain, ad)
}

// open appends the plaintext to dst, with the same rule.
func (g *gcm) open(dst []byte, counter uint64, sealed, ad []byte) ([]byte, error) {
	binary.BigEndian.PutUint64(g.nonce[4:], counter)
	return g.aead.Open(dst, g.nonce[:], sealed, ad)
}

// next returns the cipher after Noise's REKEY (section 4.2): the new key does not tell the old one.
func (g *gcm) next() *gcm {
	var zeros, key [32]byte
	copy(key[:], g.seal(nil, 1<<64-1, zeros[:], nil))
	clear(g.key[:])
	return newGCM(key)
}
