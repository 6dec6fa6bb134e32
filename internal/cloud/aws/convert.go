package aws

import (
	"cmp"
	"slices"
	"strings"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/pieces"
)

// single is one address as EC2 describes it.
type single struct {
	text    *string
	primary *bool
}

// withAddresses adds the addresses to an interface.
//
// EC2 marks the node's own IPv6 address only if the interface was made so (EnablePrimaryIpv6).
// Without a mark, each single IPv6 address may be the node's own: EC2 promises no order, and an
// interface of any device index gets one from its subnet. Then only prefixes are for pods.
func withAddresses(out cloud.Interface, ipv4, ipv6 []single, prefixes []*string) (cloud.Interface, error) {
	var found pieces.Found
	for _, one := range ipv4 {
		found.Address(awssdk.ToString(one.text), awssdk.ToBool(one.primary))
	}
	marked := slices.ContainsFunc(ipv6, func(one single) bool { return awssdk.ToBool(one.primary) })
	for _, one := range ipv6 {
		found.Address(awssdk.ToString(one.text), !marked || awssdk.ToBool(one.primary))
	}
	for _, prefix := range prefixes {
		found.Prefix(awssdk.ToString(prefix))
	}
	return found.In(out)
}

// firstCard is the network card of the primary interface, and of all interfaces that we describe
// and attach. The device indexes of the other cards repeat those of the first
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-eni.html#network-cards).
const firstCard = 0

// instanceOf returns an instance with the interfaces of its first network card.
func instanceOf(i types.Instance) (cloud.Instance, error) {
	out := cloud.Instance{ID: awssdk.ToString(i.InstanceId), Type: string(i.InstanceType), VPC: awssdk.ToString(i.VpcId), Subnet: awssdk.ToString(i.SubnetId)}
	if i.Placement != nil {
		out.Zone = awssdk.ToString(i.Placement.AvailabilityZone)
	}
	for _, n := range i.NetworkInterfaces {
		if n.Attachment == nil || isEnding(n.Attachment.Status) || awssdk.ToInt32(n.Attachment.NetworkCardIndex) != firstCard {
			continue
		}
		described, err := interfaceOfInstance(n, out.ID)
		if err != nil {
			return cloud.Instance{}, err
		}
		out.Interfaces = append(out.Interfaces, described)
	}
	slices.SortFunc(out.Interfaces, func(a, b cloud.Interface) int { return cmp.Compare(a.Device, b.Device) })
	return out, nil
}

// isEnding reports whether an attachment is on its way out.
func isEnding(status types.AttachmentStatus) bool {
	return status == types.AttachmentStatusDetaching || status == types.AttachmentStatusDetached
}

// each converts the items of a list.
func each[T, U any](items []T, convert func(T) U) (converted []U) {
	for _, item := range items {
		converted = append(converted, convert(item))
	}
	return converted
}

func interfaceOfInstance(n types.InstanceNetworkInterface, instance string) (cloud.Interface, error) {
	return withAddresses(
		cloud.Interface{
			ID: awssdk.ToString(n.NetworkInterfaceId), MAC: strings.ToLower(awssdk.ToString(n.MacAddress)), Subnet: awssdk.ToString(n.SubnetId),
			SecurityGroups: groups(n.Groups), Attached: instance, Device: int(awssdk.ToInt32(n.Attachment.DeviceIndex)),
			Survives: !awssdk.ToBool(n.Attachment.DeleteOnTermination),
		},
		each(n.PrivateIpAddresses, func(a types.InstancePrivateIpAddress) single { return single{a.PrivateIpAddress, a.Primary} }),
		each(n.Ipv6Addresses, func(a types.InstanceIpv6Address) single { return single{a.Ipv6Address, a.IsPrimaryIpv6} }),
		append(
			each(n.Ipv4Prefixes, func(p types.InstanceIpv4Prefix) *string { return p.Ipv4Prefix }),
			each(n.Ipv6Prefixes, func(p types.InstanceIpv6Prefix) *string { return p.Ipv6Prefix })...,
		),
	)
}

func interfaceOf(n types.NetworkInterface) (cloud.Interface, error) {
	out := cloud.Interface{
		ID: awssdk.ToString(n.NetworkInterfaceId), MAC: strings.ToLower(awssdk.ToString(n.MacAddress)), Subnet: awssdk.ToString(n.SubnetId),
		SecurityGroups: groups(n.Groups), Tags: tagsOf(n.TagSet),
	}
	if n.Attachment != nil {
		out.Attached, out.Device = awssdk.ToString(n.Attachment.InstanceId), int(awssdk.ToInt32(n.Attachment.DeviceIndex))
		out.Survives = !awssdk.ToBool(n.Attachment.DeleteOnTermination)
	}
	return withAddresses(
		out,
		each(n.PrivateIpAddresses, func(a types.NetworkInterfacePrivateIpAddress) single { return single{a.PrivateIpAddress, a.Primary} }),
		each(n.Ipv6Addresses, func(a types.NetworkInterfaceIpv6Address) single { return single{a.Ipv6Address, a.IsPrimaryIpv6} }),
		append(
			each(n.Ipv4Prefixes, func(p types.Ipv4PrefixSpecification) *string { return p.Ipv4Prefix }),
			each(n.Ipv6Prefixes, func(p types.Ipv6PrefixSpecification) *string { return p.Ipv6Prefix })...,
		),
	)
}

func groups(identifiers []types.GroupIdentifier) []string {
	return each(identifiers, func(g types.GroupIdentifier) string { return awssdk.ToString(g.GroupId) })
}

func tagsOf(tags []types.Tag) map[string]string {
	byKey := map[string]string{}
	for _, t := range tags {
		byKey[awssdk.ToString(t.Key)] = awssdk.ToString(t.Value)
	}
	return byKey
}

func subnetOf(s types.Subnet) (cloud.Subnet, error) {
	out := cloud.Subnet{
		ID: awssdk.ToString(s.SubnetId), Zone: awssdk.ToString(s.AvailabilityZone), VPC: awssdk.ToString(s.VpcId),
		Free: int(awssdk.ToInt32(s.AvailableIpAddressCount)), Layout: cloud.RouterFirst, Tags: tagsOf(s.Tags),
	}
	var found pieces.Found
	if cidr := awssdk.ToString(s.CidrBlock); cidr != "" { // an IPv6-only subnet has none
		found.Prefix(cidr)
	}
	for _, association := range s.Ipv6CidrBlockAssociationSet {
		if state := association.Ipv6CidrBlockState; state != nil && state.State == types.SubnetCidrBlockStateCodeAssociated {
			found.Prefix(awssdk.ToString(association.Ipv6CidrBlock))
		}
	}
	out.CIDRs = found.Assigned
	return out, found.Err
}
