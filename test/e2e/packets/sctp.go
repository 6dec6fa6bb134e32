package main

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"
)

// The first two chunks of an association (RFC 9260, section 3.3).
const (
	chunkInit    = 1
	chunkInitAck = 2
	// commonHeader is the length of ports, verification tag and checksum.
	commonHeader = 12
	// initChunk is the length of a chunk INIT without parameters.
	initChunk = 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// association returns a packet with a chunk INIT or INIT ACK.
func association(kind byte, from, to uint16, tag uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint32(b, tag)
	b = append(b, 0, 0, 0, 0)            // checksum
	b = append(b, kind, 0, 0, initChunk) // type, flags, length
	b = binary.BigEndian.AppendUint32(b, rand.Uint32()|1)
	b = binary.BigEndian.AppendUint32(b, 1<<16) // receive window
	b = append(b, 0, 1, 0, 1)                   // one stream each way
	b = binary.BigEndian.AppendUint32(b, 1)     // first number
	if kind == chunkInitAck {
		b = append(b, 0, 7, 0, 8, 1, 2, 3, 4) // state cookie, which is mandatory
		b[commonHeader+3] += 8
	}
	// The only field of SCTP in little-endian order (RFC 9260, appendix A).
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}

// rawSCTP is the network of raw sockets with the IP version of an address.
func rawSCTP(a netip.Addr) string {
	if a.Is4() {
		return "ip4:132"
	}
	return "ip6:132"
}

// initiate asks for an association with the target.
func (t target) initiate(ctx context.Context, limit time.Duration, packets int) string {
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, rawSCTP(t.Addr()), t.Addr().String())
	if err != nil {
		return verdictOf(err)
	}
	defer socket.Close()
	from := uint16(32768 + rand.IntN(28000))
	return t.exchange(socket, limit, packets, association(chunkInit, from, t.Port(), 0), func(answer []byte) bool {
		if t.Addr().Is4() && len(answer) > 0 { // a raw socket gets the IPv4 header, too
			answer = answer[min(int(answer[0]&15)*4, len(answer)):]
		}
		return len(answer) > commonHeader && answer[commonHeader] == chunkInitAck &&
			binary.BigEndian.Uint16(answer) == t.Port() && binary.BigEndian.Uint16(answer[2:]) == from
	})
}

// answerAssociations answers each INIT for one of the ports.
func answerAssociations(socket net.PacketConn, ports []uint16) error {
	b := make([]byte, 1500)
	for {
		n, from, err := socket.ReadFrom(b)
		if err != nil {
			return err
		}
		if n < commonHeader+initChunk || b[commonHeader] != chunkInit || !slices.Contains(ports, binary.BigEndian.Uint16(b[2:])) {
			continue
		}
		tag := binary.BigEndian.Uint32(b[commonHeader+4:])
		_, _ = socket.WriteTo(association(chunkInitAck, binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint16(b), tag), from)
	}
}
