// Package ipamplugin is the CNI IPAM plugin "spiderpool". It turns one CNI call
// into one request to the node's agent, and the agent's reply into a CNI result.
//
// It implements ADD, DEL, CHECK, GC, STATUS and VERSION of the CNI specifications
// 0.3.0 to 1.1.0. All decisions are the agent's. Errors have the codes of the
// specification or of package wire and say how to fix the problem.
package ipamplugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/journal"
	"spiderpool.dev/spiderpool/internal/wire"
)

// Main serves the CNI call of the process. See plugin.Program.
func Main(about string) {
	plugin.Program{Name: cniconf.TypeIPAM, About: about, Del: del, Load: func(call *plugin.Call) (plugin.Handlers, error) {
		c, err := parseConf(call)
		if err != nil {
			return plugin.Handlers{}, err
		}
		return plugin.Handlers{Add: c.add, Check: check, GC: gc, Status: plugin.AgentStatus, Log: c.log}, nil
	}}.Run()
}

func (c *conf) add(call *plugin.Call) error {
	attachment, err := call.Attachment()
	if err != nil {
		return err
	}
	reply, err := c.addresses(call, wire.AddRequest{
		Attachment:        attachment,
		Network:           call.Name,
		Master:            c.Master,
		DefaultIPv4Pools:  c.IPAM.DefaultIPv4Pools,
		DefaultIPv6Pools:  c.IPAM.DefaultIPv6Pools,
		CleanGateway:      c.IPAM.CleanGateway,
		MatchMasterSubnet: c.IPAM.MatchMasterSubnet,
	})
	if err != nil {
		return err
	}
	if err := c.upMaster(); err != nil {
		return err
	}
	return call.Print(resultOf(reply))
}

// upMaster sets the node's master interface up. The main plugins need it up, and leave it as it is. An interface
// that a cloud has attached to the running node is down unless a program of the node configures it.
func (c *conf) upMaster() error {
	if c.Master == "" || c.LinkInContainer || len(c.Master) >= unix.IFNAMSIZ {
		return nil // the ioctl takes no longer name; the main plugin takes one of ip-link's altnames
	}
	up, err := isUp(c.Master)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil // the main plugin reports it
	case err == nil && !up:
		err = setUp(c.Master)
	}
	if err != nil {
		return fmt.Errorf("set the master interface %s up: %w", c.Master, err)
	}
	return nil
}

// delTime is how long DEL waits for the agent. The agent itself stops waiting for the
// API server after five seconds and stores the release on disk.
const delTime = 20 * time.Second

// del releases the addresses of the interface. If no agent does it, del stores the
// release where the agent stores its own, and the agent commits it when it is back.
// The release names container and interface, so it never frees the address of a later
// sandbox.
func del(call *plugin.Call) error {
	attachment, err := call.Attachment()
	if err != nil {
		return nil //nolint:nilerr // without a pod, no ADD can have succeeded
	}
	finish := journal.In(call.Node.StateDir).Begin(attachment)
	ctx, cancel := context.WithTimeout(context.Background(), delTime)
	defer cancel()
	err = call.Agent().Delete(ctx, wire.DeleteRequest{Attachment: attachment})
	if keepErr := finish(err != nil); keepErr != nil {
		return errors.Join(err, keepErr)
	}
	if err != nil {
		call.Warnf("the release is on disk, because the agent did not take it: %v", err)
	}
	return nil
}

func check(call *plugin.Call) error {
	attachment, err := call.Attachment()
	if err != nil {
		return err
	}
	previous, err := call.Previous()
	if err != nil {
		return err
	}
	return call.Agent().Check(context.Background(), wire.CheckRequest{Attachment: attachment, Addresses: plugin.Addresses(previous)})
}

func gc(call *plugin.Call) error {
	req := wire.GCRequest{Network: call.Name}
	for _, valid := range call.ValidAttachments {
		req.Valid = append(req.Valid, wire.AttachmentKey{ContainerID: valid.ContainerID, Interface: valid.IfName})
	}
	return call.Agent().GC(context.Background(), req)
}

// resultOf is the reply in the form of an IPAM plugin's result: addresses and
// routes, without interfaces (CNI specification 1.1.0, section 4).
func resultOf(reply wire.AddReply) *types100.Result {
	result := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		DNS: types.DNS{
			Nameservers: reply.DNS.Nameservers,
			Domain:      reply.DNS.Domain,
			Search:      reply.DNS.Search,
			Options:     reply.DNS.Options,
		},
	}
	for _, address := range reply.Addresses {
		result.IPs = append(result.IPs, &types100.IPConfig{
			Address: ipNet(address.Prefix),
			Gateway: address.Gateway.AsSlice(),
		})
	}
	for _, route := range reply.Routes {
		result.Routes = append(result.Routes, &types.Route{Dst: ipNet(route.Dst), GW: route.Via.AsSlice()})
	}
	return result
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
