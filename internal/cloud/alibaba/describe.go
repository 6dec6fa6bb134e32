package alibaba

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"

	"spiderpool.dev/spiderpool/internal/cloud"
)

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// pages calls next until it returns no further token.
func pages(next func(token string) (string, error)) error {
	for token := ""; ; {
		following, err := next(token)
		if err != nil || following == "" {
			return err
		}
		token = following
	}
}

// batches calls ask with as many values as a request takes.
func batches(values []string, most int, ask func(some []string) error) error {
	for some := range slices.Chunk(values, most) {
		if err := ask(some); err != nil {
			return err
		}
	}
	return nil
}

// paged returns the parameters of one page.
func (p *Provider) paged(token string) query {
	q := query{}.number("MaxResults", p.page)
	if token != "" {
		q["NextToken"] = token
	}
	return q
}

// Instances implements cloud.Provider, with DescribeInstances and DescribeNetworkInterfaces: an instance
// is described without the subnets and the tags of its interfaces.
func (p *Provider) Instances(ctx context.Context, ids []string) ([]cloud.Instance, error) {
	found, err := p.describeInstances(ctx, ids)
	if err != nil {
		return nil, err
	}
	attached := map[string][]cloud.Interface{}
	err = p.eachInterface(ctx, interfacesOf(found), nil, func(described cloud.Interface, _ eni) {
		attached[described.Attached] = append(attached[described.Attached], described)
	})
	if err != nil {
		return nil, err
	}
	var instances []cloud.Instance
	for _, i := range found {
		instances = append(instances, cloud.Instance{
			ID: i.InstanceID, Type: i.InstanceType, Zone: i.ZoneID, VPC: i.VPCAttributes.VPCID, Subnet: i.VPCAttributes.VSwitchID, Interfaces: placed(attached[i.InstanceID]),
		})
	}
	return instances, nil
}

// placed returns the interfaces with a position of their own, in order. Two with one position were tagged by mistake:
// nothing tells which of them is there.
func placed(interfaces []cloud.Interface) (placed []cloud.Interface) {
	at := map[int]int{}
	for _, i := range interfaces {
		at[i.Device]++
	}
	for _, i := range interfaces {
		if i.Device != cloud.UnknownDevice && at[i.Device] == 1 {
			placed = append(placed, i)
		}
	}
	slices.SortFunc(placed, func(a, b cloud.Interface) int { return cmp.Compare(a.Device, b.Device) })
	return placed
}

// describeInstances returns the instances with these IDs.
func (p *Provider) describeInstances(ctx context.Context, ids []string) (found []instance, err error) {
	err = batches(ids, maxIDs, func(some []string) error {
		list, err := json.Marshal(some)
		if err != nil {
			return err
		}
		return pages(func(token string) (string, error) {
			q := p.paged(token)
			q["InstanceIds"] = string(list)
			var out struct {
				Instances struct{ Instance []instance }
				NextToken string
			}
			if err := p.ecs.call(ctx, "DescribeInstances", q, &out); err != nil {
				return "", err
			}
			found = append(found, out.Instances.Instance...)
			return out.NextToken, nil
		})
	})
	return found, err
}

// Interfaces implements cloud.Provider, with DescribeNetworkInterfaces; for instances, with DescribeInstances before.
func (p *Provider) Interfaces(ctx context.Context, q cloud.Query) (found []cloud.Interface, err error) {
	add := func(described cloud.Interface, _ eni) {
		if len(q.Instances) == 0 || slices.Contains(q.Instances, described.Attached) {
			found = append(found, described)
		}
	}
	ids := q.IDs
	switch {
	case q.Empty():
		return nil, nil
	case len(ids) == 0 && len(q.Instances) > 0:
		instances, err := p.describeInstances(ctx, q.Instances)
		if err != nil {
			return nil, err
		}
		ids = interfacesOf(instances)
	case len(ids) == 0:
		err = p.pagesOfInterfaces(ctx, query{}.tags(q.Tags), add)
		if err == nil && len(found) >= maxTagged {
			return nil, p.ecs.invalid("DescribeNetworkInterfaces", "more than %d interfaces have the tags %v, and Alibaba Cloud returns no more; ask for instances", maxTagged, q.Tags)
		}
		return found, err
	}
	if err := p.eachInterface(ctx, ids, q.Tags, add); err != nil {
		return nil, err
	}
	return found, nil
}

// eachInterface describes the interfaces with these IDs and tags.
func (p *Provider) eachInterface(ctx context.Context, ids []string, tags map[string]string, use func(cloud.Interface, eni)) error {
	return batches(ids, maxIDs, func(some []string) error {
		return p.pagesOfInterfaces(ctx, query{}.list("NetworkInterfaceId", some).tags(tags), use)
	})
}

