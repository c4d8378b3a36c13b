package relay

import (
	"strings"
	"time"

	"github.com/pkg/errors"
)

// The last words of a link: what the peer is told, how it gets the time to read it, and what its own last word means here.

// quit ends the goroutine of the link, after both directions have ended.
func (l *link) quit() {
	l.stop()
	l.stream.W.SetWriteDeadline(time.Now().Add(lastWord))
	l.talking.Wait()
	l.stream.W.SetWriteDeadline(time.Now().Add(lastWord))
	if l.finish() {
		l.hangUp(lastWord)
	}
}

// lastWord bounds how long the end of a session waits for the frame that is under way, for room for the reason, and for the peer to read it.
const lastWord = 50 * time.Millisecond

// finish tells the peer that the link ends, and why, if it can: else the end of the stream must do. It says whether that was done now.
func (l *link) finish() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.framed || l.torn || l.closed {
		return false
	}
	l.closed = true
	text := ""
	if t := l.reason.Load(); t != nil {
		text = *t
	}
	p, err := AppendClose(nil, CloseCode(l.s.why.Load()), text)
	if err != nil {
		return false
	}
	_, err = l.stream.W.Write(p)
	return err == nil
}

// broken returns the error of a peer that broke the protocol, and sees to it that it is told.
func (l *link) broken(err error) error {
	text := printable([]byte(err.Error()))
	text = strings.ToValidUTF8(text[:min(len(text), MaxCloseText)], "")
	l.reason.Store(&text)
	l.s.why.CompareAndSwap(uint32(CloseNormal), uint32(CloseProtocol))
	return errors.Wrap(err, l.stream.Label)
}

// hangUp ends what goes to the peer, and for a while passes over what still comes: a connection that is closed while bytes of the peer are unread is reset (RFC 2525, 2.17),
// and the last word would be lost with it.
func (l *link) hangUp(wait time.Duration) {
	if l.stream.Traffic != Stream || l.stream.W.CloseWrite() != nil {
		return
	}
	l.stream.R.SetReadDeadline(time.Now().Add(wait))
	for rest := make([]byte, 4096); ; {
		if _, err := l.stream.R.Read(rest); err != nil {
			return
		}
	}
}

// refuse tells the peer why, and gives it a moment to read that before the stream ends.
func (l *link) refuse(h *Hello, why string) {
	said := make(chan struct{})
	l.post(saying{hello: &Hello{Ack: h.Nonce != Nonce{}, Peer: h.Nonce, Refuse: true, Reason: why}, then: func() { close(said) }})
	select {
	case <-said:
	case <-l.ended:
		return
	case <-time.After(patience): // the peer does not read
		return
	}
	l.hangUp(patience)
}

// patience is how long a peer that is refused gets to read why.
const patience = time.Second

// peerCloses takes the last word of the peer: the end of the stream, or an error if it is not a wanted end. Over datagrams it ends nothing: the peer may come again.
func (l *link) peerCloses(code CloseCode, text string) error {
	why := strings.TrimSpace(code.String() + " " + text)
	if code != CloseNormal && l.stream.Traffic == Stream {
		return errors.Errorf("%s: the peer closes the link: %s", l.stream.Label, why)
	}
	l.log.Noticef("%s: the peer closes the link: %s", l.stream.Label, why)
	return errPeerClosed
}
