package ec2test

import (
	"fmt"
	"net/netip"
	"slices"
)

type (
	associationXML struct {
		ID    string `xml:"associationId"`
		IPv6  string `xml:"ipv6CidrBlock,omitempty"`
		State string `xml:"ipv6CidrBlockState>state"`
	}
	association4XML struct {
		ID    string `xml:"associationId"`
		IPv4  string `xml:"cidrBlock"`
		State string `xml:"cidrBlockState>state"`
	}
	subnetXML struct {
		ID      string               `xml:"subnetId"`
		ARN     string               `xml:"subnetArn"`
		VPC     string               `xml:"vpcId"`
		Owner   string               `xml:"ownerId"`
		State   string               `xml:"state"`
		Zone    string               `xml:"availabilityZone"`
		IPv4    string               `xml:"cidrBlock"`
		Free    int                  `xml:"availableIpAddressCount"`
		Default bool                 `xml:"defaultForAz"`
		IPv6    list[associationXML] `xml:"ipv6CidrBlockAssociationSet"`
		Tags    list[tagXML]         `xml:"tagSet"`
	}
	vpcXML struct {
		ID      string                `xml:"vpcId"`
		Owner   string                `xml:"ownerId"`
		State   string                `xml:"state"`
		IPv4    string                `xml:"cidrBlock"`
		Default bool                  `xml:"isDefault"`
		All     list[association4XML] `xml:"cidrBlockAssociationSet"`
		IPv6    list[associationXML]  `xml:"ipv6CidrBlockAssociationSet"`
		Tags    list[tagXML]          `xml:"tagSet"`
	}
	securityGroupXML struct {
		ID          string       `xml:"groupId"`
		Name        string       `xml:"groupName"`
		Description string       `xml:"groupDescription"`
		VPC         string       `xml:"vpcId"`
		Owner       string       `xml:"ownerId"`
		Tags        list[tagXML] `xml:"tagSet"`
	}
)

// associationsXML returns the IPv6 range of a VPC or subnet.
func associationsXML(id string, p netip.Prefix) (l list[associationXML]) {
	if p.IsValid() {
		l.add(associationXML{id + "-cidr-assoc", p.String(), "associated"})
	}
	return l
}

func (x *session) subnetXML(n *Subnet) subnetXML {
	return subnetXML{
		ID: n.ID, ARN: fmt.Sprintf("arn:aws:ec2:%s:%s:subnet/%s", x.options.Region, x.options.Account, n.ID), VPC: n.VPC, Owner: x.options.Account,
		State: "available", Zone: n.Zone, IPv4: n.IPv4.String(), Free: count(x.room(n, true)), IPv6: associationsXML(n.ID, n.IPv6), Tags: tagsXML(n.Tags),
	}
}

func (x *session) vpcXML(v *VPC) vpcXML {
	return vpcXML{
		ID: v.ID, Owner: x.options.Account, State: "available", IPv4: v.IPv4.String(), IPv6: associationsXML(v.ID, v.IPv6), Tags: tagsXML(v.Tags),
		All: list[association4XML]{[]association4XML{{v.ID + "-cidr-assoc", v.IPv4.String(), "associated"}}},
	}
}

func (x *session) securityGroupXML(g *SecurityGroup) securityGroupXML {
	return securityGroupXML{g.ID, g.Name, g.Name, g.VPC, x.options.Account, tagsXML(g.Tags)}
}

type describeVPCs struct {
	IDs []string `query:"VpcId"`
	paging
}

