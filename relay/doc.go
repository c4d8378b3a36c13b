// Package relay moves data between two open endpoints: bytes, packets, or packets over bytes.
//
// # Theory of operation
//
// An Endpoint has two optional halves, a Reader and a Writer, and says whether they carry a byte stream or packets. Run joins
// two endpoints by one pump for each direction and ends when both directions have ended, one of them failed, or a time limit ran out.
//
//	left to right        way
//	stream to stream     bytes are copied through a pooled buffer; once reads fill it, splice(2) or sendfile(2) moves them inside
//	                     the kernel where both descriptors can
//	packets to packets   batches; each packet stays one packet
//	packets to stream    a Framer puts a header in front of each packet; a whole batch leaves in one write
//	stream to packets    one read brings many framed packets, which are written one by one
//
// Which framing a stream uses is the stream endpoint's Framing. With FramingAuto and FramingLink both ends first exchange hello packets
// (see docs/link.md); the state of that talk is in link.go, the codecs are in hello.go and link_frame.go.
//
// The package knows no address type: whatever can be read and written can be joined.
package relay
