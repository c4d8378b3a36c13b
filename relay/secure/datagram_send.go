package secure

import (
	"encoding/binary"
	"slices"
	"time"

	"tunsplice/relay"

	"github.com/pkg/errors"
)

// The sending half of Datagrams.

// send seals one packet and writes it.
func (d *Datagrams) send(typ byte, p []byte) (int, error) {
	d.wmu.Lock()
	defer d.wmu.Unlock()
	out, err := d.seal(d.out[:0], typ, p)
	if err != nil {
		return 0, err
	}
	d.out = out
	if _, err := d.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// seal makes a packet for the wire in dst, which may have to grow. d.wmu is held.
func (d *Datagrams) seal(dst []byte, typ byte, p []byte) (out []byte, err error) {
	d.mu.Lock()
	s := d.now
	counter := s.counter
	s.counter++
	d.owed = time.Time{}
	if typ == packetData {
		d.lastData = time.Now()
		if d.unanswered.IsZero() {
			d.unanswered = d.lastData
			d.arm(d.unanswered.Add(silence))
		}
	}
	d.mu.Unlock()
	if counter >= counterLimit {
		return nil, errors.New("the session is too old to send under, and the peer does not answer a handshake")
	}
	out = append(dst, typ)
	out = append(out, s.id[:]...)
	out = binary.BigEndian.AppendUint64(out, counter)
	out = slices.Grow(out, len(p)+tagLen)
	return s.send.seal(out, counter, p, out[:packetHead]), nil
}

// Write implements relay.Writer: one packet.
func (d *Datagrams) Write(p []byte) (int, error) {
	if len(p) > relay.MaxPacket {
		return 0, errors.Errorf("packet of %d bytes is longer than %d", len(p), relay.MaxPacket)
	}
	return d.send(packetData, p)
}

// WriteBatch implements relay.BatchWriter. What is sealed and can't be sent is sealed anew: no counter comes twice.
func (d *Datagrams) WriteBatch(b *relay.Batch, first int) (n int, err error) {
	w, ok := d.w.(relay.BatchWriter)
	if !ok || first+1 == b.Len() || len(b.Packet(first)) > relay.MaxPacket-Overhead {
		if _, err := d.Write(b.Packet(first)); err != nil {
			return 0, err
		}
		return 1, nil
	}
	d.wmu.Lock()
	defer d.wmu.Unlock()
	if d.sealed == nil {
		d.sealed = relay.NewBatch(0)
	}
	d.sealed.Reset()
	for i := first; i < b.Len(); i++ {
		p, room := b.Packet(i), d.sealed.Room()
		if len(p)+Overhead > len(room) {
			break
		}
		out, err := d.seal(room[:0], packetData, p)
		if err != nil {
			return 0, err
		}
		d.sealed.Commit(len(out))
	}
	for n < d.sealed.Len() {
		m, err := w.WriteBatch(d.sealed, n)
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}
