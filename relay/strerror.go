package relay

import (
	"strings"
	"syscall"

	"github.com/pkg/errors"
)

// Strerror returns the text of an error number as strerror(3) of glibc spells it, in English: scripts look for it in the log.
func Strerror(errno syscall.Errno) string {
	switch errno {
	case 0:
		return "Success"
	case syscall.Errno(133):
		return "Memory page has hardware error" // EHWPOISON, which Go has no text for
	}
	text := errno.Error()
	if strings.HasPrefix(text, "errno ") {
		return "Unknown error " + text[len("errno "):]
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// ErrorText is err.Error() with the text of the error number inside, if there is one, spelled as Strerror does.
func ErrorText(err error) string {
	text := err.Error()
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return text
	}
	plain := errno.Error()
	if at := strings.LastIndex(text, plain); at >= 0 {
		return text[:at] + Strerror(errno) + text[at+len(plain):]
	}
	return text
}
