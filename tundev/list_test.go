package tundev

import (
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestList(t *testing.T) {
	needDevices(t)
	ns := newNS(t)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	prepared(t, Config{Name: "p", Kind: TAP, NetNS: ns, Owner: new(0), Group: new(7), MAC: mac, Bridge: "br", FlagsSet: unix.IFF_UP})
	mustOpen(t, Config{Name: "t", NetNS: ns, PI: true, VNetHdr: true, MultiQueue: true, MTU: 1400})
	mustOpen(t, Config{Name: "u", NetNS: ns})
	within(t, ns, func() {
		list, err := List()
		if err != nil || len(list) != 3 {
			t.Fatalf("%+v, %v", list, err)
		}
		byName := map[string]Info{}
		for _, i := range list {
			byName[i.Name] = i
		}
		p, q, u := byName["p"], byName["t"], byName["u"]
		if p.Kind != TAP || p.Owner == nil || *p.Owner != 0 || p.Group == nil || *p.Group != 7 || !p.Persist || p.InUse || p.PI || p.VNetHdr ||
			p.MultiQueue || p.HardwareAddr.String() != mac.String() || p.Bridge == 0 || p.Flags&unix.IFF_UP == 0 {
			t.Errorf("%+v", p)
		}
		if q.Kind != TUN || q.Owner != nil || q.Group != nil || q.Persist || !q.InUse || !q.PI || !q.VNetHdr || !q.MultiQueue || q.MTU != 1400 {
			t.Errorf("%+v", q)
		}
		if !u.InUse {
			t.Errorf("%+v", u)
		}
		for _, name := range []string{"lo", "br", "nobody", "a b", ""} {
			if err := Delete(name); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("delete %q: %v", name, err)
			}
			if _, err := Find(name); err == nil {
				t.Errorf("find %q: no error", name)
			}
		}
		if err := Delete("p"); err != nil {
			t.Error(err)
		}
		if _, err := Find("p"); err == nil {
			t.Error("deleted and found")
		}
	})
}
