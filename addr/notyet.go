package addr

import (
	"slices"
	"strings"
)

// What socat 1.8 has and the tables here do not have yet, so that who comes from socat reads that a word is spelt right and missing here. A row that is added to a
// table takes its names off these lists; TestNotYet says so.

// typesNotYet are the keywords of address types.
const typesNotYet = `
	ACCEPT ACCEPT-FD DCCP DCCP-CONNECT DCCP-L DCCP-LISTEN DCCP4 DCCP4-CONNECT DCCP4-L DCCP4-LISTEN DCCP6 DCCP6-CONNECT DCCP6-L DCCP6-LISTEN DTLS DTLS-C
	DTLS-CLIENT DTLS-CONNECT DTLS-L DTLS-LISTEN DTLS-SERVER IP IP-DATAGRAM IP-DGRAM IP-RECV IP-RECVFROM IP-SEND IP-SENDTO IP4 IP4-DATAGRAM IP4-DGRAM
	IP4-RECV IP4-RECVFROM IP4-SEND IP4-SENDTO IP6 IP6-DATAGRAM IP6-DGRAM IP6-RECV IP6-RECVFROM IP6-SEND IP6-SENDTO OPENSSL-DTLS-CLIENT
	OPENSSL-DTLS-CONNECT OPENSSL-DTLS-LISTEN OPENSSL-DTLS-SERVER POSIXMQ POSIXMQ-BIDIRECTIONAL POSIXMQ-READ POSIXMQ-RECEIVE POSIXMQ-RECV POSIXMQ-SEND
	POSIXMQ-WRITE PROXY PROXY-CONNECT PTY READLINE SCTP SCTP-CONNECT SCTP-L SCTP-LISTEN SCTP4 SCTP4-CONNECT SCTP4-L SCTP4-LISTEN SCTP6 SCTP6-CONNECT
	SCTP6-L SCTP6-LISTEN SOCKS SOCKS4 SOCKS4A SOCKS5 SOCKS5-BIND SOCKS5-CONNECT SOCKS5-LISTEN STALL TEXT UDPLITE UDPLITE-CONNECT UDPLITE-DATAGRAM
	UDPLITE-DGRAM UDPLITE-L UDPLITE-LISTEN UDPLITE-RECV UDPLITE-RECVFROM UDPLITE-SEND UDPLITE-SENDTO UDPLITE4 UDPLITE4-CONNECT UDPLITE4-DATAGRAM
	UDPLITE4-DGRAM UDPLITE4-L UDPLITE4-LISTEN UDPLITE4-RECV UDPLITE4-RECVFROM UDPLITE4-SEND UDPLITE4-SENDTO UDPLITE6 UDPLITE6-CONNECT UDPLITE6-DATAGRAM
	UDPLITE6-DGRAM UDPLITE6-L UDPLITE6-LISTEN UDPLITE6-RECV UDPLITE6-RECVFROM UDPLITE6-SEND UDPLITE6-SENDTO VSOCK VSOCK-CONNECT VSOCK-L VSOCK-LISTEN`

// optionsNotYet are names of options, of all groups.
const optionsNotYet = `
	acceptconn attach-filter attachfilter authhdr b0 b1000000 b110 b115200 b1152000 b1200 b134 b150 b1500000 b1800 b19200 b200 b2000000 b230400 b2400
	b2500000 b300 b3000000 b3500000 b38400 b4000000 b460800 b4800 b50 b500000 b57600 b576000 b600 b75 b921600 b9600 brkint bs0 bs1 bsdcompat bsdly ccid
	cfmakeraw children-shutup chroot-early clocal cr0 cr1 cr2 cr3 crdly cread crterase crtkill crtscts cs5 cs6 cs7 cs8 csize cstopb ctlecho ctty
	dccp-set-ccid defnames detach-filter detachfilter discard dns dnsrch dstopts echo echoctl echoe echok echoke echonl echoprt eof eol eol2 erase error
	ff0 ff1 ffdly fiosetown flusho hdrincl history history-file hoplimit hopopts http-version hup hupcl icanon icrnl iexten ignbrk igncr ignorecr ignpar
	igntc imaxbel info inlcr inpck intr ip-hdrincl ip-mtu ip-pktinfo ip-pktoptions ip-recverr ip-recvopts ip-recvtos ip-recvttl ip-retopts ip-router-alert
	iphdrincl ipmtu ippktinfo ippktoptions iprecverr iprecvopts iprecvtos iprecvttl ipretopts iprouteralert ipv6-authhdr ipv6-dstopts ipv6-hoplimit
	ipv6-hopopts ipv6-pktinfo ipv6-recvdstopts ipv6-recverr ipv6-recvhoplimit ipv6-recvhopopts ipv6-recvpathmtu ipv6-recvpktinfo ipv6-recvrthdr
	ipv6-recvtclass ipv6-rthdr isig ispeed istrip iuclc ixany ixoff ixon kill link lnext lockfile min mq-flush mq-maxmsg mq-msgsize mq-prio nameserver nl0
	nl1 nldly noecho noflsh nofork noprompt nsaddr ocrnl ofdel ofill olcuc onlcr onlret onocr openpty opost ospeed parenb parmrk parodd passcred peercred
	pendin pktinfo pktoptions pktopts posixmq-flush posixmq-maxmsg posixmq-msgsize posixmq-priority prompt proxy-auth proxy-authorization
	proxy-authorization-file proxy-resolve proxyauth proxyauthfile proxyport prterase ptmx pty pty-interval pty-intervall pty-wait-slave quit raw rawer
	recurse recvdstopts recverr recvhoplimit recvhopopts recvopts recvpktinfo recvrthdr recvtos recvttl reprint res-debug res-defnames res-dnsrch
	res-igntc res-maxretrans res-maxretry res-nsaddr res-recurse res-retrans res-retry res-stayopen res-usevc resolv resolve retopts retrans routeralert
	rprnt rthdr sane security-authentication security-encryption-network security-encryption-transport securityauthentication securityencryptionnetwork
	securityencryptiontransport setflags setgid-early setuid-early sighup sigint sigquit siocspgrp sitout-eio sndlowat so-acceptconn so-attach-filter
	so-bsdcompat so-detach-filter so-error so-passcred so-peercred so-security-authentication so-security-encryption-network
	so-security-encryption-transport so-sndlowat so-timestamp sockspass socksport socksuser start stayopen stop su-e substuser-early susp swtc swtch
	symbolic-link tab0 tab1 tab2 tab3 tabdly tandem tcp-info tcp-md5sig termios-cfmakeraw termios-rawer termios-setflags time timestamp tiocsctty
	tiocswinsz tostop udplite-recv-cscov udplite-send-cscov usevc vdiscard veof veol veol2 verase vintr vkill vlnext vmin vquit vreprint vstart vstop
	vsusp vswtc vt0 vt1 vtdly vtime vwerase wait-slave waitlock waitslave werase winsz xcase xtabs`

const notYet = ": socat has it, tunsplice does not have it yet"

// NotYet returns what an error about an unknown word is to add: ": socat has it, tunsplice does not have it yet" if it is the name of an address type or option of socat's, else "".
func NotYet(word string) string {
	if isTypeNotYet(word) || isOptionNotYet(word) {
		return notYet
	}
	return ""
}

func isTypeNotYet(keyword string) bool {
	return slices.Contains(strings.Fields(typesNotYet), strings.ToUpper(keyword))
}

func isOptionNotYet(name string) bool {
	return slices.Contains(strings.Fields(optionsNotYet), strings.ToLower(name))
}
