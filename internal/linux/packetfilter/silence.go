package packetfilter

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A packet that the hooks of the IP stack drop is an error for its sender: sendmsg returns EPERM. Policies are to drop
// silently. A drop at the hook egress of the interface is silent for UDP: its NET_XMIT_DROP is ENOBUFS, which
// udp_send_skb (net/ipv4/udp.c) hides from sockets without IP_RECVERR. So the rules in the stack mark a datagram and let it
// go on, and the rules of the interface drop it. TCP stays: for it, NET_XMIT_DROP is a reason to repeat at once, and the
// error of the stack none to give up.
//
// Between the two, connection tracking confirms the connection of the datagram. A packet of the peer would then belong to
// an established connection and pass, whatever the policies say about the peer. So its timeout is set to 0: the
// connection has expired when it is confirmed, and no packet finds it (nf_ct_is_expired).

// silentMark marks datagrams to drop. The number is arbitrary. A process with NET_ADMIN or NET_RAW can mark its own
// packets, and then loses them.
var silentMark = binaryutil.NativeEndian.PutUint32(0x53704472)

// silenceName is the name of the object with the timeouts.
const silenceName = "silence"

// silence makes a datagram one that the interface drops.
func silence() []expr.Any {
	return []expr.Any{
		&expr.Objref{Type: unix.NFT_OBJECT_CT_TIMEOUT, Name: silenceName},
		&expr.Immediate{Register: register, Data: silentMark},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register},
		accept,
	}
}

// Attributes of the object, linux/netfilter/nf_tables.h and nfnetlink_cttimeout.h.
const (
	attrTimeoutL3Proto = 1
	attrTimeoutL4Proto = 2
	attrTimeoutData    = 3

	attrUDPUnreplied = 1
	attrUDPReplied   = 2
)

// addSilence adds the object to a table. google/nftables v0.3.0 would write to a map of all goroutines.
func (s *socket) addSilence(t *nftables.Table) error {
	encoder := netlink.NewAttributeEncoder()
	encoder.ByteOrder = bigEndian
	encoder.String(unix.NFTA_OBJ_TABLE, t.Name)
	encoder.String(unix.NFTA_OBJ_NAME, silenceName)
	encoder.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_CT_TIMEOUT)
	encoder.Nested(unix.NFTA_OBJ_DATA, func(data *netlink.AttributeEncoder) error {
		data.ByteOrder = bigEndian
		data.Uint16(attrTimeoutL3Proto, unix.NFPROTO_IPV4) // the kernel applies it to IPv6, too
		data.Uint8(attrTimeoutL4Proto, unix.IPPROTO_UDP)
		data.Nested(attrTimeoutData, func(seconds *netlink.AttributeEncoder) error {
			seconds.ByteOrder = bigEndian
			seconds.Uint32(attrUDPUnreplied, 0)
			seconds.Uint32(attrUDPReplied, 0)
			return nil
		})
		return nil
	})
	attributes, err := encoder.Encode()
	if err != nil {
		return err
	}
	if err := s.create(unix.NFT_MSG_NEWOBJ, t.Family, attributes); err != nil {
		return fmt.Errorf("create the object for silent drops: %w", err)
	}
	return nil
}

// trySilence returns an error if the kernel cannot drop UDP silently.
func (s *socket) trySilence() error {
	t := &nftables.Table{Name: tablePrefix + "try", Family: nftables.TableFamilyINet}
	if err := s.sendTable(t, 0); err != nil {
		return err
	}
	err := s.addSilence(t)
	s.conn.DelTable(t)
	return errors.Join(err, s.flush())
}

// counters returns the packets of the counters in a table, by name. google/nftables v0.3.0 reads all objects, and for those of
// addSilence writes to a map of all goroutines.
func (s *socket) counters(t *nftables.Table) (map[string]uint64, error) {
	encoder := netlink.NewAttributeEncoder()
	encoder.ByteOrder = bigEndian
	encoder.String(unix.NFTA_OBJ_TABLE, t.Name)
	encoder.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
	attributes, err := encoder.Encode()
	if err != nil {
		return nil, err
	}
	if err := s.extend(); err != nil {
		return nil, err
	}
	replies, err := s.raw.Execute(message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETOBJ, netlink.Dump, byte(t.Family), 0, attributes))
	if err != nil {
		return nil, err
	}
	packets := map[string]uint64{}
	for _, reply := range replies {
		if err := addCounter(packets, reply.Data); err != nil {
			return nil, err
		}
	}
	return packets, nil
}

// addCounter adds the counter of a message.
func addCounter(packets map[string]uint64, message []byte) error {
	const header = 4 // struct nfgenmsg
	decoder, err := netlink.NewAttributeDecoder(message[min(header, len(message)):])
	if err != nil {
		return err
	}
	decoder.ByteOrder = bigEndian
	name, count := "", uint64(0)
	for decoder.Next() {
		switch decoder.Type() {
		case unix.NFTA_OBJ_NAME:
			name = decoder.String()
		case unix.NFTA_OBJ_DATA:
			decoder.Nested(func(data *netlink.AttributeDecoder) error {
				data.ByteOrder = bigEndian
				for data.Next() {
					if data.Type() == unix.NFTA_COUNTER_PACKETS {
						count = data.Uint64()
					}
				}
				return data.Err()
			})
		}
	}
	packets[name] = count
	return decoder.Err()
}
