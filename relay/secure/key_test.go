package secure

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeyFile(t *testing.T) {
	k := NewKey()
	text := k.String()
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string // in the error; "": none
	}{
		"base64":       {"# comment\n\n  " + text + "\n", 0o600, ""},
		"no line end":  {text, 0o400, ""},
		"hexadecimal":  {hex.EncodeToString(k[:]) + "\r\n", 0o600, ""},
		"open to all":  {text, 0o644, "is open to others than its owner (mode 0644)"},
		"group":        {text, 0o620, "is open to others"},
		"empty":        {"", 0o600, "there is no key in it"},
		"only comment": {"# x\n", 0o600, "there is no key in it"},
		"cut short":    {text[:40], 0o600, "has 30 bytes instead of 32"},
		"cut anywhere": {text[:41], 0o600, "no key of 32 bytes"},
		"long":         {"AAAA" + text, 0o600, "has 35 bytes"},
		"passphrase":   {"correct horse battery staple\n", 0o600, "passphrase"},
		"garbage":      {text + " x\n", 0o600, "more behind the key"},
		"second line":  {text + "\nx\n", 0o600, "a second line"},
		"zero":         {(&Key{}).String(), 0o600, "all zero"},
		"endless":      {strings.Repeat("#\n", maxKeyText), 0o600, "too long"},
	} {
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, c.mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
		got, err := ReadKeyFile(file)
		switch {
		case c.want == "" && (err != nil || *got != *k):
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), file)):
			t.Errorf("%s: %v", name, err)
		case err != nil && (strings.Contains(err.Error(), text[:10]) || err.(interface{ Hint() string }).Hint() == ""):
			t.Errorf("%s: quotes the key or has no hint: %v", name, err)
		}
	}
	if _, err := ReadKeyFile(t.TempDir()); err == nil || !strings.Contains(err.Error(), "others") && !strings.Contains(err.Error(), "no regular file") {
		t.Error(err)
	}
}
