package ec2test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// list is a list of the API: items in an element that exists without items, too.
type list[T any] struct {
	Items []T `xml:"item"`
}

func (l *list[T]) add(item T) { l.Items = append(l.Items, item) }

// listOf returns the list of converted values.
func listOf[S, T any](values []S, convert func(S) T) (l list[T]) {
	for _, v := range values {
		l.add(convert(v))
	}
	return l
}

// returned is the result of actions without one.
type returned struct {
	Return bool `xml:"return"`
}

var done = returned{true}

type (
	assignedXML struct {
		Address string `xml:"privateIpAddress"`
	}
	privateAddressXML struct {
		Address string `xml:"privateIpAddress"`
		DNS     string `xml:"privateDnsName"`
		Primary bool   `xml:"primary"`
	}
	address6XML struct {
		Address string `xml:"ipv6Address"`
		Primary bool   `xml:"isPrimaryIpv6"`
	}
	prefix4XML struct {
		Prefix string `xml:"ipv4Prefix"`
	}
	prefix6XML struct {
		Prefix string `xml:"ipv6Prefix"`
	}
	groupXML struct {
		ID   string `xml:"groupId"`
		Name string `xml:"groupName"`
	}
	attachmentXML struct {
		ID                  string `xml:"attachmentId"`
		Instance            string `xml:"instanceId,omitempty"`
		Owner               string `xml:"instanceOwnerId,omitempty"`
		Device              int    `xml:"deviceIndex"`
		Card                int    `xml:"networkCardIndex"`
		Status              string `xml:"status"`
		Time                string `xml:"attachTime"`
		DeleteOnTermination bool   `xml:"deleteOnTermination"`
	}
	// interfaceXML is a NetworkInterface, and an InstanceNetworkInterface: the names of their elements agree.
	interfaceXML struct {
		ID               string                  `xml:"networkInterfaceId"`
		Subnet           string                  `xml:"subnetId"`
		VPC              string                  `xml:"vpcId"`
		Zone             string                  `xml:"availabilityZone"`
		Description      string                  `xml:"description"`
		Owner            string                  `xml:"ownerId"`
		Requester        string                  `xml:"requesterId,omitempty"`
		RequesterManaged bool                    `xml:"requesterManaged"`
		Status           string                  `xml:"status"`
		Type             string                  `xml:"interfaceType"`
		MAC              string                  `xml:"macAddress"`
		Address          string                  `xml:"privateIpAddress,omitempty"`
		DNS              string                  `xml:"privateDnsName,omitempty"`
		Check            bool                    `xml:"sourceDestCheck"`
		Groups           list[groupXML]          `xml:"groupSet"`
		Attachment       *attachmentXML          `xml:"attachment"`
		Tags             list[tagXML]            `xml:"tagSet"`
		Addresses        list[privateAddressXML] `xml:"privateIpAddressesSet"`
		Addresses6       list[address6XML]       `xml:"ipv6AddressesSet"`
		Prefixes4        list[prefix4XML]        `xml:"ipv4PrefixSet"`
		Prefixes6        list[prefix6XML]        `xml:"ipv6PrefixSet"`
	}
)

// hostname returns the private DNS name of an address
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html).
func (x *session) hostname(a netip.Addr) string {
	return "ip-" + strings.ReplaceAll(a.String(), ".", "-") + "." + x.options.Region + ".compute.internal"
}

func tagsXML(tags map[string]string) list[tagXML] {
	return listOf(slices.Sorted(maps.Keys(tags)), func(key string) tagXML { return tagXML{key, tags[key]} })
}

func (x *session) groupsXML(ids []string) list[groupXML] {
	return listOf(ids, func(id string) groupXML {
		if g := x.groups[id]; g != nil {
			return groupXML{id, g.Name}
		}
		return groupXML{ID: id}
	})
}

func (x *session) interfaceXML(i *Interface) interfaceXML {
	subnet := x.subnets[i.Subnet]
	v := interfaceXML{
		ID: i.ID, Subnet: i.Subnet, VPC: subnet.VPC, Zone: subnet.Zone, Description: i.Description, Owner: x.options.Account,
		Requester: i.Requester, RequesterManaged: i.Requester != "", Status: x.status(i), Type: "interface", MAC: i.MAC, Check: !i.Unchecked,
		Groups: x.groupsXML(i.Groups), Tags: tagsXML(i.Tags),
		Prefixes4: listOf(i.prefixes(true), func(p netip.Prefix) prefix4XML { return prefix4XML{p.String()} }),
		Prefixes6: listOf(i.prefixes(false), func(p netip.Prefix) prefix6XML { return prefix6XML{p.String()} }),
	}
	for n, a := range i.IPv4 {
		if n == 0 {
			v.Address, v.DNS = a.String(), x.hostname(a)
		}
		v.Addresses.add(privateAddressXML{a.String(), x.hostname(a), n == 0})
	}
	for _, a := range i.IPv6 {
		v.Addresses6.add(address6XML{Address: a.String()})
	}
	if a := i.Attachment; a != nil {
		v.Attachment = &attachmentXML{a.ID, a.Instance, x.options.Account, a.Device, a.Card, a.status(x.now), stamp(a.since), a.DeleteOnTermination}
	}
	return v
}

