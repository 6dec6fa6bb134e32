package packetfilter

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux"
)

// bigEndian is the order of numbers in nftables attributes and in packets.
var bigEndian = binary.BigEndian

// tablePrefix begins the names of our tables. Each process makes tables of its own, e.g. "spiderpool-policy-5f0c2a91".
const tablePrefix = "spiderpool-policy-"

// timeout bounds one exchange with the kernel.
const timeout = 10 * time.Second

// buffer is the limit of one transaction in bytes, and of its acknowledgments: an element takes up to 48.
const buffer = 64 << 20

// socket talks to the nftables of one namespace. It owns the tables that it makes.
type socket struct {
	conn *nftables.Conn
	raw  *netlink.Conn
	// owns reports whether the kernel protects our tables.
	owns bool
	// logs has new rules copy the packets that they drop.
	logs bool
}

// openSocket opens the socket on a thread in the namespace; see linux.Namespace.withNFT.
func openSocket(ns *linux.Namespace) (*socket, error) {
	s := &socket{}
	err := ns.Do(func() (err error) {
		s.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
			s.raw = c
			return errors.Join(c.SetWriteBuffer(buffer), c.SetReadBuffer(buffer))
		}))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a socket for nftables: %w", err)
	}
	return s, nil
}

func (s *socket) close() error { return s.conn.CloseLasting() }

// extend allows the next exchange the full timeout.
func (s *socket) extend() error { return s.raw.SetDeadline(time.Now().Add(timeout)) }

// flush commits the transaction.
func (s *socket) flush() error {
	if err := s.extend(); err != nil {
		return err
	}
	return s.conn.Flush()
}

// Flags of tables, linux/netfilter/nf_tables.h.
const (
	flagOwner   = 0x2
	flagPersist = 0x4
)

// newTable makes an empty table that only this socket may change. A kernel that lacks a flag refuses all flags.
func (s *socket) newTable(family nftables.TableFamily) (*nftables.Table, error) {
	random := make([]byte, 4)
	_, _ = rand.Read(random) // it never fails
	t := &nftables.Table{Name: tablePrefix + hex.EncodeToString(random), Family: family}
	err := s.sendTable(t, flagOwner|flagPersist)
	s.owns = err == nil
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		// Without persist, a table with an owner would end with its owner.
		err = s.sendTable(t, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("create the table %s: %w", t.Name, err)
	}
	return t, nil
}

// sendTable sends what google/nftables v0.3.0 cannot: a table with flags.
func (s *socket) sendTable(t *nftables.Table, flags uint32) error {
	encoder := netlink.NewAttributeEncoder()
	encoder.ByteOrder = bigEndian
	encoder.String(unix.NFTA_TABLE_NAME, t.Name)
	encoder.Uint32(unix.NFTA_TABLE_FLAGS, flags)
	attributes, err := encoder.Encode()
	if err != nil {
		return err
	}
	return s.create(unix.NFT_MSG_NEWTABLE, t.Family, attributes)
}

// create sends one message in a transaction of its own.
func (s *socket) create(kind uint16, family nftables.TableFamily, attributes []byte) error {
	if err := s.extend(); err != nil {
		return err
	}
	_, err := s.raw.SendMessages([]netlink.Message{
		message(unix.NFNL_MSG_BATCH_BEGIN, 0, 0, unix.NFNL_SUBSYS_NFTABLES, nil),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|kind, netlink.Acknowledge|netlink.Create, byte(family), 0, attributes),
		message(unix.NFNL_MSG_BATCH_END, 0, 0, unix.NFNL_SUBSYS_NFTABLES, nil),
	})
	if err != nil {
		return err
	}
	_, err = s.raw.Receive()
	return err
}

func message(kind uint16, flags netlink.HeaderFlags, family byte, resource uint16, data []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}, data...),
	}
}

// others returns our tables of a family, without the present one.
func (s *socket) others(family nftables.TableFamily, present *nftables.Table) ([]*nftables.Table, error) {
	if err := s.extend(); err != nil {
		return nil, err
	}
	all, err := s.conn.ListTablesOfFamily(family)
	if err != nil {
		return nil, fmt.Errorf("list the tables of nftables: %w", err)
	}
	return slices.DeleteFunc(all, func(t *nftables.Table) bool {
		return t.Family != family || !strings.HasPrefix(t.Name, tablePrefix) || present != nil && t.Name == present.Name
	}), nil
}

// sweep deletes tables, and returns the number of those that belong to another process. The rules go first: a packet
// in a chain of the table would not find its maps any more.
func (s *socket) sweep(tables []*nftables.Table) (held int, err error) {
	var free []*nftables.Table
	for _, t := range tables {
		s.conn.FlushTable(t)
		switch err := s.flush(); {
		case errors.Is(err, unix.EPERM):
			held++
		case err == nil:
			free = append(free, t)
		case !errors.Is(err, unix.ENOENT):
			return held, fmt.Errorf("flush the table %s: %w", t.Name, err)
		}
	}
	if len(free) > 0 {
		awaitPackets()
	}
	for _, t := range free {
		s.conn.DelTable(t)
		switch err := s.flush(); {
		case errors.Is(err, unix.EPERM): // since a moment ago
			held++
		case err != nil && !errors.Is(err, unix.ENOENT):
			return held, fmt.Errorf("delete the table %s: %w", t.Name, err)
		}
	}
	return held, nil
}

// cmdGlobal is MEMBARRIER_CMD_GLOBAL of linux/membarrier.h.
const cmdGlobal = 1

// awaitPackets returns when no packet is in the rules of an earlier transaction any more. The command of membarrier(2)
// waits for a grace period of RCU (synchronize_rcu), and the kernel judges packets in RCU readers.
func awaitPackets() {
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, cmdGlobal, 0, 0); errno != 0 {
		time.Sleep(100 * time.Millisecond) // a kernel with nohz_full, or a seccomp filter
	}
}
