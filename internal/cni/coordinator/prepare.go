package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/probe"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

// prepare waits until the kernel has accepted the interface's addresses and sets
// the hardware address of podMACPrefix.
func (o *operation) prepare() error {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	err := o.pod.SettleAddrs(ctx, o.call.IfName)
	var taken *linux.TakenError
	if errors.As(err, &taken) {
		return o.refuse(taken)
	}
	if err != nil || o.settings.MACPrefix == "" {
		return err
	}
	st, err := o.pod.ReadAll()
	if err != nil {
		return err
	}
	pod := netplan.PodOf(st, o.call.IfName)
	if len(pod.NICs) == 0 || pod.NICs[0].Name != o.call.IfName {
		return nil // an attachment without addresses
	}
	return o.setMAC(pod.NICs[0])
}

// refuse reports an address in use to the agent, which keeps it from other pods for a
// while, unless the network answers for each address, or another IPAM plugin gave the
// address. After its error, the runtime tries again. The kernel does not name the other
// machine, so we ask the network.
func (o *operation) refuse(taken *linux.TakenError) error {
	var holder net.HardwareAddr
	var control netip.Addr
	err := o.pod.OnLink(taken.Dev, func(ifi *net.Interface) (err error) {
		if holder, err = probe.Resolve(ifi, taken.Addr, netip.Addr{}, probe.Default); err != nil {
			return err
		}
		control, err = probe.Control(ifi, netip.PrefixFrom(taken.Addr, taken.Addr.BitLen()), probe.Default)
		return err
	})
	if err != nil {
		return err
	}
	msg := fmt.Sprintf("address %s of %s is in use by the machine with hardware address %s", taken.Addr, taken.Dev, holder)
	details := "no SpiderIPPool hands it out for an hour, and the pod gets another one; add it to a SpiderReservedIP, or exclude it in the IPAM plugin that gave it"
	err = o.call.Agent().Conflict(context.Background(),
		wire.ConflictRequest{Attachment: o.attachment, Address: taken.Addr, MAC: holder.String(), Control: control})
	if err != nil {
		details = err.Error()
	}
	return types.NewError(wire.CodeTryAgainLater, msg, details)
}

// setMAC derives the hardware address from the first address, IPv4 before IPv6.
func (o *operation) setMAC(nic netplan.NIC) error {
	mac, fault := netplan.MACWithPrefix(o.settings.MACPrefix, nic.Addrs[0].Addr())
	if fault != nil {
		return fault
	}
	kind, _, err := o.pod.HasLink(nic.Name)
	if err != nil {
		return err
	}
	if kind == "ipvlan" {
		return &netplan.FieldError{Field: "podMACPrefix", Value: o.settings.MACPrefix,
			Reason: fmt.Sprintf("%s is an ipvlan interface, which has the hardware address of its master: leave podMACPrefix out, or use macvlan", nic.Name)}
	}
	if mac == nic.MAC {
		return nil
	}
	change := netplan.Change{Old: netplan.Link{Name: nic.Name, MAC: nic.MAC}, New: netplan.Link{Name: nic.Name, MAC: mac}}
	if err := o.pod.Apply(netplan.Changes{change}, nil); err != nil {
		return fmt.Errorf("podMACPrefix %s: %w", o.settings.MACPrefix, err)
	}
	for _, i := range o.previous.Interfaces {
		if i.Name == nic.Name && i.Sandbox != "" {
			i.Mac = mac.String()
		}
	}
	return o.pod.OnLink(nic.Name, func(ifi *net.Interface) error {
		for _, p := range nic.Addrs {
			if err := probe.Announce(ifi, p.Addr()); err != nil {
				return err
			}
		}
		return nil
	})
}
