package relay

import "testing"

// A session's messages begin with its label, also those that are errors of the endpoint it is named after: once.
func TestSessionLabelOnce(t *testing.T) {
	var got []string
	log := NewLog(Debug, func(_ Level, text string) { got = append(got, text) }).With("TCP-LISTEN:80 10.0.0.1:4711")
	log.Errorf("TCP-LISTEN:80 10.0.0.1:4711: write: Broken pipe")
	log.Errorf("EXEC:cat: write: Broken pipe")
	want := []string{"TCP-LISTEN:80 10.0.0.1:4711: write: Broken pipe", "TCP-LISTEN:80 10.0.0.1:4711: EXEC:cat: write: Broken pipe"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%q, want %q", got[i], want[i])
		}
	}
}
