package relay

// PeerInfo is what is known of the peer of a session once traffic can flow.
type PeerInfo struct {
	Identity [16]byte // of the link (docs/link.md), the same in all its sessions; zero: not known
	Framing  string   // how packets travel: "link", "u16", ...; "none" for what is not framed
	MTU      int      // of the peer's device in bytes, 0: not known
	Software string   // name and version that the peer gave, made printable; "" if it gave none
	Framed   bool     // packets keep their borders
	Streams  Streams  // of which the peer says its link consists; zero: it takes one only
}

// admit is called once in each session, before the first packet moves to or from a device and before the peer is told that it may send: when the peer is known or is taken as it is.
func (s *Session) admit(info PeerInfo) error {
	s.admitting.Do(func() {
		if s.cfg.Admit != nil {
			s.admitErr = s.cfg.Admit(info)
		}
		if s.admitErr != nil {
			return
		}
		s.setCarrier(true)
		if s.cfg.Up != nil {
			s.cfg.Up(info)
		}
	})
	return s.admitErr
}

// admitBoth asks two, the first of which may be nil.
func admitBoth(first, second func(PeerInfo) error) func(PeerInfo) error {
	if first == nil {
		return second
	}
	return func(info PeerInfo) error {
		if err := first(info); err != nil {
			return err
		}
		return second(info)
	}
}

// admitPlain admits the peer of a session in which no hellos are exchanged.
func (s *Session) admitPlain() error {
	info := PeerInfo{Framing: FramingNone.String()}
	for _, e := range []*Endpoint{s.left, s.right} {
		switch e.Framing {
		case FramingU16, FramingQemu, FramingSlip:
			info.Framing, info.Framed = e.Framing.String(), true
		}
	}
	return s.admit(info)
}

// setCarrier tells the devices that have been asked to follow the link.
func (s *Session) setCarrier(on bool) {
	for _, e := range []*Endpoint{s.left, s.right} {
		if e.Carrier == nil {
			continue
		}
		if err := e.Carrier(on); err != nil {
			s.cfg.Log.Warnf("%s: %v", e.Label, err)
		}
	}
}

// End ends the session as its context would: nil for a wanted end, else with that error. The peer of a link is told why.
func (s *Session) End(code CloseCode, err error) {
	s.why.Store(uint32(code))
	if err != nil {
		s.fail(err)
		return
	}
	s.interrupt()
}
