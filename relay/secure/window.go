package secure

// window remembers which of the latest packet counters have come, so that none is taken twice (RFC 6479). Counters may come out of order by up to windowSize; older ones are refused.
type window struct {
	next uint64 // one more than the greatest counter that came
	seen [windowWords]uint64
}

const (
	windowWords = 64                     // one word is being filled, the others are the window
	windowSize  = (windowWords - 1) * 64 // packets
)

// fresh says whether a counter could be new. Whether its packet is authentic is to be found out before it is marked.
func (w *window) fresh(counter uint64) bool {
	if counter >= w.next {
		return true
	}
	if w.next-counter > windowSize {
		return false
	}
	return w.seen[counter/64%windowWords]&(1<<(counter%64)) == 0
}

// mark notes that a fresh counter has come.
func (w *window) mark(counter uint64) {
	if counter >= w.next {
		if w.next > 0 {
			last := counter / 64
			for word := max((w.next-1)/64+1, last-min(last, windowWords-1)); word <= last; word++ {
				w.seen[word%windowWords] = 0
			}
		}
		w.next = counter + 1
	}
	w.seen[counter/64%windowWords] |= 1 << (counter % 64)
}
