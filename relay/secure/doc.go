// Package secure puts a pre-shared key around byte streams and datagrams: both ends show that they hold the key, and everything between them is encrypted, authenticated and
// protected against replay, with forward secrecy. docs/security.md is the specification and names what is not protected.
//
// The handshake is Noise_NNpsk0_25519_AESGCM_SHA256 (noiseprotocol.org, revision 34) by github.com/flynn/noise:
//
//	-> psk, e        56 bytes: header 8, ephemeral key 32, tag 16
//	<- e, ee         56 bytes, the same
//	-> an empty record: only now the answering end knows that the first message was no recording
//
// The records after it are AES-256-GCM by crypto/cipher under the keys of the handshake.
package secure
