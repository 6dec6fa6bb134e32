package flows

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/linux"
)

// Messages and attributes of linux/netfilter/nfnetlink_log.h.
const (
	msgPacket = 4 << 8 // NFNL_SUBSYS_ULOG, NFULNL_MSG_PACKET
	msgConfig = 4<<8 | 1

	attrPayload, attrPrefix            = 9, 10
	configCommand, configMode, configQ = 1, 2, 5

	commandBind = 1
	copyPacket  = 2
)

// copied is the number of bytes of a packet: Ethernet, IPv6 and TCP headers fit.
const copied = 128

// nflog reads the packets that the filters of one network namespace drop.
type nflog struct {
	conn *netlink.Conn
	raw  syscall.RawConn
	to   func(flow.Logged, flow.Event)
	lost func()
	done chan struct{}

	// mu is held from the receipt of a message until to has it.
	mu     sync.Mutex
	buffer [8192]byte // for one message; a copy has up to 128 bytes of the packet
}

// listen calls to with each dropped packet, and lost with the number of messages that did not arrive, until Close.
func listen(ns *linux.Namespace, to func(flow.Logged, flow.Event), lost func()) (*nflog, error) {
	n := &nflog{to: to, lost: lost, done: make(chan struct{})}
	// The library's own way into a namespace loses errors (mdlayher/socket v0.5.1, withNetNS).
	err := ns.Do(func() (err error) {
		n.conn, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	if n.raw, err = n.conn.SyscallConn(); err == nil {
		err = n.bind()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen to group %d of nflog: %w", flow.LogGroup, err), n.conn.Close())
	}
	go n.run()
	return n, nil
}

// bind joins the group, with messages of one packet each.
func (n *nflog) bind() error {
	if err := n.configure(configCommand, []byte{commandBind}); err != nil {
		return err
	}
	mode := append(binary.BigEndian.AppendUint32(nil, copied), copyPacket, 0)
	if err := n.configure(configMode, mode); err != nil {
		return err
	}
	return n.configure(configQ, binary.BigEndian.AppendUint32(nil, 1))
}

func (n *nflog) configure(attribute uint16, value []byte) error {
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: attribute, Data: value}})
	if err != nil {
		return err
	}
	header := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, 0}, flow.LogGroup) // struct nfgenmsg
	_, err = n.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: msgConfig, Flags: netlink.Request | netlink.Acknowledge}, Data: append(header, attributes...),
	})
	return err
}

// run reads until the socket is closed.
func (n *nflog) run() {
	defer close(n.done)
	_ = n.raw.Read(func(fd uintptr) (done bool) {
		n.read(int(fd))
		return false
	})
}

// catchUp returns when to has all packets that were dropped before the call.
func (n *nflog) catchUp() {
	_ = n.raw.Control(func(fd uintptr) { n.read(int(fd)) }) // or the socket is closed
}

// read reads the messages that are there.
func (n *nflog) read(fd int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		size, from, err := unix.Recvfrom(fd, n.buffer[:], unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			n.lost()
			continue
		case err != nil:
			return // no more
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue // not the kernel
		}
		messages, err := syscall.ParseNetlinkMessage(n.buffer[:size])
		if err != nil {
			n.lost()
			continue
		}
		now := time.Now()
		for _, m := range messages {
			if m.Header.Type != msgPacket {
				continue
			}
			if met, e, ok := readDenial(m.Data); ok {
				e.Time = now
				n.to(met, e)
			}
		}
	}
}

// close ends the goroutine and frees the network namespace.
func (n *nflog) close() {
	_ = n.conn.Close()
	<-n.done
}

// readDenial reads a message about a packet. ok is false for packets of other rules, and for frames without IP.
func readDenial(message []byte) (met flow.Logged, e flow.Event, ok bool) {
	if len(message) < 4 {
		return met, e, false
	}
	attributes, err := netlink.UnmarshalAttributes(message[4:])
	if err != nil {
		return met, e, false
	}
	var prefix string
	var payload []byte
	for _, a := range attributes {
		switch a.Type {
		case attrPrefix:
			prefix = strings.TrimRight(string(a.Data), "\x00")
		case attrPayload:
			payload = a.Data
		}
	}
	if met, ok = flow.ParseLogged(prefix); !ok {
		return met, e, false
	}
	if message[0] == unix.NFPROTO_NETDEV {
		ok = readFrame(payload, &e)
	} else {
		ok = readPacket(payload, &e)
	}
	e.Kind, e.Reason, e.Direction, e.Interface = flow.Denied, met.Reason, met.Direction, met.Interface
	return met, e, ok
}
