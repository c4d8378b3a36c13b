package secure

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/flynn/noise"
)

// TestVectors computes the session printed in docs/security.md: key 00 01 ... 1f, ephemeral private keys 20 ... 3f of the initiator and 40 ... 5f of the answering end.
func TestVectors(t *testing.T) {
	count := func(from byte) []byte {
		b := make([]byte, 32)
		for i := range b {
			b[i] = from + byte(i)
		}
		return b
	}
	key := Key(count(0))
	state := func(prologue string, initiator bool, private []byte) *noise.HandshakeState {
		s, err := noise.NewHandshakeState(noise.Config{CipherSuite: suite, Pattern: noise.HandshakeNN, Initiator: initiator, Prologue: []byte(prologue), PresharedKey: key[:],
			Random: bytes.NewReader(private)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	says := func(what string, b []byte) {
		if line := hex.EncodeToString(b); !strings.Contains(string(text), line) {
			t.Errorf("docs/security.md lacks %s:\n%s", what, line)
		}
	}
	for _, prologue := range []string{prologueStream, prologueDatagrams} {
		a, b := state(prologue, true, count(0x20)), state(prologue, false, count(0x40))
		first, _, _, err := a.WriteMessage(appendHeader(nil, kindFirst), nil)
		if err != nil {
			t.Fatal(err)
		}
		says(prologue+": the first message", first)
		if err := checkFirst(&key, prologue, first); err != nil {
			t.Error(err)
		}
		if _, _, _, err := b.ReadMessage(nil, first[headerLen:]); err != nil {
			t.Fatal(err)
		}
		second, receive, send, err := b.WriteMessage(appendHeader(nil, kindAnswer), nil)
		if err != nil {
			t.Fatal(err)
		}
		says(prologue+": the answer", second)
		o := &opening{state: a}
		copy(o.message[:], first)
		ka, err := o.finish(second)
		if err != nil {
			t.Fatal(err)
		}
		kb := newKeys(b, send, receive)
		if prologue == prologueDatagrams {
			head := append([]byte{packetAlive}, ka.id[:]...)
			head = append(head, make([]byte, 8)...)
			says("the sign of life", ka.send.seal(head, 0, nil, head))
			head[0], head[packetHead-1] = packetData, 1
			says("a packet of data", kb.send.seal(head, 1, []byte("hello"), head))
			continue
		}
		sa, sb := recordState{g: ka.send}, recordState{g: kb.send}
		says("the empty record", sa.seal(nil, recordData, nil))
		says("data of the initiator", sa.seal(nil, recordData, []byte("hello")))
		says("the end of data of the answering end", sb.seal(nil, recordEnd, []byte{endOfData}))
		says("the key after a change", sa.g.next().key[:])
	}
}