type describeVPCsResult struct {
	VPCs list[vpcXML] `xml:"vpcSet"`
	Next string       `xml:"nextToken,omitempty"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeVpcs.html
func (x *session) describeVPCs(in *describeVPCs) (any, *Error) {
	found, next, err := vpcs.listed(x, in.IDs, in.paging)
	return describeVPCsResult{listOf(found, x.vpcXML), next}, err
}

type describeSubnets struct {
	IDs []string `query:"SubnetId"`
	paging
}

type describeSubnetsResult struct {
	Subnets list[subnetXML] `xml:"subnetSet"`
	Next    string          `xml:"nextToken,omitempty"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSubnets.html
func (x *session) describeSubnets(in *describeSubnets) (any, *Error) {
	found, next, err := subnets.listed(x, in.IDs, in.paging)
	return describeSubnetsResult{listOf(found, x.subnetXML), next}, err
}

type describeGroups struct {
	IDs   []string `query:"GroupId"`
	Names []string `query:"GroupName"`
	paging
}

type describeGroupsResult struct {
	Groups list[securityGroupXML] `xml:"securityGroupInfo"`
	Next   string                 `xml:"nextToken,omitempty"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSecurityGroups.html
func (x *session) describeGroups(in *describeGroups) (any, *Error) {
	if len(in.Names) > 0 {
		in.Filters = append(in.Filters, filter{"group-name", in.Names})
	}
	found, next, err := groups.listed(x, in.IDs, in.paging)
	return describeGroupsResult{listOf(found, x.securityGroupXML), next}, err
}

type (
	typeXML struct {
		Name       string     `xml:"instanceType"`
		Current    bool       `xml:"currentGeneration"`
		Hypervisor string     `xml:"hypervisor"`
		VCPUs      int        `xml:"vCpuInfo>defaultVCpus"`
		Memory     int        `xml:"memoryInfo>sizeInMiB"`
		Network    networkXML `xml:"networkInfo"`
	}
	networkXML struct {
		Interfaces  int           `xml:"maximumNetworkInterfaces"`
		Cards       int           `xml:"maximumNetworkCards"`
		DefaultCard int           `xml:"defaultNetworkCardIndex"`
		List        list[cardXML] `xml:"networkCards"`
		IPv4        int           `xml:"ipv4AddressesPerInterface"`
		IPv6        int           `xml:"ipv6AddressesPerInterface"`
		HasIPv6     bool          `xml:"ipv6Supported"`
		ENA         string        `xml:"enaSupport"`
	}
	cardXML struct {
		Index      int `xml:"networkCardIndex"`
		Interfaces int `xml:"maximumNetworkInterfaces"`
	}
)

// hypervisor returns the hypervisor of a type.
func (t *Type) hypervisor() string {
	if t.Xen {
		return "xen"
	}
	return "nitro"
}

func (t *Type) xml() typeXML {
	return typeXML{
		t.Name, !t.Xen, t.hypervisor(), t.VCPUs, t.MemoryMiB,
		networkXML{t.Interfaces, 1, 0, list[cardXML]{[]cardXML{{0, t.Interfaces}}}, t.IPv4, t.IPv6, true, "supported"},
	}
}

type describeTypes struct {
	Names []string `query:"InstanceType"`
	paging
}

type describeTypesResult struct {
	Types list[typeXML] `xml:"instanceTypeSet"`
	Next  string        `xml:"nextToken,omitempty"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html
func (x *session) describeTypes(in *describeTypes) (any, *Error) {
	found, next, err := types.listed(x, in.Names, in.paging)
	return describeTypesResult{listOf(found, (*Type).xml), next}, err
}

type cidrReservationXML struct {
	ID     string `xml:"subnetCidrReservationId"`
	Subnet string `xml:"subnetId"`
	CIDR   string `xml:"cidr"`
	Type   string `xml:"reservationType"`
	Owner  string `xml:"ownerId"`
}

type getReservations struct {
	Subnet string `query:"SubnetId,required"`
	paging
}

type getReservationsResult struct {
	IPv4 list[cidrReservationXML] `xml:"subnetIpv4CidrReservationSet"`
	IPv6 list[cidrReservationXML] `xml:"subnetIpv6CidrReservationSet"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetSubnetCidrReservations.html
func (x *session) getReservations(in *getReservations) (any, *Error) {
	n, err := find(x.subnets, in.Subnet)
	if err != nil {
		return nil, err
	}
	if len(in.Filters) > 0 {
		return nil, refuse("InvalidParameterValue", "The filter '%s' is invalid", in.Filters[0].Name)
	}
	var result getReservationsResult
	for _, r := range n.Reservations {
		v := x.cidrReservationXML(n.ID, r)
		if r.CIDR.Addr().Is4() {
			result.IPv4.add(v)
		} else {
			result.IPv6.add(v)
		}
	}
	return result, nil
}

func (x *session) cidrReservationXML(subnet string, r Reservation) cidrReservationXML {
	return cidrReservationXML{r.ID, subnet, r.CIDR.String(), r.Type, x.options.Account}
}

type createReservation struct {
	Subnet string `query:"SubnetId,required"`
	CIDR   string `query:"Cidr,required"`
	Type   string `query:"ReservationType,required"`
}

type createReservationResult struct {
	Reservation cidrReservationXML `xml:"subnetCidrReservation"`
}

// createReservation refuses what AWS refuses. AWS documents no codes of its own for these errors.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSubnetCidrReservation.html
func (x *session) createReservation(in *createReservation) (any, *Error) {
	n, err := find(x.subnets, in.Subnet)
	if err != nil {
		return nil, err
	}
	cidr, parseErr := netip.ParsePrefix(in.CIDR)
	if parseErr != nil || cidr != cidr.Masked() {
		return nil, refuse("InvalidParameterValue", "Value (%s) for parameter cidr is invalid. This is not a valid CIDR block.", in.CIDR)
	}
	if in.Type != ReservedForPrefixes && in.Type != ReservedExplicitly {
		return nil, refuse("InvalidParameterValue", "Value (%s) for parameter reservationType is invalid.", in.Type)
	}
	if whole := n.cidr(cidr.Addr().Is4()); !whole.IsValid() || !whole.Contains(cidr.Addr()) || cidr.Bits() < whole.Bits() {
		return nil, refuse("InvalidParameterValue", "The CIDR '%s' is not within the subnet '%s'", cidr, n.ID)
	}
	for _, r := range n.Reservations {
		if r.CIDR.Overlaps(cidr) {
			return nil, refuse("InvalidParameterValue", "The CIDR '%s' overlaps the reservation '%s' of %s", cidr, r.ID, r.CIDR)
		}
	}
	edited, created := *n, Reservation{x.newID("scr"), cidr, in.Type}
	edited.Reservations = append(slices.Clip(edited.Reservations), created)
	x.subnets[n.ID] = &edited
	return createReservationResult{x.cidrReservationXML(n.ID, created)}, nil
}

// tagOf is a tag of a resource.
type tagOf struct {
	Resource string `xml:"resourceId"`
	Type     string `xml:"resourceType"`
	Key      string `xml:"key"`
	Value    string `xml:"value"`
}

var tags = resource[tagOf]{
	all: func(s *state) map[string]*tagOf {
		all := map[string]*tagOf{}
		for id, tags := range s.tags() {
			for key, value := range tags {
				all[id+" "+key] = &tagOf{id, kindOf(id), key, value}
			}
		}
		return all
	},
	tags: func(*tagOf) map[string]string { return nil }, missing: missing, least: 5, most: 1000,
	filters: map[string]func(*session, *tagOf) []string{
		"resource-id":   one(func(t *tagOf) string { return t.Resource }),
		"resource-type": one(func(t *tagOf) string { return t.Type }),
		"key":           one(func(t *tagOf) string { return t.Key }),
		"value":         one(func(t *tagOf) string { return t.Value }),
	},
}

type describeTags struct{ paging }

type describeTagsResult struct {
	Tags list[tagOf] `xml:"tagSet"`
	Next string      `xml:"nextToken,omitempty"`
}

// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeTags.html
func (x *session) describeTags(in *describeTags) (any, *Error) {
	found, next, err := tags.listed(x, nil, in.paging)
	return describeTagsResult{listOf(found, func(t *tagOf) tagOf { return *t }), next}, err
}
