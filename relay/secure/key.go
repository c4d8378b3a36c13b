package secure

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Key is a pre-shared key: 32 bytes that both ends hold and nobody else does.
type Key [32]byte

// maxKeyText bounds what is read of a key file, comments included, in bytes.
const maxKeyText = 64 << 10

// keyError is a mistake in a key, and how to mend it.
type keyError struct {
	msg, hint string
	cause     error // whose text msg ends with; nil: none
}

func (e *keyError) Error() string { return e.msg }
func (e *keyError) Unwrap() error { return e.cause }

// Hint says how to mend it.
func (e *keyError) Hint() string { return e.hint }

const makeOne = "a key is made with: tunsplice keygen FILE"

// NewKey returns a random key.
func NewKey() *Key {
	var k Key
	rand.Read(k[:]) // never fails (crypto/rand)
	return &k
}

// String returns the key as one line of a key file, in base64 without the line's end.
func (k *Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// ParseKey reads the text of a key file: lines that are empty or begin with # are passed over; one line holds 32 bytes in base64 (44 characters) or hexadecimal (64
// characters). No error quotes the text.
func ParseKey(text []byte) (*Key, error) {
	var line []byte
	for l := range bytes.Lines(text) {
		l = bytes.TrimSpace(l)
		if len(l) == 0 || l[0] == '#' {
			continue
		}
		if line != nil {
			return nil, &keyError{msg: "there is more behind the key: a second line", hint: "one line holds the key; comments begin with #"}
		}
		line = l
	}
	if line == nil {
		return nil, &keyError{msg: "there is no key in it", hint: makeOne}
	}
	var k Key
	var b []byte
	var err error
	if len(line) == hex.EncodedLen(len(k)) {
		b, err = hex.DecodeString(string(line))
	} else {
		b, err = base64.StdEncoding.Strict().DecodeString(string(line))
	}
	switch {
	case err != nil && bytes.ContainsAny(line, " \t"):
		return nil, &keyError{msg: "there is more behind the key than the line's end, or it is a passphrase", hint: "a key is 44 characters of base64 or 64 of hexadecimal; " + makeOne}
	case err != nil:
		return nil, &keyError{msg: "it is no key of 32 bytes in base64 or hexadecimal; a passphrase is none, and a file cut short neither", hint: makeOne}
	case len(b) != len(k):
		return nil, &keyError{msg: fmt.Sprintf("the key has %d bytes instead of %d", len(b), len(k)), hint: makeOne}
	}
	copy(k[:], b)
	if k == (Key{}) {
		return nil, &keyError{msg: "the key is all zero", hint: makeOne}
	}
	return &k, nil
}

// ReadKeyFile reads the key in a file, which must be readable by its owner only.
func ReadKeyFile(name string) (*Key, error) {
	// Not blocking, so that a FIFO by mistake is an error and no wait.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, &keyError{msg: "key file " + name + ": " + err.Error(), hint: makeOne, cause: err}
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, errors.Wrapf(err, "key file %s", name)
	case !st.Mode().IsRegular():
		return nil, &keyError{msg: "key file " + name + " is no regular file", hint: makeOne}
	case st.Mode().Perm()&0o077 != 0:
		return nil, &keyError{msg: fmt.Sprintf("key file %s is open to others than its owner (mode %04o)", name, st.Mode().Perm()),
			hint: "chmod 600 " + name + "; if others may have read it, make a new key"}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyText+1))
	switch {
	case err != nil:
		return nil, errors.Wrapf(err, "key file %s", name)
	case len(text) > maxKeyText:
		return nil, &keyError{msg: "key file " + name + " is too long for a key", hint: makeOne}
	}
	k, err := ParseKey(text)
	var ke *keyError
	if errors.As(err, &ke) {
		return nil, &keyError{msg: "key file " + name + ": " + ke.msg, hint: ke.hint}
	}
	return k, err
}
