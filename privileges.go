package main

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"tunsplice/addr"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// What the process gives up after set-up: options su, su-d, setuid, setgid and chroot of addresses that start no program, and --drop. It happens once, after both addresses
// are open, or with fork when the forking one is and before its first peer is served.
//
// A Linux thread has credentials of its own, and Go's threads come and go; so each change is made on all of them (syscall.AllThreadsSyscall; syscall.Setuid and its kin do so by themselves).
// The root directory belongs to all threads together, but for those that had to have their own for a moment (option umask), so it too is set on each.

// privileges are what is given up.
type privileges struct {
	addr.Identity
	drop bool
	keep addr.Caps // of --drop
	once sync.Once
	err  error
}

// checkPrivileges finds out what is to be given up, and what can't work then.
func (p *invocation) checkPrivileges(left, right *addr.Address) error {
	id, err := addr.IdentityOf(left, right)
	if err != nil {
		return err
	}
	p.privileges.Identity, p.privileges.drop = id, p.Drop
	// With reconnect the way is opened again and again, and the device if somebody deletes it.
	_, leftAgain := left.Reconnects()
	_, rightAgain := right.Reconnects()
	again := leftAgain || rightAgain
	for _, a := range []*addr.Address{left, right} {
		p.privileges.keep |= a.LaterCaps(again || a.Streams() > 1 || openedForEach(a, left, right))
	}
	if p.Drop && onAllThreads(unix.SYS_GETPID, 0, 0, 0, 0) != nil {
		return hinted{errors.New("--drop: this program was built with cgo, in which a Go program can't change all its threads"), "build it with CGO_ENABLED=0"}
	}
	if id.ChangesUser() && !effectiveCaps().Has(unix.CAP_SETUID) {
		return hinted{errors.New("options su, su-d, setuid and setgid: this process may not become another user"), "run it as root"}
	}
	if id.Root != "" && !effectiveCaps().Has(unix.CAP_SYS_CHROOT) {
		return hinted{errors.New("option chroot: this process may not change its root directory"), "run it as root"}
	}
	for _, a := range []*addr.Address{left, right} {
		switch {
		case !openedForEach(a, left, right) || !a.OpensNewDevice():
		case id.Root != "":
			return hinted{errors.Errorf("option chroot: %q is opened anew for each peer, and there is no /dev/net/tun below %s", a.Text, id.Root),
				"leave out fork, so that the device is opened before"}
		case id.ChangesUser() && !p.Drop:
			return hinted{errors.Errorf("options su, su-d, setuid and setgid: %q is opened anew for each peer, which the new user may not do", a.Text),
				"add --drop, which keeps the capability for it, or leave out fork, or prepare a device that belongs to the user and name it with tun-name"}
		}
	}
	return nil
}

// openedForEach says whether an address is opened anew for each peer of the other one.
func openedForEach(a, left, right *addr.Address) bool {
	return a == right && left.Forks() || a == left && right.Forks()
}

// explain says what is given up; "" if nothing is.
func (v *privileges) explain() string {
	var words []string
	if v.Root != "" {
		words = append(words, "has the root directory "+v.Root)
	}
	switch {
	case v.Account != nil:
		words = append(words, "is user "+v.Account.Name)
	case v.UID != nil:
		words = append(words, "is user "+strconv.Itoa(*v.UID))
	}
	if v.GID != nil && v.Account == nil {
		words = append(words, "is of group "+strconv.Itoa(*v.GID))
	}
	if v.drop {
		words = append(words, "has the capabilities "+capNames(v.keep))
	}
	if len(words) == 0 {
		return ""
	}
	return "after set-up the process " + strings.Join(words, ", ")
}

// giveUpPrivileges does it, the first time it is called; later calls return the same.
func (p *invocation) giveUpPrivileges() error {
	v := &p.privileges
	v.once.Do(func() { v.err = p.becomeLess() })
	return v.err
}

func (p *invocation) becomeLess() error {
	v := &p.privileges
	if v.drop {
		if err := v.dropBounding(); err != nil {
			return err
		}
	}
	if err := v.changeIdentity(); err != nil {
		return err
	}
	if v.Changes() {
		p.log.Noticef("user %d, group %d%s", os.Geteuid(), os.Getegid(), map[bool]string{true: ", root directory " + v.Root}[v.Root != ""])
	}
	if v.drop {
		if err := v.dropRest(); err != nil {
			return err
		}
		p.log.Noticef("--drop: capabilities left: %s", capNames(effectiveCaps()))
	}
	return nil
}

