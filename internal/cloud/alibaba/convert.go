package alibaba

import (
	"strconv"
	"strings"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/pieces"
)

// The answers are JSON with the fields of https://api.alibabacloud.com/document/Ecs/2014-05-26 and
// https://api.alibabacloud.com/document/Vpc/2016-04-28.

type instance struct {
	InstanceID    string `json:"InstanceId"`
	InstanceType  string
	ZoneID        string `json:"ZoneId"`
	VPCAttributes struct {
		VPCID     string `json:"VpcId"`
		VSwitchID string `json:"VSwitchId"`
	} `json:"VpcAttributes"`
	NetworkInterfaces struct {
		NetworkInterface []struct {
			NetworkInterfaceID string `json:"NetworkInterfaceId"`
		}
	}
}

// interfacesOf returns the IDs of the instances' interfaces.
func interfacesOf(instances []instance) (ids []string) {
	for _, i := range instances {
		for _, n := range i.NetworkInterfaces.NetworkInterface {
			ids = append(ids, n.NetworkInterfaceID)
		}
	}
	return ids
}

// eni is a network interface.
type eni struct {
	NetworkInterfaceID string `json:"NetworkInterfaceId"`
	MACAddress         string `json:"MacAddress"`
	VSwitchID          string `json:"VSwitchId"`
	InstanceID         string `json:"InstanceId"`
	Type               string // Primary, Secondary, or another one that no guest sees as a device of its own
	Status             string // Available, Attaching, InUse, Detaching, Deleting
	Attachment         struct{ NetworkCardIndex int }
	SecurityGroupIDs   struct {
		SecurityGroupID []string `json:"SecurityGroupId"`
	} `json:"SecurityGroupIds"`
	PrivateIPSets struct {
		PrivateIPSet []struct {
			PrivateIPAddress string `json:"PrivateIpAddress"`
			Primary          bool
		} `json:"PrivateIpSet"`
	} `json:"PrivateIpSets"`
	IPv6Sets struct {
		IPv6Set []struct {
			IPv6Address string `json:"Ipv6Address"`
		} `json:"Ipv6Set"`
	} `json:"Ipv6Sets"`
	IPv4PrefixSets struct {
		IPv4PrefixSet []struct {
			IPv4Prefix string `json:"Ipv4Prefix"`
		} `json:"Ipv4PrefixSet"`
	} `json:"Ipv4PrefixSets"`
	IPv6PrefixSets struct {
		IPv6PrefixSet []struct {
			IPv6Prefix string `json:"Ipv6Prefix"`
		} `json:"Ipv6PrefixSet"`
	} `json:"Ipv6PrefixSets"`
	Tags struct {
		Tag []struct{ TagKey, TagValue string }
	}
}

// isEnding reports whether the interface is on its way out of its instance.
func (i eni) isEnding() bool { return i.Status == "Detaching" || i.Status == "Deleting" }

// value returns the interface. Alibaba Cloud does not mark the node's own IPv6 address, and an interface may get one from its
// subnet at any time: each single IPv6 address may be the node's, and only prefixes are for pods.
func (i eni) value() (cloud.Interface, error) {
	out := cloud.Interface{
		ID: i.NetworkInterfaceID, MAC: strings.ToLower(i.MACAddress), Subnet: i.VSwitchID, SecurityGroups: i.SecurityGroupIDs.SecurityGroupID,
		Tags: map[string]string{},
	}
	for _, t := range i.Tags.Tag {
		out.Tags[t.TagKey] = t.TagValue
	}
	if i.InstanceID != "" {
		out.Attached, out.Device = i.InstanceID, i.device(out.Tags[DeviceTag])
	}
	var found pieces.Found
	for _, a := range i.PrivateIPSets.PrivateIPSet {
		found.Address(a.PrivateIPAddress, a.Primary)
	}
	for _, a := range i.IPv6Sets.IPv6Set {
		found.Address(a.IPv6Address, true)
	}
	for _, prefix := range i.IPv4PrefixSets.IPv4PrefixSet {
		found.Prefix(prefix.IPv4Prefix)
	}
	for _, prefix := range i.IPv6PrefixSets.IPv6PrefixSet {
		found.Prefix(prefix.IPv6Prefix)
	}
	return found.In(out)
}

// device returns the position of an attached interface. The tag is e.g. "1", or "i-bp1e2l6djkndyuli/1": Attach names the
// instance, so that a former tag says nothing about another one.
func (i eni) device(tag string) int {
	if i.isEnding() || i.Attachment.NetworkCardIndex != 0 {
		return cloud.UnknownDevice
	}
	switch i.Type {
	case "Primary":
		return 0
	case "Secondary":
		owner, position, named := strings.Cut(tag, "/")
		if !named {
			owner, position = i.InstanceID, tag
		}
		if n, err := strconv.Atoi(position); err == nil && n > 0 && owner == i.InstanceID {
			return n
		}
	}
	return cloud.UnknownDevice
}

// positionTag returns the tag for the position at an instance.
func positionTag(instance string, device int) map[string]string {
	return map[string]string{DeviceTag: instance + "/" + strconv.Itoa(device)}
}

type vSwitch struct {
	VSwitchID               string `json:"VSwitchId"`
	ZoneID                  string `json:"ZoneId"`
	VPCID                   string `json:"VpcId"`
	CIDRBlock               string `json:"CidrBlock"`
	IPv6CIDRBlock           string `json:"Ipv6CidrBlock"`
	AvailableIPAddressCount int    `json:"AvailableIpAddressCount"`
	Tags                    struct {
		Tag []struct{ Key, Value string }
	}
}

func (s vSwitch) value() (cloud.Subnet, error) {
	out := cloud.Subnet{ID: s.VSwitchID, Zone: s.ZoneID, VPC: s.VPCID, Layout: cloud.RouterLast, Free: s.AvailableIPAddressCount, Tags: map[string]string{}}
	for _, t := range s.Tags.Tag {
		out.Tags[t.Key] = t.Value
	}
	var found pieces.Found
	for _, cidr := range []string{s.CIDRBlock, s.IPv6CIDRBlock} {
		if cidr != "" {
			found.Prefix(cidr)
		}
	}
	out.CIDRs = found.Assigned
	return out, found.Err
}

// reservation is a range that only prefixes come from: there is no other type.
type reservation struct {
	VSwitchID string `json:"VSwitchId"`
	CIDR      string `json:"VSwitchCidrReservationCidr"`
}

func (r reservation) value() (cloud.Reservation, error) {
	var found pieces.Found
	found.Prefix(r.CIDR)
	if found.Err != nil {
		return cloud.Reservation{}, found.Err
	}
	return cloud.Reservation{CIDR: found.Assigned[0], Prefixes: true}, nil
}

type instanceType struct {
	InstanceTypeID              string `json:"InstanceTypeId"`
	ENIQuantity                 int    `json:"EniQuantity"`
	ENIPrivateIPAddressQuantity int    `json:"EniPrivateIpAddressQuantity"`
	ENIIPv6AddressQuantity      int    `json:"EniIpv6AddressQuantity"`
}

func (t instanceType) value() cloud.Limits {
	return cloud.Limits{Interfaces: t.ENIQuantity, IPv4: t.ENIPrivateIPAddressQuantity, IPv6: t.ENIIPv6AddressQuantity, Prefixes: true}
}
