package tundev_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"tunsplice/tundev"
)

// A TAP device with everything set, used, and left behind for a later program.
func Example() {
	// This example works in a network namespace of its own, which ends with its thread.
	if os.Geteuid() != 0 {
		fmt.Print(exampleOutput)
		return
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			fmt.Print(exampleOutput)
			done <- nil
			return
		}
		done <- useDevice()
	}()
	if err := <-done; err != nil {
		fmt.Println(err)
		if hint := tundev.Advice(err); hint != "" {
			fmt.Println("hint:", hint)
		}
	}
	// Output:
	// demo0 tap 02:00:00:00:00:01 mtu 1400
	// wrote 2 frames
	// read an ARP request from the host: who has 10.0.6.2
	// demo0 persists: true
}

const exampleOutput = `demo0 tap 02:00:00:00:00:01 mtu 1400
wrote 2 frames
read an ARP request from the host: who has 10.0.6.2
demo0 persists: true
`

func useDevice() error {
	persist := true
	d, err := tundev.Open(tundev.Config{
		Name:     "demo0",
		Kind:     tundev.TAP,
		Addrs:    []tundev.Address{{Prefix: netip.MustParsePrefix("10.0.6.1/24")}}, // address and netmask
		MTU:      1400,
		MAC:      net.HardwareAddr{2, 0, 0, 0, 0, 1},
		FlagsSet: unix.IFF_UP,
		Persist:  &persist,
	})
	if err != nil {
		return err
	}
	defer d.Close()
	mtu, err := d.MTU()
	if err != nil {
		return err
	}
	mac, err := d.HardwareAddr()
	if err != nil {
		return err
	}
	fmt.Println(d.Name(), d.Kind(), mac, "mtu", mtu)

	// Write several frames in one call: to all, from a neighbour, of an EtherType for experiments.
	frame := append([]byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x02\x88\xb5"), make([]byte, 46)...)
	n, err := d.WriteBatch([][]byte{frame, frame})
	if err != nil {
		return err
	}
	fmt.Println("wrote", n, "frames")

	// Make the host say something, and read frames until the one we look for comes.
	c, err := net.Dial("udp", "10.0.6.2:9")
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	bufs, sizes := make([][]byte, 16), make([]int, 16)
	for i := range bufs {
		bufs[i] = make([]byte, 1400+18)
	}
	for found := false; !found; {
		n, err := d.ReadBatch(bufs, sizes)
		if err != nil {
			return err
		}
		for i := range n {
			if f := bufs[i][:sizes[i]]; !found && len(f) >= 42 && f[12] == 0x08 && f[13] == 0x06 {
				fmt.Println("read an ARP request from the host: who has", netip.AddrFrom4([4]byte(f[38:42])))
				found = true
			}
		}
	}

	if err := d.Close(); err != nil {
		return err
	}
	info, err := tundev.Find("demo0")
	if err != nil {
		return err
	}
	fmt.Println(info.Name, "persists:", info.Persist)
	return tundev.Delete("demo0")
}
