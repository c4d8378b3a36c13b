package addr

import (
	"context"
	"os"
	"sync"

	"tunsplice/relay"
	"tunsplice/relay/secure"

	"github.com/pkg/errors"
)

// A pre-shared key on an address (docs/security.md). Whoever holds the key is welcome, nobody else learns or changes anything. The handshake is part of opening the endpoint, so the
// relay, and the address on the other side, never see a stranger.
var (
	optPSK = declare(kindString, Option{Name: "psk", Groups: GPACKETS, Phase: PhConnected, Ours: true,
		Doc: "encrypt, and take only a peer that has the same key: a file made by tunsplice keygen, which nobody else may read"})
	optPSKEnv = declare(kindString, Option{Name: "psk-env", Groups: GPACKETS, Phase: PhConnected, Ours: true,
		Doc: "the same with the key in this variable, which programs started by tunsplice do not get to see"})
)

// keyVariables are the variables that held keys. They are read once and then gone from our environment, so that no program gets them.
var keyVariables struct {
	sync.Mutex
	keys map[string]*secure.Key
}

// keyFromVariable returns the key in a variable.
func keyFromVariable(name string) (*secure.Key, error) {
	keyVariables.Lock()
	defer keyVariables.Unlock()
	if k := keyVariables.keys[name]; k != nil {
		return k, nil
	}
	text, given := os.LookupEnv(name)
	if !given {
		return nil, withHint{errors.Errorf("option psk-env: there is no variable %s", name), "export " + name + "=\"$(tunsplice keygen -)\", or psk=FILE"}
	}
	k, err := secure.ParseKey([]byte(text))
	if err != nil {
		return nil, withHint{errors.Errorf("option psk-env: variable %s: %s", name, err), Hint(err)}
	}
	if keyVariables.keys == nil {
		keyVariables.keys = map[string]*secure.Key{}
	}
	keyVariables.keys[name] = k
	return k, errors.Wrap(os.Unsetenv(name), name)
}

// bindKey reads the key, if there is one, and finds what does not go with it.
func (b *Bound) bindKey() error {
	file, fromFile := optPSK.Get(b)
	variable, fromVariable := optPSKEnv.Get(b)
	var err error
	switch {
	case fromFile && fromVariable:
		return errors.New("options psk and psk-env exclude each other")
	case fromFile:
		if b.key, err = secure.ReadKeyFile(file); err != nil {
			return withHint{errors.Wrap(err, "option psk"), Hint(err)}
		}
	case fromVariable:
		if b.key, err = keyFromVariable(variable); err != nil {
			return err
		}
	default:
		return nil
	}
	if b.Mode != ReadWrite {
		return withHint{errors.New("a key needs both directions: the peer must be able to answer"), "leave out -u, -U and !!; one way of the two may stay unused"}
	}
	// These work on the bytes that pass the descriptor, and those are encrypted.
	for _, k := range []interface {
		given(*Bound) (name string, on bool)
	}{optCR, optCRNL, optReadBytes, optIgnoreEOF, optEscape, optNullEOF, optShutNull} {
		if name, on := k.given(b); on {
			return withHint{errors.Errorf("option %s does not go with a key: it would work on encrypted bytes", name), "give it to the other address"}
		}
	}
	return nil
}

// given says whether the option was given, and its name.
func (k Key[T]) given(b *Bound) (name string, on bool) { return k.opt.Name, k.Given(b) }

// keyed returns the handshake under the address's key, in the given role.
func (b *Bound) keyed(env *Env, role secure.Role) handshake {
	return func(ctx context.Context, ep *relay.Endpoint) (*relay.Endpoint, error) {
		switch {
		case ep.R == nil || ep.W == nil || !ep.CanAnswer:
			return nil, withHint{errors.New("a key needs one peer that can answer, and there is none here"), "use a socket, a program or standard streams; for datagrams a CONNECT, LISTEN or SENDTO address"}
		case ep.Traffic == relay.Stream:
			r, w, err := secure.Stream(ep.R, ep.W, b.key, role)
			if err != nil {
				return nil, err
			}
			env.Log.Infof("%s: the peer has the key", ep.Label)
			plain := around(ep, r, w, w.Finish)
			plain.Authenticated = true
			plain.Ended, plain.Unread = nil, nil // that a program has ended is no end of data: the peer says that itself
			return plain, nil
		}
		d := secure.NewDatagrams(ep.R, ep.W, ep.OnePack, b.key, env.Log, ep.Label)
		if err := d.Handshake(ctx, role); err != nil {
			d.Close()
			return nil, err
		}
		plain := around(ep, d, d, d.Close)
		plain.Authenticated = true
		plain.CarryPackets = func() (int, error) {
			if ep.CarryPackets == nil {
				return 0, nil
			}
			whole, err := ep.CarryPackets()
			return max(whole-secure.Overhead, 0), err
		}
		return plain, nil
	}
}

// warnOpenTunnel says of a tunnel that waits for peers without protection, where others than this host can reach it, how to protect it.
func (b *Bound) warnOpenTunnel(env *Env, local *sockaddr) {
	if ip := local.ip(); env.Tunnel && b.key == nil && b.Groups&GOPENSSL == 0 && ip.IsValid() && !ip.IsLoopback() {
		env.Log.Warnf("%s: whoever reaches %s can join this tunnel, and whoever is on the way can read it; to prevent that make a key (tunsplice keygen FILE) and give it to both ends (psk=FILE)",
			b.Label(), local.text())
	}
}

// around returns an endpoint that carries plaintext over ep by way of the halves r and w. finish is called before ep is closed.
func around(ep *relay.Endpoint, r relay.Reader, w relay.Writer, finish func()) *relay.Endpoint {
	outer := *ep
	outer.R, outer.W = r, w
	outer.Close = sync.OnceValue(func() error {
		finish()
		return ep.Close()
	})
	return &outer
}

// secured puts the key, if the address has one, around an open address.
func (b *Bound) secured(env *Env, src Source) Source {
	if b.key == nil {
		return src
	}
	switch src := src.(type) {
	case *handshaker: // TLS, and the key inside it
		first := src.do
		src.do = func(ctx context.Context, ep *relay.Endpoint) (*relay.Endpoint, error) {
			ep, err := first(ctx, ep)
			if err != nil {
				return nil, err
			}
			return b.keyed(env, secure.Answer)(ctx, ep)
		}
		return src
	case peersSource:
		return b.withHandshake(env, src, b.keyed(env, secure.Answer))
	case *dialer:
		return src // it has the key already
	case *one:
		if src.keyed {
			return src
		}
	}
	return &keyedSource{Source: src, b: b, env: env}
}

// keyedSource is the Source of an address with a key that neither waits for peers nor dials. Something may take its time at the far end, such as ssh asking for a password: so there is
// no limit unless one is given.
type keyedSource struct {
	Source
	b   *Bound
	env *Env
}

// Next implements Source.
func (k *keyedSource) Next(ctx context.Context) (*relay.Endpoint, error) {
	ep, err := k.Source.Next(ctx)
	if err != nil {
		return nil, err
	}
	return shake(ctx, ep, optHandshakeTimeout.Or(k.b, 0), k.b.keyed(k.env, secure.Initiate))
}
