package vpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// ServeNeighbours answers ARP requests and IPv6 neighbour solicitations in every VPC of the topology until the end of
// ctx; then it returns nil. Run the actions of Actions first. A topology of kind l2 needs no responder, so
// ServeNeighbours only waits for ctx.
//
// It reads the links and routes of the router for each request, so changes by Attach and Assign hold at once.
//
// We cannot use the kernel's proxy ARP and proxy NDP: proxy NDP supports single addresses but no prefixes, and neither
// checks the sender.
func ServeNeighbours(ctx context.Context, t *topology.Topology, log *slog.Logger) error {
	responders, err := openResponders(t, log)
	defer func() {
		for _, r := range responders {
			_ = r.socket.Close()
			r.routes.handle.Close()
		}
	}()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	failed := make(chan error, len(responders))
	for _, r := range responders {
		running.Go(func() { failed <- r.run(ctx) })
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	cancel()
	for _, r := range responders {
		_ = r.socket.SetReadDeadline(past)
	}
	running.Wait()
	return err
}

// openResponders opens a socket per protocol in the router of each VPC. After an error it also returns the responders
// already opened.
func openResponders(t *topology.Topology, log *slog.Logger) ([]responder, error) {
	var responders []responder
	for _, vpc := range t.VPCs {
		f := newFabric(t, vpc)
		for _, protocol := range []uint16{unix.ETH_P_ARP, unix.ETH_P_IPV6} {
			r, err := f.responder(protocol, log.With("vpc", vpc.Name))
			if err != nil {
				return responders, err
			}
			responders = append(responders, r)
		}
	}
	return responders, nil
}

// responder returns the responder for a protocol. The caller closes its socket and its routes.
func (f *fabric) responder(protocol uint16, log *slog.Logger) (responder, error) {
	r := responder{log: log}
	var err error
	if r.routes, err = openRoutes(f.namespace()); err != nil {
		return r, err
	}
	if r.ports, err = f.ports(r.routes); err == nil {
		r.socket, err = packetSocket(f.namespace(), protocol)
	}
	if err != nil {
		r.routes.handle.Close()
	}
	return r, err
}

// port describes a router's link to an ENI for the responder.
type port struct {
	eni
	mac net.HardwareAddr // the router's, on this link
	// holder returns the ENI that an address is assigned to now.
	holder func(netip.Addr) (holder eni, ok bool)
}

// ports returns the router's links to ENIs.
func (f *fabric) ports(r routes) (*ports, error) {
	p := &ports{fabric: f, routes: r, known: map[int]port{}}
	for _, e := range f.enis {
		if err := e.router.with(func(_ *netlink.Handle, link netlink.Link) error {
			p.add(e, link.Attrs().Index, link.Attrs().HardwareAddr)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// answers reports whether the VPC answers an ENI's request from source for target.
func (p port) answers(source, target netip.Addr) bool {
	if !source.IsUnspecified() && !source.IsLinkLocalUnicast() {
		if own, _ := p.holder(source); own.owner != p.owner {
			return false
		}
	}
	if target == p.subnet.GatewayIPv4 || target == p.subnet.GatewayIPv6 {
		return true
	}
	other, ok := p.holder(target)
	return ok && other.owner != p.owner && other.Subnet == p.Subnet
}

// answer returns the answer to a frame from the port's ENI, or nil for silence. An unreadable frame gets silence.
func (p port) answer(frame []byte) ([]byte, error) {
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	ethernet, ok := packet.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	if !ok || !bytes.Equal(ethernet.SrcMAC, p.MAC) {
		return nil, nil
	}
	if arp, ok := packet.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		return p.answerARP(arp)
	}
	ip, isIPv6 := packet.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	solicitation, ok := packet.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation)
	if isIPv6 && ok {
		return p.answerSolicitation(ip, solicitation)
	}
	return nil, nil
}

func (p port) answerARP(request *layers.ARP) ([]byte, error) {
	source, okSource := netip.AddrFromSlice(request.SourceProtAddress)
	target, okTarget := netip.AddrFromSlice(request.DstProtAddress)
	if request.Operation != layers.ARPRequest || !okSource || !okTarget || !source.Is4() || !target.Is4() ||
		!bytes.Equal(request.SourceHwAddress, p.MAC) || source == target || !p.answers(source, target) {
		return nil, nil
	}
	return serialize(
		&layers.Ethernet{SrcMAC: p.mac, DstMAC: net.HardwareAddr(p.MAC), EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation:       layers.ARPReply,
			SourceHwAddress: p.mac, SourceProtAddress: request.DstProtAddress,
			DstHwAddress: p.MAC, DstProtAddress: request.SourceProtAddress,
		})
}

func (p port) answerSolicitation(ip *layers.IPv6, solicitation *layers.ICMPv6NeighborSolicitation) ([]byte, error) {
	source, okSource := netip.AddrFromSlice(ip.SrcIP)
	target, okTarget := netip.AddrFromSlice(solicitation.TargetAddress)
	// Hop limit 255 proves that the packet was sent on this link (RFC 4861, section 7.1.1).
	if ip.HopLimit != 255 || !okSource || !okTarget || !p.answers(source, target) {
		return nil, nil
	}
	const router, solicited, override = 0x80, 0x40, 0x20
	flags, destination := uint8(router|solicited|override), ip.SrcIP
	if source.IsUnspecified() { // duplicate address detection: answer all nodes (RFC 4861, section 7.2.4)
		flags, destination = router|override, net.IPv6linklocalallnodes
	}
	header := &layers.IPv6{
		Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: 255, SrcIP: solicitation.TargetAddress, DstIP: destination,
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)}
	if err := icmp.SetNetworkLayerForChecksum(header); err != nil {
		return nil, err
	}
	return serialize(
		&layers.Ethernet{SrcMAC: p.mac, DstMAC: net.HardwareAddr(p.MAC), EthernetType: layers.EthernetTypeIPv6},
		header, icmp,
		&layers.ICMPv6NeighborAdvertisement{
			Flags: flags, TargetAddress: solicitation.TargetAddress,
			Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: p.mac}},
		})
}

