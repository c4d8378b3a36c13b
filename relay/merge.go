package relay

// Devices that split and merge, where packets travel complete: on the way out GSO packets are taken from the device and split here, on the way in consecutive packets of a flow are
// written to it as one.

// splitHere are the unfinished packets that a device is to hand over where the other side wants complete ones: splitting them here costs less than taking the segments one by one.
const splitHere = CapVNet | CapTSO4 | CapTSO6 | CapECN | CapUSO4 | CapUSO6

// split lets the device at d.src hand over such packets. One that can't hands over complete ones as before.
func (d *direction) split() {
	if d.src.Offload == nil {
		return
	}
	if err := d.src.Offload.Accept(splitHere); err != nil {
		d.s.cfg.Log.Infof("%s: %v; each segment is read by itself", d.src.Label, err)
	}
}

// merge gathers a packet for the device, or writes it if the device takes packets one by one.
func (d *direction) merge(p []byte) error {
	m, ok := d.dst.Offload.(Merger)
	if !ok {
		return d.putPacket(p)
	}
	d.s.cfg.Dump.see(d, p)
	for !m.Add(p) {
		if err := d.flush(); err != nil {
			return err
		}
	}
	return nil
}

// flush writes what merge gathered.
func (d *direction) flush() error {
	m, ok := d.dst.Offload.(Merger)
	if !ok {
		return nil
	}
	return m.Flush(d.merged)
}

// putMerged counts packets that were written as one.
func (d *direction) putMerged(packets, bytes int, err error) error {
	if err == nil {
		d.packets.Add(uint64(packets) - 1) // put counts one
	} else {
		d.lost.Add(uint64(packets) - 1)
	}
	return d.put(bytes, err)
}
