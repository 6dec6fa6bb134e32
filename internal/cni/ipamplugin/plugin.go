// Package ipamplugin is the CNI IPAM plugin "spiderpool": it turns one CNI call into
// one request to the node's agent and the agent's reply into a CNI result.
//
// It implements ADD, DEL, CHECK, GC, STATUS and VERSION of the CNI
// specifications 0.3.0 to 1.1.0 and decides nothing itself. Errors carry the
// codes of the specification, or those of package wire, and say what to do.
package ipamplugin

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"spiderpool.dev/spiderpool/internal/rpc"
	"spiderpool.dev/spiderpool/internal/wire"
)

// Main runs the plugin on the process's environment, standard input and output
// and exits with status 1 after an error. Without CNI_COMMAND it prints about.
func Main(about string) {
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    recorded("ADD", add),
		Del:    recorded("DEL", del),
		Check:  recorded("CHECK", check),
		GC:     recorded("GC", gc),
		Status: recorded("STATUS", status),
	}, version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"), about)
}

// call is one CNI command on a parsed configuration.
type call func(c *conf, args *skel.CmdArgs) error

// recorded parses the configuration, runs the command, logs the outcome and
// gives an error its CNI form.
func recorded(command string, run call) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		began := time.Now()
		c, err := parseConf(args.StdinData)
		if err != nil {
			return err
		}
		err = run(c, args)
		record(c, command, args, began, err)
		return asCNI(err)
	}
}

func asCNI(err error) error {
	var failure *wire.Error
	if errors.As(err, &failure) {
		return types.NewError(failure.Code, failure.Msg, failure.Details)
	}
	return err
}

func add(c *conf, args *skel.CmdArgs) error {
	attachment, err := attachmentOf(args)
	if err != nil {
		return err
	}
	reply, err := c.addresses(args, wire.AddRequest{
		Attachment:        attachment,
		Network:           c.Name,
		Master:            c.Master,
		DefaultIPv4Pools:  c.IPAM.DefaultIPv4Pools,
		DefaultIPv6Pools:  c.IPAM.DefaultIPv6Pools,
		CleanGateway:      c.IPAM.CleanGateway,
		MatchMasterSubnet: c.IPAM.MatchMasterSubnet,
	})
	if err != nil {
		return err
	}
	return types.PrintResult(resultOf(reply), c.CNIVersion)
}

func del(c *conf, args *skel.CmdArgs) error {
	attachment, err := attachmentOf(args)
	if err != nil {
		// Without a pod there is nothing that an ADD could have given: the
		// specification wants DEL to succeed then.
		return nil
	}
	return c.agent().Delete(context.Background(), wire.DeleteRequest{Attachment: attachment})
}

func check(c *conf, args *skel.CmdArgs) error {
	attachment, err := attachmentOf(args)
	if err != nil {
		return err
	}
	if c.RawPrevResult == nil {
		return types.NewError(wire.CodeInvalidConfig, "CHECK needs the prevResult of the ADD in the network configuration", "")
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return types.NewError(wire.CodeDecodingFailure, "decode prevResult", err.Error())
	}
	previous, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return types.NewError(wire.CodeDecodingFailure, "decode prevResult", err.Error())
	}
	req := wire.CheckRequest{Attachment: attachment}
	for _, ip := range previous.IPs {
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			req.Addresses = append(req.Addresses, addr.Unmap())
		}
	}
	return c.agent().Check(context.Background(), req)
}

func gc(c *conf, _ *skel.CmdArgs) error {
	req := wire.GCRequest{Network: c.Name}
	for _, valid := range c.ValidAttachments {
		req.Valid = append(req.Valid, wire.AttachmentKey{ContainerID: valid.ContainerID, Interface: valid.IfName})
	}
	return c.agent().GC(context.Background(), req)
}

func status(c *conf, _ *skel.CmdArgs) error {
	err := c.agent().Status(context.Background())
	var failure *wire.Error
	if errors.As(err, &failure) && failure.Code == wire.CodeTryAgainLater {
		return types.NewError(types.ErrPluginNotAvailable, failure.Msg, failure.Details)
	}
	return err
}

func (c *conf) agent() rpc.Client { return rpc.Client{Socket: c.IPAM.Socket} }

func attachmentOf(args *skel.CmdArgs) (wire.Attachment, error) {
	namespace, name, uid, err := podArgs(args.Args)
	if err != nil {
		return wire.Attachment{}, err
	}
	return wire.Attachment{
		ContainerID:  args.ContainerID,
		NetNS:        args.Netns,
		Interface:    args.IfName,
		PodNamespace: namespace,
		PodName:      name,
		PodUID:       uid,
	}, nil
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
