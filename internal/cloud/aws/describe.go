package aws

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"spiderpool.dev/spiderpool/internal/cloud"
)

// existing are the states of an instance whose interfaces are in use.
var existing = []string{"pending", "running", "stopping", "stopped", "shutting-down"}

func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: awssdk.String(name), Values: values}
}

// literal escapes the wildcards of a filter.
var literal = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`)

// tagFilters returns the filters for tags. An empty value matches any.
func tagFilters(tags map[string]string) (filters []types.Filter) {
	for key, value := range tags {
		if value == "" {
			filters = append(filters, filter("tag-key", literal.Replace(key)))
		} else {
			filters = append(filters, filter("tag:"+key, literal.Replace(value)))
		}
	}
	return filters
}

// pages calls next until it returns no further token.
func pages(next func(token *string) (*string, error)) error {
	var token *string
	for {
		following, err := next(token)
		if err != nil || awssdk.ToString(following) == "" {
			return err
		}
		token = following
	}
}

// batches calls ask with as many values as a request takes.
func batches(values []string, ask func(some []string) error) error {
	for some := range slices.Chunk(values, maxIDs) {
		if err := ask(some); err != nil {
			return err
		}
	}
	return nil
}

// Instances implements cloud.Provider, with DescribeInstances.
//
// It filters by ID instead of naming the IDs: EC2 refuses a list with one unknown ID, and
// returns no pages of a list.
func (p *Provider) Instances(ctx context.Context, ids []string) (found []cloud.Instance, err error) {
	err = batches(ids, func(some []string) error {
		more, err := p.instances(ctx, filter("instance-id", some...))
		found = append(found, more...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// instances returns the instances that pass a filter.
func (p *Provider) instances(ctx context.Context, by types.Filter) (found []cloud.Instance, err error) {
	const action = "DescribeInstances"
	err = pages(func(token *string) (*string, error) {
		out, err := request(ctx, p, action, &ec2.DescribeInstancesInput{
			Filters: []types.Filter{by, filter("instance-state-name", existing...)}, MaxResults: &p.page, NextToken: token,
		}, p.client.DescribeInstances)
		if err != nil {
			return nil, err
		}
		for _, r := range out.Reservations {
			for _, i := range r.Instances {
				instance, err := instanceOf(i)
				if err != nil {
					return nil, cloud.NotUnderstood(service+action, err)
				}
				found = append(found, instance)
			}
		}
		return out.NextToken, nil
	})
	return found, err
}

// Interfaces implements cloud.Provider, with DescribeNetworkInterfaces.
func (p *Provider) Interfaces(ctx context.Context, q cloud.Query) (found []cloud.Interface, err error) {
	const action = "DescribeNetworkInterfaces"
	add := func(filters []types.Filter) error {
		return p.eachInterface(ctx, filters, func(i types.NetworkInterface) error {
			described, err := interfaceOf(i)
			if err != nil {
				return cloud.NotUnderstood(service+action, err)
			}
			found = append(found, described)
			return nil
		})
	}
	tags := tagFilters(q.Tags)
	switch {
	case q.Empty():
	case len(q.IDs) > 0:
		if len(q.Instances) > 0 {
			tags = append(tags, filter("attachment.instance-id", q.Instances...))
		}
		err = batches(q.IDs, func(some []string) error {
			return add(append(slices.Clip(tags), filter("network-interface-id", some...)))
		})
	case len(q.Instances) > 0:
		err = batches(q.Instances, func(some []string) error {
			return add(append(slices.Clip(tags), filter("attachment.instance-id", some...)))
		})
	default:
		err = add(tags)
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

func (p *Provider) eachInterface(ctx context.Context, filters []types.Filter, use func(types.NetworkInterface) error) error {
	return pages(func(token *string) (*string, error) {
		out, err := request(ctx, p, "DescribeNetworkInterfaces", &ec2.DescribeNetworkInterfacesInput{
			Filters: filters, MaxResults: &p.page, NextToken: token,
		}, p.client.DescribeNetworkInterfaces)
		if err != nil {
			return nil, err
		}
		for _, i := range out.NetworkInterfaces {
			if err := use(i); err != nil {
				return nil, err
			}
		}
		return out.NextToken, nil
	})
}

// look returns one interface as EC2 describes it. ok is false for an unknown one.
func (p *Provider) look(ctx context.Context, id string) (found types.NetworkInterface, ok bool, err error) {
	err = p.eachInterface(ctx, []types.Filter{filter("network-interface-id", id)}, func(i types.NetworkInterface) error {
		found, ok = i, true
		return nil
	})
	return found, ok, err
}

// Subnets implements cloud.Provider, with DescribeSubnets and one GetSubnetCidrReservations
// for each subnet.
func (p *Provider) Subnets(ctx context.Context, ids []string, tags map[string]string) (found []cloud.Subnet, err error) {
	switch {
	case len(ids) > 0:
		err = batches(ids, func(some []string) error {
			more, err := p.describeSubnets(ctx, filter("subnet-id", some...))
			found = append(found, more...)
			return err
		})
	case len(tags) > 0:
		found, err = p.describeSubnets(ctx, tagFilters(tags)...)
	}
	if err != nil {
		return nil, err
	}
	for i := range found {
		found[i].ReserveCommand = fmt.Sprintf("aws ec2 create-subnet-cidr-reservation --region %s --subnet-id %s --reservation-type explicit --cidr", p.region, found[i].ID)
		if found[i].Reserved, err = p.reservations(ctx, found[i].ID); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (p *Provider) describeSubnets(ctx context.Context, filters ...types.Filter) (found []cloud.Subnet, err error) {
	const action = "DescribeSubnets"
	err = pages(func(token *string) (*string, error) {
		out, err := request(ctx, p, action, &ec2.DescribeSubnetsInput{Filters: filters, MaxResults: &p.page, NextToken: token}, p.client.DescribeSubnets)
		if err != nil {
			return nil, err
		}
		for _, s := range out.Subnets {
			subnet, err := subnetOf(s)
			if err != nil {
				return nil, cloud.NotUnderstood(service+action, err)
			}
			found = append(found, subnet)
		}
		return out.NextToken, nil
	})
	return found, err
}

// reservations returns the CIDR reservations of a subnet.
func (p *Provider) reservations(ctx context.Context, subnet string) (found []cloud.Reservation, err error) {
	const action = "GetSubnetCidrReservations"
	err = pages(func(token *string) (*string, error) {
		out, err := request(ctx, p, action, &ec2.GetSubnetCidrReservationsInput{
			SubnetId: &subnet, MaxResults: &p.page, NextToken: token,
		}, p.client.GetSubnetCidrReservations)
		if err != nil {
			return nil, err
		}
		for _, r := range slices.Concat(out.SubnetIpv4CidrReservations, out.SubnetIpv6CidrReservations) {
			cidr, err := netip.ParsePrefix(awssdk.ToString(r.Cidr))
			if err != nil {
				return nil, cloud.NotUnderstood(service+action, err)
			}
			found = append(found, cloud.Reservation{CIDR: cidr.Masked(), Prefixes: r.ReservationType == types.SubnetCidrReservationTypePrefix})
		}
		return out.NextToken, nil
	})
	return found, err
}

// Limits implements cloud.Provider, with DescribeInstanceTypes.
func (p *Provider) Limits(ctx context.Context, names []string) (map[string]cloud.Limits, error) {
	limits := map[string]cloud.Limits{}
	page := min(p.page, 100) // the most that DescribeInstanceTypes takes
	err := batches(names, func(some []string) error {
		return pages(func(token *string) (*string, error) {
			out, err := request(ctx, p, "DescribeInstanceTypes", &ec2.DescribeInstanceTypesInput{
				Filters: []types.Filter{filter("instance-type", some...)}, MaxResults: &page, NextToken: token,
			}, p.client.DescribeInstanceTypes)
			if err != nil {
				return nil, err
			}
			for _, t := range out.InstanceTypes {
				if t.NetworkInfo != nil {
					limits[string(t.InstanceType)] = limitsOf(t)
				}
			}
			return out.NextToken, nil
		})
	})
	if err != nil {
		return nil, err
	}
	return limits, nil
}

// limitsOf returns the limits of the first network card, where all interfaces that we attach
// are.
func limitsOf(t types.InstanceTypeInfo) cloud.Limits {
	n := t.NetworkInfo
	interfaces := awssdk.ToInt32(n.MaximumNetworkInterfaces)
	for _, card := range n.NetworkCards {
		if awssdk.ToInt32(card.NetworkCardIndex) == awssdk.ToInt32(n.DefaultNetworkCardIndex) {
			interfaces = cmp.Or(awssdk.ToInt32(card.MaximumNetworkInterfaces), interfaces)
		}
	}
	return cloud.Limits{
		Interfaces: int(interfaces),
		IPv4:       int(awssdk.ToInt32(n.Ipv4AddressesPerInterface)),
		IPv6:       int(awssdk.ToInt32(n.Ipv6AddressesPerInterface)),
		Prefixes:   t.Hypervisor != types.InstanceTypeHypervisorXen,
	}
}
