package secure

import (
	"math/rand/v2"
	"testing"
)

// TestWindow compares the window with a set that forgets nothing.
func TestWindow(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		var w window
		came := map[uint64]bool{}
		top := uint64(rnd.IntN(100))
		for range 3000 {
			var c uint64
			switch rnd.IntN(10) {
			case 0:
				top += uint64(rnd.IntN(3 * windowSize))
				c = top
			case 1, 2, 3:
				c = top - min(top, uint64(rnd.IntN(windowSize+200)))
			default:
				top++
				c = top
			}
			want := !came[c] && (c >= w.next || w.next-c <= windowSize)
			if got := w.fresh(c); got != want {
				t.Fatalf("round %d: %d is fresh: %v, after %d", round, c, got, w.next)
			}
			if want {
				w.mark(c)
				came[c] = true
				top = max(top, c)
			}
		}
	}
	if windowSize < 1024 {
		t.Error("the window is too small")
	}
}