func serialize(parts ...gopacket.SerializableLayer) ([]byte, error) {
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buffer, options, parts...); err != nil {
		return nil, fmt.Errorf("build an answer: %w", err)
	}
	return buffer.Bytes(), nil
}

// responder answers the requests on one socket.
type responder struct {
	ports  *ports
	routes routes
	socket *os.File
	log    *slog.Logger
}

func (r responder) run(ctx context.Context) error {
	raw, err := r.socket.SyscallConn()
	if err != nil {
		return err
	}
	buffer := make([]byte, 2048) // requests are below 128 octets
	for {
		length, from, err := receive(raw, buffer)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENETUNREACH) {
			continue // a link of the router has gone
		}
		if err != nil {
			return fmt.Errorf("receive from ENIs: %w", err)
		}
		p, known := r.ports.at(from.Ifindex)
		if !known {
			continue
		}
		answer, err := p.answer(buffer[:length])
		if err != nil || answer == nil {
			if err != nil {
				r.log.Error("neighbour request not answered", "eni", p.owner, "error", err)
			}
			continue
		}
		if err := send(raw, answer, from.Ifindex); err != nil {
			r.log.Warn("answer to neighbour request not sent", "eni", p.owner, "error", err)
		}
	}
}

// packetSocket opens a packet socket in the namespace. It receives frames of the protocol from all links; for IPv6,
// only neighbour solicitations.
func packetSocket(namespace string, protocol uint16) (*os.File, error) {
	var fd int
	err := netns.Do(namespace, func() (err error) {
		// With protocol 0 the socket receives nothing. bind sets the protocol once the filter is attached.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	if protocol == unix.ETH_P_IPV6 {
		err = attachFilter(fd, solicitationsOnly)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(protocol)})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("packet socket in %s: %w", namespace, err)
	}
	return os.NewFile(uintptr(fd), "packet"), nil
}

// solicitationsOnly passes Ethernet frames that hold IPv6, next header ICMPv6, type neighbour solicitation.
var solicitationsOnly = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 14 + 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 3},
	bpf.LoadAbsolute{Off: 14 + 40, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 135, SkipTrue: 1},
	bpf.RetConstant{Val: 1 << 16},
	bpf.RetConstant{Val: 0},
}

func attachFilter(fd int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, instruction := range raw {
		filter[i] = unix.SockFilter{Code: instruction.Op, Jt: instruction.Jt, Jf: instruction.Jf, K: instruction.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}
