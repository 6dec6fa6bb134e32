package linux

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"

	"spiderpool.dev/spiderpool/internal/netplan"
)

// Probe says how persistently the link is asked for an address.
type Probe struct {
	Attempts int           // how often to ask, 1 or more
	Interval time.Duration // between an unanswered question and the next
	Timeout  time.Duration // how long to wait for each answer
}

const etherTypeARP = 0x0806

// Holder asks the machines on a link who holds an address, by ARP or NDP, and
// returns the hardware address of the first one that answers and is not this
// namespace's own; ok is false where nobody does. from is the address to ask
// from; the zero value asks as one that has none yet (RFC 5227, section 2.1.1),
// and so does not touch the others' caches.
func (n *Namespace) Holder(dev string, addr, from netip.Addr, p Probe) (holder netplan.MAC, ok bool, err error) {
	err = n.Do(func() error {
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		ask := askARP
		if addr.Is6() {
			ask = askNDP
		}
		for i := range p.Attempts {
			if i > 0 {
				time.Sleep(p.Interval)
			}
			if holder, ok, err = ask(ifi, addr, from, p.Timeout); ok || err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return holder, false, fmt.Errorf("ask on %s who has %s: %w", dev, addr, err)
	}
	return holder, ok, nil
}

func askARP(ifi *net.Interface, addr, from netip.Addr, timeout time.Duration) (netplan.MAC, bool, error) {
	if !from.IsValid() {
		from = netip.IPv4Unspecified()
	}
	conn, err := packet.Listen(ifi, packet.Raw, etherTypeARP, nil)
	if err != nil {
		return netplan.MAC{}, false, err
	}
	defer conn.Close()
	if err := sendARP(conn, ifi, from, addr); err != nil {
		return netplan.MAC{}, false, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return netplan.MAC{}, false, err
	}
	b := make([]byte, ifi.MTU+14)
	for {
		size, _, err := conn.ReadFrom(b)
		if err != nil {
			return netplan.MAC{}, false, timeoutIsSilence(err)
		}
		var frame ethernet.Frame
		var p arp.Packet
		if frame.UnmarshalBinary(b[:size]) != nil || p.UnmarshalBinary(frame.Payload) != nil {
			continue // somebody's malformed packet is not an answer
		}
		// Who probes for the address itself is about to use it (RFC 5227, 2.1.1).
		theirs := p.SenderIP == addr || from.IsUnspecified() && p.SenderIP.IsUnspecified() && p.TargetIP == addr
		if theirs && len(p.SenderHardwareAddr) == len(netplan.MAC{}) && p.SenderHardwareAddr.String() != ifi.HardwareAddr.String() {
			return netplan.MAC(p.SenderHardwareAddr), true, nil
		}
	}
}

// sendARP broadcasts a request; with from and addr equal it is an announcement.
func sendARP(conn *packet.Conn, ifi *net.Interface, from, addr netip.Addr) error {
	request, err := arp.NewPacket(arp.OperationRequest, ifi.HardwareAddr, from, ethernet.Broadcast, addr)
	if err != nil {
		return err
	}
	payload, err := request.MarshalBinary()
	if err != nil {
		return err
	}
	frame, err := (&ethernet.Frame{
		Destination: ethernet.Broadcast, Source: ifi.HardwareAddr, EtherType: ethernet.EtherTypeARP, Payload: payload,
	}).MarshalBinary()
	if err != nil {
		return err
	}
	_, err = conn.WriteTo(frame, &packet.Addr{HardwareAddr: ethernet.Broadcast})
	return err
}

// askNDP asks from the link-local address: a kernel sends nothing from the
// unspecified one on behalf of a program.
func askNDP(ifi *net.Interface, addr, _ netip.Addr, timeout time.Duration) (netplan.MAC, bool, error) {
	conn, _, err := ndp.Listen(ifi, ndp.LinkLocal)
	if err != nil {
		return netplan.MAC{}, false, err
	}
	defer conn.Close()
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return netplan.MAC{}, false, err
	}
	question := &ndp.NeighborSolicitation{
		TargetAddress: addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: ifi.HardwareAddr}},
	}
	if err := conn.WriteTo(question, nil, group); err != nil {
		return netplan.MAC{}, false, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return netplan.MAC{}, false, err
	}
	for {
		m, _, _, err := conn.ReadFrom()
		var malformed net.Error
		if err != nil && !errors.As(err, &malformed) {
			continue // somebody's malformed message is not an answer
		}
		if err != nil {
			return netplan.MAC{}, false, timeoutIsSilence(err)
		}
		answer, ok := m.(*ndp.NeighborAdvertisement)
		if !ok || answer.TargetAddress != addr {
			continue
		}
		for _, o := range answer.Options {
			if target, ok := o.(*ndp.LinkLayerAddress); ok && target.Direction == ndp.Target &&
				target.Addr.String() != ifi.HardwareAddr.String() && len(target.Addr) == len(netplan.MAC{}) {
				return netplan.MAC(target.Addr), true, nil
			}
		}
	}
}

func timeoutIsSilence(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// Announce tells the machines on a link that addr is at the link's hardware
// address now: gratuitous ARP, or an unsolicited neighbor advertisement.
func (n *Namespace) Announce(dev string, addr netip.Addr) error {
	err := n.Do(func() error {
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		if addr.Is4() {
			conn, err := packet.Listen(ifi, packet.Raw, etherTypeARP, nil)
			if err != nil {
				return err
			}
			defer conn.Close()
			return sendARP(conn, ifi, addr, addr)
		}
		conn, _, err := ndp.Listen(ifi, ndp.Addr(addr.String()))
		if err != nil {
			return err
		}
		defer conn.Close()
		return conn.WriteTo(&ndp.NeighborAdvertisement{
			Override: true, TargetAddress: addr,
			Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: ifi.HardwareAddr}},
		}, nil, netip.IPv6LinkLocalAllNodes())
	})
	if err != nil {
		return fmt.Errorf("announce %s on %s: %w", addr, dev, err)
	}
	return nil
}
