package addr

import (
	"os"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// What addresses have to do with the privileges of the process. The options chroot, setgid, setuid, substuser and substuser-delayed concern a program where the address starts one;
// on any other address they concern the whole process, once everything that needs privilege is open. The process changes itself in the main package: nothing here is per address.

// Identity is who the process becomes, and where, after set-up. Zero: it stays what it is.
type Identity struct {
	Root     string // new root directory, "" for none
	UID, GID *int   // nil: stays
	// Account is the user of option substuser, nil for none: UID and GID are set too.
	Account *Account
}

// Account is what a user's entry says of one who is to be.
type Account struct {
	Name, Home, Shell string
	Groups            []int // all supplementary groups
}

// Changes says whether there is anything to do.
func (i *Identity) Changes() bool { return i.Root != "" || i.ChangesUser() }

// ChangesUser says whether the process becomes another user or group.
func (i *Identity) ChangesUser() bool { return i.UID != nil || i.GID != nil }

// IdentityOf returns what the options of two addresses ask of the process. An error is a mistake in the command line.
func IdentityOf(left, right *Address) (id Identity, err error) {
	for _, a := range []*Address{left, right} {
		for _, b := range a.bounds() {
			if b.Groups&GFORK != 0 {
				continue
			}
			if err := b.addIdentity(&id); err != nil {
				return id, &Mistake{Arg: a.Text, Pos: -1, Msg: b.Spec.Keyword + ": " + err.Error(), hint: Hint(err)}
			}
		}
	}
	return id, nil
}

func (b *Bound) addIdentity(id *Identity) error {
	twice := func(what string) error {
		return withHint{errors.Errorf("option %s: the other address says so too", what), "it concerns the whole process: once is enough"}
	}
	if root, given := optChroot.Get(b); given {
		if id.Root != "" {
			return twice("chroot")
		}
		if st, err := os.Stat(root); err != nil || !st.IsDir() {
			return errors.Errorf("option chroot: %q is no directory", root)
		}
		id.Root = root
	}
	for _, k := range []Key[*account]{optSuD, optSu} {
		who, given := k.Get(b)
		if !given {
			continue
		}
		if id.Account != nil {
			return twice(k.opt.Name)
		}
		uid, gid := int(who.uid), int(who.gid)
		id.UID, id.GID = &uid, &gid
		id.Account = &Account{Name: who.name, Home: who.home, Shell: who.shell}
		for _, g := range who.groups {
			id.Account.Groups = append(id.Account.Groups, int(g))
		}
	}
	if n, given := optSetgid.Get(b); given {
		gid := int(n)
		id.GID = &gid
	}
	if n, given := optSetuid.Get(b); given {
		uid := int(n)
		id.UID = &uid
	}
	return nil
}

// Caps is a set of capabilities, bit N for capability N of capability(7).
type Caps uint64

// Has says whether a capability is in the set.
func (c Caps) Has(capability int) bool { return c&(1<<capability) != 0 }

// LaterCaps returns the capabilities that the address still needs after it was opened. again says that it is opened anew later: with fork for each peer of the other address.
func (a *Address) LaterCaps(again bool) (c Caps) {
	for _, b := range a.bounds() {
		c |= b.laterCaps(again)
	}
	return c
}

func (b *Bound) laterCaps(again bool) (c Caps) {
	need := func(when bool, capability int) {
		if when {
			c |= 1 << capability
		}
	}
	if b.Groups&GINTERFACE != 0 {
		set, clear := b.interfaceFlags()
		changed := set|clear != 0 || said(optIfMTU, b)
		if b.Name == "INTERFACE" {
			need(again, unix.CAP_NET_RAW)
			need(changed, unix.CAP_NET_ADMIN) // flags and MTU are put back at the end
		} else {
			// A device with a name may have been there before: then what was changed is put back. A bridge that was made is removed.
			need(again || said(optTunName, b) || said(optBridge, b), unix.CAP_NET_ADMIN)
		}
	}
	if b.Groups&GFORK != 0 {
		user := said(optSu, b) || said(optSuD, b) || said(optSetuid, b)
		need(user, unix.CAP_KILL) // a program of another user that does not end is sent signals
		need(again && user, unix.CAP_SETUID)
		need(again && (user || said(optSetgid, b)), unix.CAP_SETGID)
		need(again && said(optChroot, b), unix.CAP_SYS_CHROOT)
	}
	need(again && said(optNetns, b), unix.CAP_SYS_ADMIN)
	need(again && b.bindsLowPort(), unix.CAP_NET_BIND_SERVICE)
	return c
}

// said says whether an option was given, without acting on it.
func said[T any](k Key[T], b *Bound) bool {
	_, given := k.peek(b)
	return given
}

// bindsLowPort says whether the address binds a socket to a port below 1024, or may do so.
func (b *Bound) bindsLowPort() bool {
	if low, _ := optLowPort.peek(b); low {
		return true
	}
	if port, given := optSourcePort.peek(b); given && port > 0 && port < 1024 {
		return true
	}
	text, _ := optBind.peek(b)
	_, port := splitHostPort(text)
	if port == "" {
		return false
	}
	n, err := parseUint(port, 1<<16-1)
	return err != nil || n > 0 && n < 1024 // a service name may be anything
}

// OpensNewDevice says whether the address needs privilege each time it is opened: it makes a device, or reads an interface that exists. A device that has a
// name may have been prepared for a user.
func (a *Address) OpensNewDevice() bool {
	for _, b := range a.bounds() {
		if b.Groups&GINTERFACE != 0 && (b.Name == "INTERFACE" || !said(optTunName, b)) {
			return true
		}
	}
	return false
}

// Descriptors returns the inherited descriptors that the address uses.
func (a *Address) Descriptors() (fds []int) {
	for _, b := range a.bounds() {
		switch b.Name {
		case "STDIO":
			if b.Mode&Read != 0 {
				fds = append(fds, 0)
			}
			if b.Mode&Write != 0 {
				fds = append(fds, 1)
			}
		case "STDIN":
			fds = append(fds, 0)
		case "STDOUT":
			fds = append(fds, 1)
		case "STDERR":
			fds = append(fds, 2)
		case "FD":
			if n, err := fdNumber(b); err == nil { // Bind has seen to it
				fds = append(fds, n)
			}
		}
	}
	return fds
}
