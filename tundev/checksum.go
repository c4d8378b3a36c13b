package tundev

import (
	"encoding/binary"
	"math/bits"
)

// The Internet checksum (RFC 1071) is the same whatever byte order the words are added in, only its two result bytes
// change places (section 2.B). So the sum below is taken over little-endian words, which is what the processors at hand load,
// 64 bits at a time with the carry added back in, and turned round once in foldSum.

// Checksum returns the Internet checksum (RFC 1071) of b: the complement of the one's complement sum of its 16 bit big-endian
// words, an odd last byte being filled up with a zero byte. Over an IPv4 header whose checksum field is right it returns 0.
// Store it with binary.BigEndian.
func Checksum(b []byte) uint16 { return ^foldSum(addSum(0, b)) }

// addSum adds the bytes of b to a running sum. Only the last piece of a sum may have an odd length.
func addSum(sum uint64, b []byte) uint64 {
	var c uint64
	for len(b) >= 64 {
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[0:8]), 0)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[8:16]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[16:24]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[24:32]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[32:40]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[40:48]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[48:56]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b[56:64]), c)
		sum += c // cannot carry again: a sum that carried is at most 2^64-2
		b = b[64:]
	}
	for len(b) >= 8 {
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b), 0)
		sum += c
		b = b[8:]
	}
	var tail uint64
	if len(b) >= 4 {
		tail = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		tail += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		tail += uint64(b[0])
	}
	sum, c = bits.Add64(sum, tail, 0)
	return sum + c
}

// addSum16 adds one 16 bit number to a running sum, as if its two big-endian bytes had stood in the data.
func addSum16(sum uint64, v uint16) uint64 {
	sum, c := bits.Add64(sum, uint64(bits.ReverseBytes16(v)), 0)
	return sum + c
}

// foldSum brings a running sum down to 16 bits, not complemented, as a number to be stored big-endian.
func foldSum(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return bits.ReverseBytes16(uint16(sum))
}
