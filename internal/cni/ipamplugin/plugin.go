// Package ipamplugin is the CNI IPAM plugin "spiderpool". It turns one CNI call
// into one request to the node's agent, and the agent's reply into a CNI result.
//
// It implements ADD, DEL, CHECK, GC, STATUS and VERSION of the CNI specifications
// 0.3.0 to 1.1.0. All decisions are the agent's. Errors have the codes of the
// specification or of package wire and say how to fix the problem.
package ipamplugin

import (
	"context"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/wire"
)

// Main serves the CNI call of the process. See plugin.Run.
func Main(about string) {
	plugin.Run(about, func(config []byte) (plugin.Handlers, error) {
		c, err := parseConf(config)
		if err != nil {
			return plugin.Handlers{}, err
		}
		return plugin.Handlers{
			Add: c.add, Del: c.del, Check: c.check, GC: c.gc, Status: plugin.AgentStatus(c.agent()), Record: c.log.Record,
		}, nil
	})
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
	return call.Print(resultOf(reply))
}

func (c *conf) del(call *plugin.Call) error {
	attachment, err := call.Attachment()
	if err != nil {
		// Without a pod, no ADD can have succeeded, and the specification says that
		// DEL succeeds then.
		return nil
	}
	return c.agent().Delete(context.Background(), wire.DeleteRequest{Attachment: attachment})
}

func (c *conf) check(call *plugin.Call) error {
	attachment, err := call.Attachment()
	if err != nil {
		return err
	}
	previous, err := call.Previous()
	if err != nil {
		return err
	}
	return c.agent().Check(context.Background(), wire.CheckRequest{Attachment: attachment, Addresses: plugin.Addresses(previous)})
}

func (c *conf) gc(call *plugin.Call) error {
	req := wire.GCRequest{Network: call.Name}
	for _, valid := range call.ValidAttachments {
		req.Valid = append(req.Valid, wire.AttachmentKey{ContainerID: valid.ContainerID, Interface: valid.IfName})
	}
	return c.agent().GC(context.Background(), req)
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
