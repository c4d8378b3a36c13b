package secure

import (
	"encoding/binary"
	"fmt"

	"github.com/pkg/errors"
)

// A record of a byte stream:
//
//	0  1  type: 0 data, 1 end
//	1  3  length of the rest in bytes, big-endian: that of the plaintext plus 16
//	4  .  AES-256-GCM of the plaintext; header as associated data, number of the record in its direction (from 0) as nonce
//
// Data are 0 to 65536 bytes; an empty one means nothing (the initiator's first one ends the handshake). An end has one byte, why: 0 the end of the data, 1 the sender breaks off.
// After each record with which 2^30 bytes of plaintext or more, or 2^20 records, have gone under one key, both sides rekey; the number goes on.
const (
	recordHead = 4
	recordData = 0
	recordEnd  = 1

	endOfData = 0
	endBroken = 1

	maxPlain  = 64 << 10
	maxRecord = recordHead + maxPlain + tagLen

	rekeyBytes   = 1 << 30
	rekeyRecords = 1 << 20
)

// RecordError says that what came is no record of the peer's: it was altered on the way, or is not of this session.
type RecordError struct{ Why string }

func (e *RecordError) Error() string { return "the stream was altered on its way: " + e.Why }

// recordState is one direction of a stream.
type recordState struct {
	g       *gcm
	number  uint64
	bytes   int // of plaintext under this key
	records int
}

// passed counts a record, and changes the key when it is time.
func (s *recordState) passed(plain int) {
	s.number++
	s.records++
	s.bytes += plain
	if s.bytes >= rekeyBytes || s.records >= rekeyRecords {
		s.g = s.g.next()
		s.bytes, s.records = 0, 0
	}
}

// seal appends a record to dst. plain must not overlap with the free part of dst.
func (s *recordState) seal(dst []byte, typ byte, plain []byte) []byte {
	n := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, uint32(typ)<<24|uint32(len(plain)+tagLen))
	dst = s.g.seal(dst, s.number, plain, dst[n:n+recordHead])
	s.passed(len(plain))
	return dst
}

// recordLen returns the length of the record at the start of b, header included; 0 if more bytes are needed to know.
func recordLen(b []byte) (int, error) {
	if len(b) < recordHead {
		return 0, nil
	}
	n := int(binary.BigEndian.Uint32(b) & 0xffffff)
	switch {
	case b[0] > recordEnd:
		return 0, &RecordError{fmt.Sprintf("a record of the unknown type %d", b[0])}
	case n < tagLen || n > maxPlain+tagLen:
		return 0, &RecordError{fmt.Sprintf("a record of %d bytes", n)}
	}
	return recordHead + n, nil
}

// open decrypts a whole record into dst, which is empty and has room, or is the record's own place behind the header.
func (s *recordState) open(dst, record []byte) (plain []byte, err error) {
	plain, err = s.g.open(dst, s.number, record[recordHead:], record[:recordHead])
	if err != nil {
		return nil, &RecordError{"a record is not authentic"}
	}
	s.passed(len(plain))
	return plain, nil
}

// errCutOff is the end of a stream that nobody announced.
var errCutOff = errors.New("the stream was cut off: the peer is gone, or somebody on the way ended the connection")