// changeIdentity does what the addresses' options ask for.
func (v *privileges) changeIdentity() error {
	if v.Root != "" {
		if err := chroot(v.Root); err != nil {
			return errors.Wrapf(err, "chroot %s", v.Root)
		}
	}
	if v.drop && v.keep != 0 && v.UID != nil {
		if err := onAllThreads(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0); err != nil {
			return errors.Wrap(err, "keep capabilities")
		}
	}
	if a := v.Account; a != nil {
		if err := syscall.Setgroups(a.Groups); err != nil {
			return errors.Wrapf(err, "groups of user %s", a.Name)
		}
		for name, value := range map[string]string{"USER": a.Name, "LOGNAME": a.Name, "HOME": a.Home, "SHELL": a.Shell} {
			os.Setenv(name, value)
		}
	}
	if v.GID != nil {
		if err := syscall.Setgid(*v.GID); err != nil {
			return errors.Wrapf(err, "become group %d", *v.GID)
		}
	}
	if v.UID != nil {
		if err := syscall.Setuid(*v.UID); err != nil {
			return errors.Wrapf(err, "become user %d", *v.UID)
		}
	}
	return nil
}

// chroot changes root and working directory of all threads.
func chroot(dir string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	here, err := unix.BytePtrFromString(".")
	if err != nil {
		return err
	}
	if err := onAllThreads(unix.SYS_FCHDIR, uintptr(fd), 0, 0, 0); err != nil {
		return err
	}
	return onAllThreads(unix.SYS_CHROOT, uintptr(unsafe.Pointer(here)), 0, 0, 0)
}

// onAllThreads makes a system call on each thread. In a build with cgo, as the race detector's, Go can't: there the one call suffices for what a process shares.
//
//go:uintptrescapes
func onAllThreads(call, a, b, c, d uintptr) error {
	_, _, e := syscall.AllThreadsSyscall6(call, a, b, c, d, 0, 0)
	if e == syscall.ENOTSUP && (call == unix.SYS_FCHDIR || call == unix.SYS_CHROOT) {
		_, _, e = syscall.Syscall(call, a, b, c)
	}
	if e != 0 {
		return e
	}
	return nil
}

// lastCap is the highest capability that Caps can hold; the kernel says EINVAL to those that it does not know.
const lastCap = 63

// dropBounding takes from the bounding set, which limits what programs can gain, all but what is kept. It needs CAP_SETPCAP; without it no_new_privs has to do.
func (v *privileges) dropBounding() error {
	if !effectiveCaps().Has(unix.CAP_SETPCAP) {
		return nil
	}
	for n := range lastCap + 1 {
		if v.keep.Has(n) {
			continue
		}
		switch err := onAllThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(n), 0, 0); err {
		case nil:
		case unix.EINVAL: // no such capability, nor any above
			return nil
		default:
			return errors.Wrap(err, "--drop: bounding set")
		}
	}
	return nil
}

// dropRest drops the capabilities themselves and sets no_new_privs (prctl(2)), so that no set-user-ID program brings anything back.
func (v *privileges) dropRest() error {
	switch err := onAllThreads(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0); err {
	case nil, unix.EINVAL: // before Linux 4.3 there are none
	default:
		return errors.Wrap(err, "--drop: ambient set")
	}
	now, err := readCaps()
	if err != nil {
		return errors.Wrap(err, "--drop")
	}
	var data [2]unix.CapUserData
	for i := range data {
		keep := uint32(v.keep>>(32*i)) & now[i].Permitted
		data[i] = unix.CapUserData{Effective: keep, Permitted: keep}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := onAllThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0, 0); err != nil {
		return errors.Wrap(err, "--drop: capabilities")
	}
	return errors.Wrap(onAllThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0), "--drop: no_new_privs")
}

// readCaps returns the capabilities of this thread, low half first.
func readCaps() (data [2]unix.CapUserData, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	err = unix.Capget(&header, &data[0])
	return data, err
}

// effectiveCaps returns the capabilities that this process can use; none if that can't be found out.
func effectiveCaps() addr.Caps {
	data, err := readCaps()
	if err != nil {
		return 0
	}
	return addr.Caps(data[0].Effective) | addr.Caps(data[1].Effective)<<32
}

// capNames lists capabilities for people.
func capNames(c addr.Caps) string {
	names := map[int]string{unix.CAP_KILL: "cap_kill", unix.CAP_SETGID: "cap_setgid", unix.CAP_SETUID: "cap_setuid", unix.CAP_NET_BIND_SERVICE: "cap_net_bind_service",
		unix.CAP_NET_ADMIN: "cap_net_admin", unix.CAP_NET_RAW: "cap_net_raw", unix.CAP_SYS_CHROOT: "cap_sys_chroot", unix.CAP_SYS_ADMIN: "cap_sys_admin"}
	var list []string
	for n, name := range names {
		if c.Has(n) {
			list = append(list, name)
		}
	}
	if len(list) == 0 {
		return "none"
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}
