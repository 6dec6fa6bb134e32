package alibabatest

import (
	"context"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

// present returns an interface as it is now.
func (c *Cloud) present(id string) (cloud.Interface, error) {
	for _, i := range c.Present() {
		if i.ID == id {
			return i, nil
		}
	}
	return cloud.Interface{}, refuse(404, "InvalidEniId.NotFound", "The specified EniId %s is not found.", id)
}

// ofKind replaces the code of an error of the fake.
func ofKind(err error, kind cloud.Kind, status int, code string) error {
	if err != nil && cloud.KindOf(err) == kind {
		return refuse(status, code, "%v", err)
	}
	return err
}

func single(addresses []netip.Addr) (pieces []netip.Prefix) {
	for _, a := range addresses {
		pieces = append(pieces, netip.PrefixFrom(a, a.BitLen()))
	}
	return pieces
}

// assign gives pieces to an interface. Alibaba Cloud refuses pieces that an interface has, also the same one.
func (c *Cloud) assign(ctx context.Context, a cloud.Assignment, addresses, prefixes int) ([]netip.Prefix, error) {
	if _, err := c.present(a.Interface); err != nil {
		return nil, err
	}
	if a.Unit = cloud.Addresses; prefixes > 0 || len(a.Exact) > 0 && !a.Exact[0].IsSingleIP() {
		a.Unit = cloud.Prefixes
	}
	if a.Count = addresses + prefixes; prefixes > 10 || a.Unit == cloud.Prefixes && len(a.Exact) > 10 {
		return nil, refuse(400, "InvalidParameter", "A request has at most 10 prefixes.")
	}
	for _, i := range c.Present() {
		if slices.ContainsFunc(a.Exact, func(p netip.Prefix) bool { return slices.Contains(append(i.Assigned, single(i.Primary)...), p) }) {
			return nil, refuse(403, "InvalidIp.IpAssigned", "The specified IP is already assigned.")
		}
	}
	exceeded := "InvalidOperation.Ipv4CountExceeded"
	if a.Family == inet.IPv6 {
		exceeded = "InvalidOperation.Ipv6CountExceeded"
	}
	got, err := c.Fake.Assign(ctx, a)
	return got, ofKind(err, cloud.Quota, 403, exceeded)
}

// textsOf returns the single addresses and the prefixes among pieces.
func textsOf(pieces []netip.Prefix) (addresses, prefixes []string) {
	for _, p := range pieces {
		if p.IsSingleIP() {
			addresses = append(addresses, p.Addr().String())
		} else {
			prefixes = append(prefixes, p.String())
		}
	}
	return addresses, prefixes
}

type assignIPv4 struct {
	Interface   string         `query:"NetworkInterfaceId,required"`
	Addresses   []netip.Addr   `query:"PrivateIpAddress"`
	Count       int            `query:"SecondaryPrivateIpAddressCount"`
	Prefixes    []netip.Prefix `query:"Ipv4Prefix"`
	PrefixCount int            `query:"Ipv4PrefixCount"`
}

// https://api.alibabacloud.com/document/Ecs/2014-05-26/AssignPrivateIpAddresses
func (c *Cloud) assignIPv4(ctx context.Context, in *assignIPv4) (map[string]any, error) {
	a := cloud.Assignment{Interface: in.Interface, Family: inet.IPv4, Exact: append(single(in.Addresses), in.Prefixes...)}
	got, err := c.assign(ctx, a, in.Count, in.PrefixCount)
	addresses, prefixes := textsOf(got)
	return map[string]any{"AssignedPrivateIpAddressesSet": map[string]any{
		"NetworkInterfaceId": in.Interface, "PrivateIpSet": map[string]any{"PrivateIpAddress": addresses}, "Ipv4PrefixSet": map[string]any{"Ipv4Prefixes": prefixes},
	}}, err
}

type assignIPv6 struct {
	Interface   string         `query:"NetworkInterfaceId,required"`
	Addresses   []netip.Addr   `query:"Ipv6Address"`
	Count       int            `query:"Ipv6AddressCount"`
	Prefixes    []netip.Prefix `query:"Ipv6Prefix"`
	PrefixCount int            `query:"Ipv6PrefixCount"`
}

// https://api.alibabacloud.com/document/Ecs/2014-05-26/AssignIpv6Addresses
func (c *Cloud) assignIPv6(ctx context.Context, in *assignIPv6) (map[string]any, error) {
	a := cloud.Assignment{Interface: in.Interface, Family: inet.IPv6, Exact: append(single(in.Addresses), in.Prefixes...)}
	got, err := c.assign(ctx, a, in.Count, in.PrefixCount)
	addresses, prefixes := textsOf(got)
	return map[string]any{"Ipv6Sets": map[string]any{"Ipv6Address": addresses}, "Ipv6PrefixSets": map[string]any{"Ipv6Prefix": prefixes}}, err
}

// unassign takes pieces from an interface, all or none.
func (c *Cloud) unassign(ctx context.Context, iface string, pieces []netip.Prefix) error {
	present, err := c.present(iface)
	if err != nil {
		return err
	}
	for _, p := range pieces {
		if !slices.Contains(present.Assigned, p) {
			return refuse(403, "InvalidIp.IpUnassigned", "The specified IP %s is not assigned.", p)
		}
	}
	return c.Fake.Unassign(ctx, iface, pieces)
}

// https://api.alibabacloud.com/document/Ecs/2014-05-26/UnassignPrivateIpAddresses
func (c *Cloud) unassignIPv4(ctx context.Context, in *struct {
	Interface string         `query:"NetworkInterfaceId,required"`
	Addresses []netip.Addr   `query:"PrivateIpAddress"`
	Prefixes  []netip.Prefix `query:"Ipv4Prefix"`
},
) (map[string]any, error) {
	return nil, c.unassign(ctx, in.Interface, append(single(in.Addresses), in.Prefixes...))
}

// https://api.alibabacloud.com/document/Ecs/2014-05-26/UnassignIpv6Addresses
func (c *Cloud) unassignIPv6(ctx context.Context, in *struct {
	Interface string         `query:"NetworkInterfaceId,required"`
	Addresses []netip.Addr   `query:"Ipv6Address"`
	Prefixes  []netip.Prefix `query:"Ipv6Prefix"`
},
) (map[string]any, error) {
	return nil, c.unassign(ctx, in.Interface, append(single(in.Addresses), in.Prefixes...))
}

// https://api.alibabacloud.com/document/Ecs/2014-05-26/CreateNetworkInterface
func (c *Cloud) create(ctx context.Context, in *struct {
	Subnet          string   `query:"VSwitchId,required"`
	Groups          []string `query:"SecurityGroupIds,required"`
	DeleteOnRelease bool     `query:"DeleteOnRelease"`
	Description     string   `query:"Description"`
	Token           string   `query:"ClientToken"`
	Tags            []tag    `query:"Tag"`
},
) (map[string]any, error) {
	c.mu.Lock()
	known := slices.Contains(c.mu.subnets, in.Subnet)
	c.mu.Unlock()
	switch {
	case !known:
		return nil, refuse(404, "InvalidVSwitchId.NotFound", "The specified VSwitchId is not found.")
	case slices.ContainsFunc(in.Groups, func(id string) bool { return id != c.SecurityGroup() }):
		return nil, refuse(404, "InvalidSecurityGroupId.NotFound", "The specified SecurityGroupId is not found.")
	case !in.DeleteOnRelease || len(in.Token) > 64:
		return nil, refuse(400, "InvalidParameter", "The fake deletes every interface with its instance, and a ClientToken has at most 64 characters.")
	}
	made, err := c.Fake.Create(ctx, cloud.NewInterface{
		Subnet: in.Subnet, SecurityGroups: in.Groups, Description: in.Description, Token: in.Token, Tags: tagMap(in.Tags),
	})
	if err != nil {
		return nil, err
	}
	return interfaceJSON(made), nil
}

type attachment struct {
	Interface string `query:"NetworkInterfaceId,required"`
	Instance  string `query:"InstanceId,required"`
}

// attach gives an interface to an instance, which has no device indexes.
//
// https://api.alibabacloud.com/document/Ecs/2014-05-26/AttachNetworkInterface
func (c *Cloud) attach(ctx context.Context, in *attachment) (map[string]any, error) {
	present, err := c.present(in.Interface)
	switch {
	case err != nil:
		return nil, err
	case present.Attached != "":
		return nil, refuse(400, "InvalidOperation.InvalidEniState", "The operation is not allowed in the current ENI state.")
	}
	device := 0
	for _, i := range c.Present() {
		if i.Attached == in.Instance {
			device = max(device, i.Device+1)
		}
	}
	err = c.Fake.Attach(ctx, in.Interface, in.Instance, max(device, 1))
	err = ofKind(err, cloud.Quota, 403, "EniPerInstanceLimitExceeded")
	return nil, ofKind(err, cloud.Gone, 404, "InvalidEcsId.NotFound")
}

// https://api.alibabacloud.com/document/Ecs/2014-05-26/DetachNetworkInterface
func (c *Cloud) detach(ctx context.Context, in *attachment) (map[string]any, error) {
	present, err := c.present(in.Interface)
	switch {
	case err != nil:
		return nil, err
	case present.Attached != in.Instance:
		return nil, refuse(400, "InvalidOperation.InvalidEniState", "The operation is not allowed in the current ENI state.")
	}
	return nil, ofKind(c.Fake.Detach(ctx, in.Interface), cloud.Invalid, 400, "InvalidOperation.DetachPrimaryEniNotAllowed")
}

// https://api.alibabacloud.com/document/Ecs/2014-05-26/DeleteNetworkInterface
func (c *Cloud) delete(ctx context.Context, in *struct {
	Interface string `query:"NetworkInterfaceId,required"`
},
) (map[string]any, error) {
	if _, err := c.present(in.Interface); err != nil {
		return nil, err
	}
	return nil, ofKind(c.Fake.Delete(ctx, in.Interface), cloud.Conflict, 400, "InvalidOperation.InvalidEniState")
}

// https://api.alibabacloud.com/document/Ecs/2014-05-26/TagResources
func (c *Cloud) tag(_ context.Context, in *struct {
	Type string   `query:"ResourceType,required"`
	IDs  []string `query:"ResourceId,required"`
	Tags []tag    `query:"Tag,required"`
},
) (map[string]any, error) {
	if in.Type != "eni" {
		return nil, refuse(404, "InvalidResourceType.NotFound", "The ResourceType provided does not exist in our records.")
	}
	for _, id := range in.IDs {
		if _, err := c.present(id); err != nil {
			return nil, refuse(404, "InvalidResourceId.NotFound", "The specified ResourceIds are not found in our records.")
		}
		c.Fake.Tag(id, tagMap(in.Tags))
	}
	return nil, nil
}
