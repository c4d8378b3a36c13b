package addr

import "strings"

// Suggest returns the name among the given ones that word was most probably
// meant to be, for "did you mean", or "" if none is near: as many edits as a
// third of its length, at most three. An edit is a character too many, missing,
// wrong, or two neighbours swapped (Damerau-Levenshtein distance, in the form
// that edits no part twice). Case and surrounding space do not count. Of equally
// near names the first one wins.
func Suggest(word string, among []string) string {
	word = strings.ToLower(strings.TrimSpace(word))
	bound := min(3, (len(word)+1)/3)
	best := ""
	for _, name := range among {
		if d := distance(word, strings.ToLower(name), bound); d <= bound && name != "" {
			best, bound = name, d-1
		}
	}
	return best
}

// distance counts the edits from a to b; any number above bound may stand for
// all of them.
func distance(a, b string, bound int) int {
	if len(a)-len(b) > bound || len(b)-len(a) > bound {
		return bound + 1
	}
	// Three rows of the usual matrix: two back for swaps, one back, this one.
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			wrong := 1
			if a[i-1] == b[j-1] {
				wrong = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+wrong)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
