package relay

import "fmt"

// MostStreams is the greatest number of streams that one link may have.
const MostStreams = 64

// Streams says in a hello that a link may consist of several streams, each of which carries packets of its own (docs/link.md, chapter 14). The end that connects names the link, so
// that the one that listens knows which streams belong together.
//
// In the hello: name 8 bytes, number 1, count 1.
type Streams struct {
	Name   Nonce // of the link, from the end that connects, the same in all its streams; zero from the end that listens
	Number uint8 // of this stream, from 0; 0 from the end that listens
	Count  uint8 // how many streams the sender will use or take at most, 1 to MostStreams; 0: it said nothing, and so one
}

const streamsLen = 10

// check says why s cannot be sent, or makes no sense.
func (s Streams) check() error {
	switch {
	case s.Count == 0 && s != Streams{}, s.Count > MostStreams:
		return &HelloError{fmt.Sprintf("a link of %d streams (1 to %d)", s.Count, MostStreams)}
	case s.Count > 0 && s.Number >= s.Count:
		return &HelloError{fmt.Sprintf("stream number %d of a link of %d, counted from 0", s.Number, s.Count)}
	case s.Number > 0 && s.Name == Nonce{}:
		return &HelloError{"a further stream of a link that it does not name"}
	}
	return nil
}

// value is the field, nil for nothing said.
func (s Streams) value() []byte {
	if s.Count == 0 {
		return nil
	}
	return append(s.Name[:], s.Number, s.Count)
}

// parseStreams reads the field. Later versions may append to it.
func parseStreams(b []byte) (s Streams, err error) {
	if len(b) < streamsLen {
		return s, &HelloError{fmt.Sprintf("its streams field has %d bytes of %d", len(b), streamsLen)}
	}
	s = Streams{Name: Nonce(b), Number: b[8], Count: b[9]}
	if s.Count == 0 {
		return s, &HelloError{"a link of no streams"}
	}
	return s, s.check()
}