// pagesOfInterfaces describes the interfaces of a query, to the last page.
func (p *Provider) pagesOfInterfaces(ctx context.Context, in query, use func(cloud.Interface, eni)) error {
	const action = "DescribeNetworkInterfaces"
	return pages(func(token string) (string, error) {
		q := p.paged(token)
		maps.Copy(q, in)
		var out struct {
			NetworkInterfaceSets struct{ NetworkInterfaceSet []eni }
			NextToken            string
		}
		if err := p.ecs.call(ctx, action, q, &out); err != nil {
			return "", err
		}
		for _, i := range out.NetworkInterfaceSets.NetworkInterfaceSet {
			described, err := i.value()
			if err != nil {
				return "", cloud.NotUnderstood(p.ecs.name(action), err)
			}
			use(described, i)
		}
		return out.NextToken, nil
	})
}

// Subnets implements cloud.Provider, with a DescribeVSwitches for each ID, or for all with the tags, and
// ListVSwitchCidrReservations for each IP family.
func (p *Provider) Subnets(ctx context.Context, ids []string, tags map[string]string) (found []cloud.Subnet, err error) {
	add := func(s cloud.Subnet) { found = append(found, s) }
	switch {
	case len(ids) > 0:
		for _, id := range ids {
			if err := p.eachSubnet(ctx, query{"VSwitchId": id}, add); err != nil {
				return nil, err
			}
		}
	case len(tags) > 0:
		err = p.eachSubnet(ctx, query{}.tags(tags), add)
	}
	if err != nil || len(found) == 0 {
		return nil, err
	}
	for _, version := range []string{"IPv4", "IPv6"} {
		if err := p.eachReservation(ctx, version, func(subnet string, r cloud.Reservation) {
			for i := range found {
				if found[i].ID == subnet {
					found[i].Reserved = append(found[i].Reserved, r)
				}
			}
		}); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// eachSubnet describes subnets, to the last page: this action counts pages.
func (p *Provider) eachSubnet(ctx context.Context, in query, use func(cloud.Subnet)) error {
	const action = "DescribeVSwitches"
	size := min(p.page, maxSubnetPage)
	for number := 1; ; number++ {
		q := query{}.number("PageSize", size).number("PageNumber", number)
		maps.Copy(q, in)
		var out struct{ VSwitches struct{ VSwitch []vSwitch } }
		if err := p.vpc.call(ctx, action, q, &out); err != nil {
			return err
		}
		for _, s := range out.VSwitches.VSwitch {
			described, err := s.value()
			if err != nil {
				return cloud.NotUnderstood(p.vpc.name(action), err)
			}
			use(described)
		}
		if len(out.VSwitches.VSwitch) < size {
			return nil
		}
	}
}

// eachReservation describes the CIDR reservations of all subnets in an IP version, IPv4 or IPv6.
func (p *Provider) eachReservation(ctx context.Context, version string, use func(subnet string, r cloud.Reservation)) error {
	const action = "ListVSwitchCidrReservations"
	return pages(func(token string) (string, error) {
		q := p.paged(token)
		q["IpVersion"] = version
		var out struct {
			VSwitchCidrReservations []reservation
			NextToken               string
		}
		if err := p.vpc.call(ctx, action, q, &out); err != nil {
			return "", err
		}
		for _, r := range out.VSwitchCidrReservations {
			described, err := r.value()
			if err != nil {
				return "", cloud.NotUnderstood(p.vpc.name(action), err)
			}
			use(r.VSwitchID, described)
		}
		return out.NextToken, nil
	})
}

// Limits implements cloud.Provider, with DescribeInstanceTypes. Alibaba Cloud does not tell which types take no prefixes:
// Assign then returns Invalid.
func (p *Provider) Limits(ctx context.Context, types []string) (map[string]cloud.Limits, error) {
	limits := map[string]cloud.Limits{}
	err := batches(types, maxTypes, func(some []string) error {
		return pages(func(token string) (string, error) {
			q := p.paged(token).list("InstanceTypes", some)
			var out struct {
				InstanceTypes struct{ InstanceType []instanceType }
				NextToken     string
			}
			if err := p.ecs.call(ctx, "DescribeInstanceTypes", q, &out); err != nil {
				return "", err
			}
			for _, t := range out.InstanceTypes.InstanceType {
				limits[t.InstanceTypeID] = t.value()
			}
			return out.NextToken, nil
		})
	})
	if err != nil {
		return nil, err
	}
	return limits, nil
}
