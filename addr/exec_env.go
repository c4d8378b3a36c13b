package addr

import (
	"bufio"
	"math"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/pkg/errors"
)

// environment returns the variables of a program: ours, with what options and the program itself set.
func (b *Bound) environment(env *Env, who *account) []string {
	vars := os.Environ()
	if path, ok := optPath.Get(b); ok {
		vars = setVariable(vars, "PATH", path)
	}
	if who != nil {
		vars = setVariable(vars, "USER", who.name)
		vars = setVariable(vars, "LOGNAME", who.name)
		vars = setVariable(vars, "HOME", who.home)
		vars = setVariable(vars, "SHELL", who.shell)
	}
	pid := strconv.Itoa(os.Getpid())
	own := append([]string{"VERSION=" + env.Version, "PID=" + pid, "PPID=" + pid}, env.PeerEnv...)
	for _, v := range env.PeerEnv {
		if name, value, _ := strings.Cut(v, "="); slices.Contains(deviceVariables, name) {
			vars = setVariable(vars, name, value)
		}
	}
	return WithVariables(vars, env.Program, own)
}

// deviceVariables are those that a program gets without a prefix too: it is written for a tunnel if there is a device.
var deviceVariables = []string{"IFACE", "MTU", "ADDR"}

// WithVariables adds variables to an environment as programs get them: each with the prefix SOCAT_ and with the program's name in capitals as prefix. own are NAME=value pairs.
func WithVariables(vars []string, program string, own []string) []string {
	prefixes := []string{"SOCAT_"}
	if p := strings.ToUpper(program) + "_"; p != "_" && p != "SOCAT_" {
		prefixes = append(prefixes, p)
	}
	for _, prefix := range prefixes {
		for _, v := range own {
			name, value, _ := strings.Cut(v, "=")
			vars = setVariable(vars, prefix+name, value)
		}
	}
	return vars
}

// setVariable gives one variable a value, and takes older ones of its name away.
func setVariable(vars []string, name, value string) []string {
	vars = slices.DeleteFunc(vars, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	return append(vars, name+"="+value)
}

// account is a user that a program can run as.
type account struct {
	name, home, shell string
	uid, gid          uint32
	groups            []uint32
}

var kindAccount = kindOf[*account]{"UID_T", need(parseAccount)}

// parseAccount looks a user up by name or number.
func parseAccount(text string) (*account, error) {
	u, err := user.Lookup(text)
	if err != nil {
		if n, nerr := parseUint(text, math.MaxUint32); nerr == nil {
			u, err = user.LookupId(strconv.FormatUint(n, 10))
		}
	}
	if err != nil {
		return nil, errors.Errorf("unknown user %q", text)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, errors.Wrapf(err, "groups of user %q", text)
	}
	a := &account{name: u.Username, home: u.HomeDir, shell: loginShell(u.Username)}
	for _, id := range append([]string{u.Uid, u.Gid}, ids...) {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, errors.Errorf("user %q has the id %q", text, id)
		}
		a.groups = append(a.groups, uint32(n))
	}
	a.uid, a.gid, a.groups = a.groups[0], a.groups[1], a.groups[2:]
	return a, nil
}

// loginShell returns the shell of a user as /etc/passwd says, /bin/sh if it does not (passwd(5)).
func loginShell(name string) string {
	const usual = "/bin/sh"
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return usual
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if e := strings.Split(lines.Text(), ":"); len(e) == 7 && e[0] == name && e[6] != "" {
			return e[6]
		}
	}
	return usual
}
