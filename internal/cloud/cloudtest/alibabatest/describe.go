package alibabatest

import (
	"cmp"
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

// paging are the parameters of actions with tokens.
type paging struct {
	Max   int    `query:"MaxResults"`
	Token string `query:"NextToken"`
}

type tag struct {
	Key   string `query:"Key"`
	Value string `query:"Value"`
}

func tagMap(tags []tag) map[string]string {
	byKey := map[string]string{}
	for _, t := range tags {
		byKey[t.Key] = t.Value
	}
	return byKey
}

// pageOf returns the items of one page in the order of their IDs, and the token of the next one. Alibaba Cloud
// returns 10 items at least and limit items at most.
func pageOf[T any](items []T, id func(T) string, p paging, limit int) (page []T, next string, err error) {
	after, ok := strings.CutPrefix(p.Token, "after ")
	if p.Token != "" && !ok {
		return nil, "", refuse(400, "InvalidParameter.NextToken", "The specified NextToken is not valid.")
	}
	slices.SortFunc(items, func(a, b T) int { return cmp.Compare(id(a), id(b)) })
	size := min(max(p.Max, 10), limit)
	for _, item := range items {
		if id(item) <= after && after != "" {
			continue
		}
		if len(page) == size {
			return page, "after " + id(page[size-1]), nil
		}
		page = append(page, item)
	}
	return page, "", nil
}

// listOf returns items as a list in an element of its own: {"Instance": [...]}.
func listOf[T any](element string, items []T, convert func(T) any) map[string]any {
	list := []any{}
	for _, item := range items {
		list = append(list, convert(item))
	}
	return map[string]any{element: list}
}

func itself[T any](item T) any { return item }

// https://api.alibabacloud.com/document/Ecs/2014-05-26/DescribeInstances
func (c *Cloud) describeInstances(ctx context.Context, in *struct {
	IDs string `query:"InstanceIds,required"`
	paging
},
) (map[string]any, error) {
	var ids []string
	if err := json.Unmarshal([]byte(in.IDs), &ids); err != nil || len(ids) > 100 {
		return nil, refuse(400, "InvalidParameter", "The specified parameter InstanceIds is not valid.")
	}
	found, err := c.Fake.Instances(ctx, ids)
	if err != nil {
		return nil, err
	}
	page, next, err := pageOf(found, func(i cloud.Instance) string { return i.ID }, in.paging, 100)
	return map[string]any{"NextToken": next, "Instances": listOf("Instance", page, func(i cloud.Instance) any {
		return map[string]any{
			"InstanceId": i.ID, "InstanceType": i.Type, "ZoneId": i.Zone, "Status": "Running", "VpcAttributes": map[string]any{"VpcId": i.VPC, "VSwitchId": i.Subnet},
			"NetworkInterfaces": listOf("NetworkInterface", i.Interfaces, func(n cloud.Interface) any {
				return map[string]any{"NetworkInterfaceId": n.ID, "MacAddress": n.MAC}
			}),
		}
	})}, err
}

// https://api.alibabacloud.com/document/Ecs/2014-05-26/DescribeNetworkInterfaces
func (c *Cloud) describeInterfaces(ctx context.Context, in *struct {
	IDs      []string `query:"NetworkInterfaceId"`
	Instance string   `query:"InstanceId"`
	Tags     []tag    `query:"Tag"`
	paging
},
) (map[string]any, error) {
	q := cloud.Query{IDs: in.IDs, Tags: tagMap(in.Tags)}
	if in.Instance != "" {
		q.Instances = []string{in.Instance}
	}
	if q.Empty() || len(in.IDs) > 100 || len(in.Tags) > 20 {
		return nil, refuse(400, "InvalidParameter", "The fake describes 1 to 100 interfaces, or those of an instance or of 1 to 20 tags.")
	}
	found, err := c.Fake.Interfaces(ctx, q)
	if err != nil {
		return nil, err
	}
	page, next, err := pageOf(found, func(i cloud.Interface) string { return i.ID }, in.paging, 500)
	return map[string]any{"NextToken": next, "NetworkInterfaceSets": listOf("NetworkInterfaceSet", page, func(i cloud.Interface) any { return interfaceJSON(i) })}, err
}

// interfaceJSON returns an interface as both DescribeNetworkInterfaces and CreateNetworkInterface do.
func interfaceJSON(i cloud.Interface) map[string]any {
	var addresses4, addresses6, prefixes4, prefixes6, tags []any
	add := func(a netip.Addr, primary bool) {
		if a.Is4() {
			addresses4 = append(addresses4, map[string]any{"PrivateIpAddress": a, "Primary": primary})
		} else {
			addresses6 = append(addresses6, map[string]any{"Ipv6Address": a})
		}
	}
	for _, a := range i.Primary {
		add(a, true)
	}
	for _, p := range i.Assigned {
		switch {
		case p.IsSingleIP():
			add(p.Addr(), false)
		case p.Addr().Is4():
			prefixes4 = append(prefixes4, map[string]any{"Ipv4Prefix": p})
		default:
			prefixes6 = append(prefixes6, map[string]any{"Ipv6Prefix": p})
		}
	}
	for key, value := range i.Tags {
		tags = append(tags, map[string]any{"TagKey": key, "TagValue": value})
	}
	kind, status := "Secondary", "Available"
	if i.Attached != "" {
		status = "InUse"
		if i.Device == 0 {
			kind = "Primary"
		}
	}
	return map[string]any{
		"NetworkInterfaceId": i.ID, "MacAddress": strings.ToUpper(i.MAC), "VSwitchId": i.Subnet, "InstanceId": i.Attached, "Type": kind, "Status": status,
		"SecurityGroupIds": map[string]any{"SecurityGroupId": i.SecurityGroups},
		"PrivateIpSets":    map[string]any{"PrivateIpSet": addresses4}, "Ipv6Sets": map[string]any{"Ipv6Set": addresses6},
		"Ipv4PrefixSets": map[string]any{"Ipv4PrefixSet": prefixes4}, "Ipv6PrefixSets": map[string]any{"Ipv6PrefixSet": prefixes6},
		"Tags": map[string]any{"Tag": tags},
	}
}

// https://api.alibabacloud.com/document/Vpc/2016-04-28/DescribeVSwitches
func (c *Cloud) describeSubnets(ctx context.Context, in *struct {
	ID     string `query:"VSwitchId"`
	Tags   []tag  `query:"Tag"`
	Number int    `query:"PageNumber"`
	Size   int    `query:"PageSize"`
},
) (map[string]any, error) {
	var ids []string
	if in.ID != "" {
		ids = []string{in.ID}
	}
	if in.Size > 50 {
		return nil, refuse(400, "InvalidParameter", "Specified value of PageSize is not valid.")
	}
	found, err := c.Fake.Subnets(ctx, ids, tagMap(in.Tags))
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b cloud.Subnet) int { return cmp.Compare(a.ID, b.ID) })
	number, size := max(in.Number, 1), cmp.Or(in.Size, 10)
	page := found[min((number-1)*size, len(found)):min(number*size, len(found))]
	return map[string]any{
		"PageNumber": number, "PageSize": size, "TotalCount": len(found),
		"VSwitches": listOf("VSwitch", page, func(s cloud.Subnet) any {
			described := map[string]any{"VSwitchId": s.ID, "ZoneId": s.Zone, "VpcId": s.VPC, "AvailableIpAddressCount": s.Free, "Status": "Available", "Ipv6CidrBlock": ""}
			for _, cidr := range s.CIDRs {
				if cidr.Addr().Is4() {
					described["CidrBlock"] = cidr
				} else {
					described["Ipv6CidrBlock"] = cidr
				}
			}
			var tags []any
			for key, value := range s.Tags {
				tags = append(tags, map[string]any{"Key": key, "Value": value})
			}
			described["Tags"] = map[string]any{"Tag": tags}
			return described
		}),
	}, nil
}

