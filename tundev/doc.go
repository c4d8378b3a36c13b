// Package tundev opens, configures, reads and writes TUN and TAP devices on Linux.
//
// A TUN device is a network interface whose packets (IPv4 or IPv6, no link header) a program reads and writes; a TAP
// device does the same with Ethernet frames, from the destination address on and without the frame check sequence.
// One read takes one packet out of the kernel, one write puts one in.
//
//	d, err := tundev.Open(tundev.Config{
//		Kind:     tundev.TAP,
//		Addrs:    []tundev.Address{{Prefix: netip.MustParsePrefix("10.0.6.1/24")}},
//		FlagsSet: unix.IFF_UP,
//	})
//
// # Ownership
//
// [Open] does all of what it is asked or nothing: after an error no device, address, route or bridge is left behind.
// A device that Open made disappears with [Device.Close]. A device that was there before stays: it is never deleted,
// renamed or made less persistent unless the caller says so, and Close takes back what Open changed on it (addresses,
// routes, bridge port, flags, MTU, MAC address, transmit queue length), as far as nobody changed the same thing
// meanwhile. [Config.Persist] set to true turns both rules off: the device and its settings are meant to outlive the
// program.
//
// Settings are read first and only those that differ are changed, so that an ordinary user who owns a device prepared
// by the administrator (ip tuntap add NAME mode tun user UID) needs no privilege.
//
// # Packets
//
// What stands in front of each packet is the caller's choice: nothing, 4 bytes of packet information ([Config.PI]:
// 16 bit flags in host order, 16 bit EtherType in network order), the 10 bytes of a virtio-net header in little-endian
// order ([Config.VNetHdr]), or both, in this order.
//
// Buffers for reading must hold a whole packet: the kernel cuts what does not fit and, without packet information,
// gives no sign of it. The MTU plus 18 bytes (Ethernet header and VLAN tag) plus the headers above is enough while no
// receive offload is on; with TCP or UDP segmentation on it is 65535 bytes plus the same.
//
// # Errors
//
// Errors of the kernel are kept as they are and can be tested with errors.Is(err, unix.EPERM) and the like. [Advice]
// gives a sentence on the cure where one is known. [PerPacket] tells an error that concerns one packet only (the
// interface is down, the packet is malformed) from those that end the use of the device; [IsGone] tells that the device
// was deleted.
package tundev
