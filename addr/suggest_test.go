package addr

import "testing"

func TestSuggest(t *testing.T) {
	names := []string{"tcp", "tcp-listen", "udp", "reuseaddr", "reuseport", "fork", "tun-type", "up", "unix-listen"}
	for _, c := range []struct{ word, want string }{
		{"tcp-lisen", "tcp-listen"}, // missing
		{"TCP-LISSTEN", "tcp-listen"},
		{"tcp-litsen", "tcp-listen"}, // swapped
		{"fokr", "fork"},
		{"tun_type", "tun-type"},
		{"tuntype", "tun-type"},
		{"reuseadr", "reuseaddr"},
		{"resueadr", "reuseaddr"},
		{" fork", "fork"},
		{"fork", "fork"},
		{"tpc", "tcp"},
		{"ucp", "tcp"}, // udp is as near: the first wins
		{"pu", "up"},
		{"x", ""},
		{"", ""},
		{"nonsense", ""},
		{"tcp-listen-and-more", ""},
	} {
		if got := Suggest(c.word, names); got != c.want {
			t.Errorf("%s: got %q, want %q", c.word, got, c.want)
		}
	}
	if got := Suggest("fork", []string{""}); got != "" {
		t.Errorf("got %q", got)
	}
}
