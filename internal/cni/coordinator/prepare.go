package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

// detection is what is asked of the network before a pod starts.
type detection struct {
	gateway, conflict bool
	probe             linux.Probe
}

func (c *conf) detection(reply wire.CoordinatorReply) (detection, error) {
	d := detection{gateway: reply.DetectGateway, conflict: reply.DetectIPConflict, probe: linux.Probe{Attempts: max(c.Detect.Retries, 1)}}
	for _, f := range []struct {
		name, text string
		to         *time.Duration
	}{{"interval", c.Detect.Interval, &d.probe.Interval}, {"timeout", c.Detect.Timeout, &d.probe.Timeout}} {
		v, err := time.ParseDuration(f.text)
		if err != nil || v < 0 {
			return d, &netplan.FieldError{Field: "detectOptions." + f.name, Value: f.text, Reason: "want a duration as 100ms"}
		}
		*f.to = v
	}
	return d, nil
}

// prepare makes the interface ready to be planned around: its addresses are
// settled and nobody else's, its gateways answer, and it has the hardware
// address of podMACPrefix.
func (t *task) prepare() error {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	err := t.pod.SettleAddrs(ctx, t.args.IfName)
	var taken *linux.TakenError
	if errors.As(err, &taken) {
		return t.refuseTaken(taken)
	}
	if err != nil {
		return err
	}
	if !t.detect.conflict && !t.detect.gateway && t.macPrefix == "" {
		return nil
	}
	st, err := t.pod.ReadAll()
	if err != nil {
		return err
	}
	pod := netplan.PodOf(st, t.args.IfName)
	if len(pod.NICs) == 0 || pod.NICs[0].Name != t.args.IfName {
		return nil // an attachment without addresses
	}
	nic := pod.NICs[0]
	if t.detect.conflict {
		if err := t.refuseConflicts(nic); err != nil {
			return err
		}
	}
	if t.macPrefix != "" {
		if err := t.setMAC(nic); err != nil {
			return err
		}
	}
	if t.detect.gateway {
		return t.reachGateways(nic)
	}
	return nil
}

// refuseTaken reports an address that the kernel found to be in use. It does not
// tell by whom, so the network is asked.
func (t *task) refuseTaken(taken *linux.TakenError) error {
	holder, _, err := t.pod.Holder(taken.Dev, taken.Addr, netip.Addr{}, t.detect.probe)
	if err != nil {
		return err
	}
	return t.conflict(taken.Dev, taken.Addr, holder)
}

func (t *task) refuseConflicts(nic netplan.NIC) error {
	for _, p := range nic.Addrs {
		holder, ok, err := t.pod.Holder(nic.Name, p.Addr(), netip.Addr{}, t.detect.probe)
		if err != nil {
			return err
		}
		if ok {
			return t.conflict(nic.Name, p.Addr(), holder)
		}
	}
	return nil
}

// conflict has the agent keep the address from other pods and returns the error
// with which the runtime tries again, and gets another address.
func (t *task) conflict(dev string, addr netip.Addr, holder netplan.MAC) error {
	msg := fmt.Sprintf("address %s of %s is in use by the machine with hardware address %s", addr, dev, holder)
	details := "it is kept from other pods for a while, and the pod gets another one; add it to a SpiderReservedIP or to excludeIPs of its pool"
	err := t.conf.agent().Conflict(context.Background(), wire.ConflictRequest{Attachment: t.attachment, Address: addr, MAC: holder.String()})
	if err != nil {
		details = err.Error()
	}
	return types.NewError(wire.CodeTryAgainLater, msg, details)
}

func (t *task) reachGateways(nic netplan.NIC) error {
	for _, gw := range gatewaysOf(t.previous, nic.Name) {
		from := netip.Addr{}
		for _, p := range nic.Addrs {
			if p.Contains(gw) {
				from = p.Addr()
			}
		}
		_, ok, err := t.pod.Holder(nic.Name, gw, from, t.detect.probe)
		if err != nil {
			return err
		}
		if !ok {
			return types.NewError(wire.CodeTryAgainLater,
				fmt.Sprintf("gateway %s of %s does not answer after %d attempts", gw, nic.Name, t.detect.probe.Attempts),
				"check the gateway of the pool and the VLAN of the node's interface")
		}
	}
	return nil
}

// setMAC gives the interface the hardware address that follows from its first
// address, IPv4 before IPv6.
func (t *task) setMAC(nic netplan.NIC) error {
	mac, err := netplan.MACWithPrefix(t.macPrefix, nic.Addrs[0].Addr())
	if err != nil {
		return err
	}
	kind, _, err := t.pod.HasLink(nic.Name)
	if err != nil {
		return err
	}
	if kind == "ipvlan" {
		return &netplan.FieldError{Field: "podMACPrefix", Value: t.macPrefix,
			Reason: fmt.Sprintf("%s is an ipvlan interface, which has the hardware address of its master: leave podMACPrefix out, or use macvlan", nic.Name)}
	}
	if mac == nic.MAC {
		return nil
	}
	change := netplan.Change{Old: netplan.Link{Name: nic.Name, MAC: nic.MAC}, New: netplan.Link{Name: nic.Name, MAC: mac}}
	if err := t.pod.Apply(netplan.Changes{change}, nil); err != nil {
		return fmt.Errorf("podMACPrefix %s: %w", t.macPrefix, err)
	}
	for _, i := range t.previous.Interfaces {
		if i.Name == nic.Name && i.Sandbox != "" {
			i.Mac = mac.String()
		}
	}
	for _, p := range nic.Addrs {
		if err := t.pod.Announce(nic.Name, p.Addr()); err != nil {
			return err
		}
	}
	return nil
}
