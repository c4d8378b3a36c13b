package addr

import "testing"

// Numbers are as strtoul(3) reads them, and nothing that Go would take beyond.
func TestParseNumber(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "10": 10, "010": 8, "0x1F": 31, "0X1f": 31, "-3": -3, "+3": 3, " 7": 7, "-0x10": -16, "9223372036854775807": 1<<63 - 1, "-9223372036854775808": -1 << 63,
	} {
		if n, err := ParseNumber(text); err != nil || n != want {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	for text, want := range map[string]string{
		"": "missing numerical value", " ": "missing numerical value", "x": "missing numerical value", "-": "missing numerical value", "--1": "missing numerical value",
		"1x": "trailing garbage after the number", "1 ": "trailing garbage after the number", "08": "trailing garbage after the number", "1_0": "trailing garbage after the number",
		"0b1": "trailing garbage after the number", "0o7": "trailing garbage after the number", "0x": "trailing garbage after the number", "0x-1": "trailing garbage after the number",
		"9223372036854775808": "number out of range",
	} {
		if n, err := ParseNumber(text); err == nil || err.Error() != want {
			t.Errorf("%q: %d, %v, want %s", text, n, err, want)
		}
	}
}

func TestParsePort(t *testing.T) {
	for text, want := range map[string]uint16{"80": 80, "0x50": 80, "0120": 80, "0": 0, "65535": 65535, "http": 80} {
		if n, err := parsePort("tcp", text); err != nil || n != want {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
}
