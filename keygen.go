package main

import (
	"io"
	"os"

	"tunsplice/relay/secure"

	"github.com/pkg/errors"
)

const keyComment = "# A key of tunsplice, for the option psk of both ends. Whoever has it can read and join what it protects.\n"

// keygen writes a new key to a file, which must not exist, or to standard output.
func keygen(name string) error {
	text := keyComment + secure.NewKey().String() + "\n"
	if name == "-" {
		_, err := io.WriteString(os.Stdout, text)
		return errors.Wrap(err, "standard output")
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return hinted{errors.Errorf("keygen: %s exists, and a key is never overwritten", name), "choose another name, or remove it if no end uses it any more"}
	}
	if err == nil {
		_, err = io.WriteString(f, text)
		if serr := f.Sync(); err == nil && !errors.Is(serr, os.ErrInvalid) {
			err = serr
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			os.Remove(name) // half a key is none
		}
	}
	return errors.Wrap(err, "keygen")
}
