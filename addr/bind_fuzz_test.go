package addr

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/pkg/errors"
)

// FuzzBind looks for arguments that Bind does not answer in order: with an address, or with a mistake that names the argument. Seeds are the documented command lines.
func FuzzBind(f *testing.F) {
	for _, t := range Types() {
		for _, e := range t.Examples {
			for _, arg := range strings.Fields(e.Args) {
				f.Add(arg)
			}
		}
	}
	recipes, err := os.ReadFile("../docs/recipes.md")
	if err != nil {
		f.Fatal(err)
	}
	for _, arg := range regexp.MustCompile(`[A-Z0-9-]+:[^ ]+`).FindAllString(string(recipes), -1) {
		f.Add(arg)
	}
	for _, arg := range []string{"TUN:[fd00::1]/64,peer=fd00::2,route=default_via_fd00::2_metric_5", "tcp-l:0,range=10.0.0.0:255.0.0.0,setsockopt=1:2:x01", "FD:3,f-setlk,cr!!-,crnl",
		"UDP-DATAGRAM:239.1.1.1:5,ip-add-membership=239.1.1.1:lo", "OPEN:f,ioctl-bin=1:\"x\",perm=0777,lseek=-5", "EXEC:a:b,up,c=d,pipes"} {
		f.Add(arg)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		spec, err := Parse(arg)
		if err != nil {
			return
		}
		for _, mode := range []Mode{Read, Write, ReadWrite} {
			a, err := Bind(spec, BindConfig{Mode: mode})
			var m *Mistake
			switch {
			case err == nil && len(a.bounds()) == 0:
				t.Errorf("%q: nothing to open for %s", arg, mode)
			case err != nil && (!errors.As(err, &m) || m.Arg != arg):
				t.Errorf("%q: the error does not name the argument: %v", arg, err)
			}
		}
	})
}