// https://api.alibabacloud.com/document/Vpc/2016-04-28/ListVSwitchCidrReservations
func (c *Cloud) listReservations(ctx context.Context, in *struct {
	Version string `query:"IpVersion"`
	paging
},
) (map[string]any, error) {
	c.mu.Lock()
	ids := slices.Clone(c.mu.subnets)
	c.mu.Unlock()
	subnets, err := c.Fake.Subnets(ctx, ids, nil)
	if err != nil {
		return nil, err
	}
	type reservation struct {
		VSwitchID string       `json:"VSwitchId"`
		CIDR      netip.Prefix `json:"VSwitchCidrReservationCidr"`
		Type      string
		Status    string
	}
	var found []reservation
	for _, s := range subnets {
		for _, r := range s.Reserved {
			if inet.FamilyOf(r.CIDR.Addr()).String() == cmp.Or(in.Version, "IPv4") {
				found = append(found, reservation{s.ID, r.CIDR, "Prefix", "Assigned"})
			}
		}
	}
	page, next, err := pageOf(found, func(r reservation) string { return r.VSwitchID + " " + r.CIDR.String() }, in.paging, 100)
	return map[string]any{"NextToken": next, "VSwitchCidrReservations": listOf("", page, itself)[""]}, err
}

// https://api.alibabacloud.com/document/Ecs/2014-05-26/DescribeInstanceTypes
func (c *Cloud) describeTypes(ctx context.Context, in *struct {
	Names []string `query:"InstanceTypes,required"`
	paging
},
) (map[string]any, error) {
	if len(in.Names) > 10 {
		return nil, refuse(400, "InvalidParameter", "The specified parameter InstanceTypes is not valid.")
	}
	limits, err := c.Fake.Limits(ctx, in.Names)
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range limits {
		names = append(names, name)
	}
	page, next, err := pageOf(names, func(name string) string { return name }, in.paging, 1600)
	return map[string]any{"NextToken": next, "InstanceTypes": listOf("InstanceType", page, func(name string) any {
		return map[string]any{
			"InstanceTypeId": name, "EniQuantity": limits[name].Interfaces, "EniPrivateIpAddressQuantity": limits[name].IPv4,
			"EniIpv6AddressQuantity": limits[name].IPv6,
		}
	})}, err
}