// status returns the state of an interface: available or in-use.
func (x *session) status(i *Interface) string {
	if i.Attachment == nil {
		return "available"
	}
	return "in-use"
}

// status returns the state of an attachment at a time.
func (a *Attachment) status(now time.Time) string {
	switch {
	case !a.until.IsZero():
		return "detaching"
	case now.Before(a.since):
		return "attaching"
	}
	return "attached"
}

// Complete reports whether the instance has the interface at a time.
func (a *Attachment) Complete(now time.Time) bool { return a.status(now) == "attached" }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func number(n int) string { return strconv.Itoa(n) }

func texts(addresses []netip.Addr) []string {
	var all []string
	for _, a := range addresses {
		all = append(all, a.String())
	}
	return all
}

type describeInterfaces struct {
	IDs []string `query:"NetworkInterfaceId"`
	paging
}

type describeInterfacesResult struct {
	Interfaces list[interfaceXML] `xml:"networkInterfaceSet"`
	Next       string             `xml:"nextToken,omitempty"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeNetworkInterfaces.html
func (x *session) describeInterfaces(in *describeInterfaces) (any, *Error) {
	found, next, err := interfaces.listed(x, in.IDs, in.paging)
	return describeInterfacesResult{listOf(found, x.interfaceXML), next}, err
}

type (
	instanceXML struct {
		ID         string             `xml:"instanceId"`
		Image      string             `xml:"imageId"`
		State      stateXML           `xml:"instanceState"`
		Type       string             `xml:"instanceType"`
		Launched   string             `xml:"launchTime"`
		Zone       string             `xml:"placement>availabilityZone"`
		Subnet     string             `xml:"subnetId"`
		VPC        string             `xml:"vpcId"`
		Address    string             `xml:"privateIpAddress"`
		DNS        string             `xml:"privateDnsName"`
		Profile    string             `xml:"iamInstanceProfile>arn,omitempty"`
		Groups     list[groupXML]     `xml:"groupSet"`
		Tags       list[tagXML]       `xml:"tagSet"`
		Interfaces list[interfaceXML] `xml:"networkInterfaceSet"`
	}
	reservationXML struct {
		ID        string            `xml:"reservationId"`
		Owner     string            `xml:"ownerId"`
		Instances list[instanceXML] `xml:"instancesSet"`
	}
)

// stateCodes are the codes of instance states
// (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceState.html).
var stateCodes = map[string]int{"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}

type stateXML struct {
	Code int    `xml:"code"`
	Name string `xml:"name"`
}

func stateOf(name string) stateXML { return stateXML{stateCodes[name], name} }

func (x *session) reservationXML(i *Instance) reservationXML {
	v := instanceXML{
		ID: i.ID, Image: "ami-00000000000000000", Type: i.Type, Launched: stamp(i.launched), Zone: x.subnets[i.Subnet].Zone, Subnet: i.Subnet,
		VPC: x.subnets[i.Subnet].VPC, Address: i.Address.String(), DNS: x.hostname(i.Address), Groups: x.groupsXML(i.Groups), Tags: tagsXML(i.Tags),
		Interfaces: listOf(x.of(i.ID), x.interfaceXML),
	}
	v.State = stateOf(i.State)
	if i.Role != "" {
		v.Profile = fmt.Sprintf("arn:aws:iam::%s:instance-profile/%s", x.options.Account, i.Role)
	}
	return reservationXML{"r-" + strings.TrimPrefix(i.ID, "i-"), x.options.Account, list[instanceXML]{[]instanceXML{v}}}
}

type describeInstances struct {
	IDs []string `query:"InstanceId"`
	paging
}

type describeInstancesResult struct {
	Reservations list[reservationXML] `xml:"reservationSet"`
	Next         string               `xml:"nextToken,omitempty"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html
func (x *session) describeInstances(in *describeInstances) (any, *Error) {
	found, next, err := instances.listed(x, in.IDs, in.paging)
	return describeInstancesResult{listOf(found, x.reservationXML), next}, err
}
