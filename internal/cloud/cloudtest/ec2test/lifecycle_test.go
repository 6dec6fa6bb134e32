package ec2test_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

func tagged(tags ...string) []types.TagSpecification {
	s := types.TagSpecification{ResourceType: types.ResourceTypeNetworkInterface}
	for i := 0; i < len(tags); i += 2 {
		s.Tags = append(s.Tags, types.Tag{Key: &tags[i], Value: &tags[i+1]})
	}
	return []types.TagSpecification{s}
}

// one describes an interface.
func (w *world) one(t *testing.T, id string) types.NetworkInterface {
	t.Helper()
	return must2(w.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{id}}))(t).NetworkInterfaces[0]
}

func TestInterfaceFromCreationToDeletion(t *testing.T) {
	w := newWorld(t, "m5.large")
	w.SetAttachDelays(2*time.Second, 3*time.Second)
	made := must2(w.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{
		SubnetId: &w.subnet, Groups: []string{w.group}, Description: aws.String("pods"), ClientToken: aws.String("once"),
		Ipv4PrefixCount: aws.Int32(2), Ipv6PrefixCount: aws.Int32(1), TagSpecifications: tagged("cluster", "c1"),
	}))(t).NetworkInterface
	id := *made.NetworkInterfaceId
	if len(made.Ipv4Prefixes) != 2 || len(made.Ipv6Prefixes) != 1 || made.Status != types.NetworkInterfaceStatusAvailable || *made.TagSet[0].Value != "c1" {
		t.Errorf("created %+v", made)
	}

	attachment := must2(w.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{NetworkInterfaceId: &id, InstanceId: &w.node, DeviceIndex: aws.Int32(1)}))(t)
	if got := w.one(t, id).Attachment; got.Status != types.AttachmentStatusAttaching || *got.InstanceId != w.node || *got.DeviceIndex != 1 {
		t.Errorf("after attach: %+v", got)
	}
	w.clock.move(2 * time.Second)
	if got := w.one(t, id); got.Attachment.Status != types.AttachmentStatusAttached || got.Status != types.NetworkInterfaceStatusInUse {
		t.Errorf("later: %+v", got.Attachment)
	}
	must2(w.ModifyNetworkInterfaceAttribute(t.Context(), &ec2.ModifyNetworkInterfaceAttributeInput{
		NetworkInterfaceId: &id, Attachment: &types.NetworkInterfaceAttachmentChanges{AttachmentId: attachment.AttachmentId, DeleteOnTermination: aws.Bool(true)},
	}))(t)
	must2(w.ModifyNetworkInterfaceAttribute(t.Context(), &ec2.ModifyNetworkInterfaceAttributeInput{
		NetworkInterfaceId: &id, SourceDestCheck: &types.AttributeBooleanValue{Value: aws.Bool(false)},
	}))(t)
	if got := w.one(t, id); !*got.Attachment.DeleteOnTermination || *got.SourceDestCheck {
		t.Errorf("after modification: %+v", got)
	}

	must2(w.DetachNetworkInterface(t.Context(), &ec2.DetachNetworkInterfaceInput{AttachmentId: attachment.AttachmentId}))(t)
	if got := w.one(t, id).Attachment.Status; got != types.AttachmentStatusDetaching {
		t.Errorf("after detach: %s", got)
	}
	deletion := &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &id}
	if _, err := w.DeleteNetworkInterface(t.Context(), deletion); codeOf(err) != "InvalidParameterValue" {
		t.Errorf("deletion while detaching: %v", err)
	}
	w.clock.move(3 * time.Second)
	must2(w.DeleteNetworkInterface(t.Context(), deletion))(t)
	if _, err := w.DeleteNetworkInterface(t.Context(), deletion); codeOf(err) != "InvalidNetworkInterfaceID.NotFound" {
		t.Errorf("second deletion: %v", err)
	}
}

func TestClientTokenRepeatsCreation(t *testing.T) {
	w := newWorld(t, "m5.large")
	in := &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet, ClientToken: aws.String("once")}
	first, second := must2(w.CreateNetworkInterface(t.Context(), in))(t), must2(w.CreateNetworkInterface(t.Context(), in))(t)
	if *first.NetworkInterface.NetworkInterfaceId != *second.NetworkInterface.NetworkInterfaceId || len(w.Interfaces("")) != 2 {
		t.Errorf("two creations with one token made %d interfaces", len(w.Interfaces(""))-1)
	}
	in.Description = aws.String("another")
	if _, err := w.CreateNetworkInterface(t.Context(), in); codeOf(err) != "IdempotentParameterMismatch" {
		t.Errorf("another request with the token: %v", err)
	}
}

func TestAddressMovesOnlyWhenAllowed(t *testing.T) {
	w := newWorld(t, "m5.large")
	other := w.Interfaces(w.AddInstance(ec2test.Instance{Type: "m5.large", Subnet: w.subnet}))[0].ID
	give := func(eni string, move bool, address string) error {
		_, err := w.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{
			NetworkInterfaceId: &eni, PrivateIpAddresses: []string{address}, AllowReassignment: &move,
		})
		return err
	}
	for _, step := range []struct {
		eni     string
		move    bool
		address string
		want    string
	}{
		{w.eni, false, "172.31.16.77", ""},
		{other, false, "172.31.16.77", "InvalidParameterValue"},
		{w.eni, false, "172.31.16.77", "InvalidParameterValue"},
		{w.eni, true, "172.31.16.77", ""},
		{other, true, "172.31.16.77", ""},
		{other, true, "172.31.16.10", "InvalidParameterValue"}, // a primary address
	} {
		if got := codeOf(give(step.eni, step.move, step.address)); got != step.want {
			t.Errorf("%s to %s, move %v: %q, want %q", step.address, step.eni, step.move, got, step.want)
		}
	}
	if got := w.described(t, w.eni); !slices.Equal(got, []string{"172.31.16.10"}) {
		t.Errorf("the former interface has %v", got)
	}
	if got := w.described(t, other); !slices.Contains(got, "172.31.16.77") {
		t.Errorf("the new interface has %v", got)
	}
}

func TestPagesCoverEveryInterface(t *testing.T) {
	w := newWorld(t, "m5.large")
	for range 11 {
		w.AddInterface(ec2test.Interface{Subnet: w.subnet})
	}
	pages := ec2.NewDescribeNetworkInterfacesPaginator(w.Client, &ec2.DescribeNetworkInterfacesInput{MaxResults: aws.Int32(5)})
	seen, n := map[string]bool{}, 0
	for ; pages.HasMorePages(); n++ {
		for _, i := range must2(pages.NextPage(t.Context()))(t).NetworkInterfaces {
			seen[*i.NetworkInterfaceId] = true
		}
	}
	if len(seen) != 12 || n != 3 {
		t.Errorf("%d interfaces on %d pages, want 12 on 3", len(seen), n)
	}
	if calls := w.Calls()["DescribeNetworkInterfaces"]; calls != 3 {
		t.Errorf("%d calls", calls)
	}
}

func TestFiltersSelect(t *testing.T) {
	w := newWorld(t, "m5.large")
	free := w.AddInterface(ec2test.Interface{Subnet: w.subnet, Tags: map[string]string{"cluster": "c1", "owner": "me"}, Description: "spare/1"})
	far := w.AddInterface(ec2test.Interface{Subnet: w.far, Tags: map[string]string{"cluster": "c2"}})
	for name, test := range map[string]struct {
		filters []types.Filter
		want    []string
	}{
		"instance":       {[]types.Filter{by("attachment.instance-id", w.node)}, []string{w.eni}},
		"status":         {[]types.Filter{by("status", "available")}, []string{free, far}},
		"zone":           {[]types.Filter{by("availability-zone", "eu-central-1b")}, []string{far}},
		"tag":            {[]types.Filter{by("tag:cluster", "c1")}, []string{free}},
		"tag, any value": {[]types.Filter{by("tag:cluster", "c1", "c2")}, []string{free, far}},
		"tag key":        {[]types.Filter{by("tag-key", "owner")}, []string{free}},
		"wildcard":       {[]types.Filter{by("description", "spare*")}, []string{free}},
		"both":           {[]types.Filter{by("tag:cluster", "c*"), by("subnet-id", w.far)}, []string{far}},
		"address":        {[]types.Filter{by("addresses.private-ip-address", "172.31.16.10")}, []string{w.eni}},
		"none":           {[]types.Filter{by("vpc-id", "vpc-none")}, nil},
	} {
		var got []string
		for _, i := range must2(w.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{Filters: test.filters}))(t).NetworkInterfaces {
			got = append(got, *i.NetworkInterfaceId)
		}
		slices.Sort(test.want)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func by(name string, values ...string) types.Filter { return types.Filter{Name: &name, Values: values} }

func TestInstancesShowTheirInterfaces(t *testing.T) {
	w := newWorld(t, "m5.large")
	w.assign(t, 1)
	i := must2(w.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{w.node}}))(t).Reservations[0].Instances[0]
	eni := i.NetworkInterfaces[0]
	if i.State.Name != types.InstanceStateNameRunning || i.InstanceType != "m5.large" || *i.Placement.AvailabilityZone != "eu-central-1a" ||
		*i.PrivateIpAddress != "172.31.16.10" || *i.VpcId != w.vpc || *i.SecurityGroups[0].GroupName != "nodes" {
		t.Errorf("instance %+v", i)
	}
	if *eni.NetworkInterfaceId != w.eni || len(eni.Ipv4Prefixes) != 1 || *eni.Attachment.DeviceIndex != 0 || *eni.PrivateDnsName != "ip-172-31-16-10.eu-central-1.compute.internal" {
		t.Errorf("interface %+v", eni)
	}
	w.SetState(w.node, "stopped")
	stopped := must2(w.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: []types.Filter{by("instance-state-name", "stopped")}}))(t)
	if len(stopped.Reservations) != 1 {
		t.Errorf("%d stopped instances", len(stopped.Reservations))
	}
}

func TestTypesShowTheirLimits(t *testing.T) {
	w := newWorld(t, "m5.large")
	got := map[string][3]int32{}
	for _, it := range must2(w.DescribeInstanceTypes(t.Context(), &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{"t3.medium", "m5.large", "c5.xlarge", "m5.4xlarge"}}))(t).InstanceTypes {
		n := it.NetworkInfo
		got[string(it.InstanceType)] = [3]int32{*n.MaximumNetworkInterfaces, *n.Ipv4AddressesPerInterface, *n.Ipv6AddressesPerInterface}
	}
	want := map[string][3]int32{"t3.medium": {3, 6, 6}, "m5.large": {3, 10, 10}, "c5.xlarge": {4, 15, 15}, "m5.4xlarge": {8, 30, 30}}
	if !maps.Equal(got, want) {
		t.Errorf("limits %v, want %v", got, want)
	}
}

func TestSubnetsShowFreeAddresses(t *testing.T) {
	w := newWorld(t, "m5.large")
	free := func() int32 {
		out := must2(w.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{Filters: []types.Filter{by("tag:use", "pods")}}))(t)
		return *out.Subnets[0].AvailableIpAddressCount
	}
	if got := free(); got != 256-5-1 {
		t.Errorf("%d free addresses beside a node", got)
	}
	w.assign(t, 2)
	if got := free(); got != 256-5-1-32 {
		t.Errorf("%d free addresses beside two prefixes", got)
	}
	subnet := must2(w.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{SubnetIds: []string{w.subnet}}))(t).Subnets[0]
	if *subnet.Ipv6CidrBlockAssociationSet[0].Ipv6CidrBlock != "2001:db8:1:ff01::/64" || subnet.Ipv6CidrBlockAssociationSet[0].Ipv6CidrBlockState.State != types.SubnetCidrBlockStateCodeAssociated {
		t.Errorf("subnet %+v", subnet)
	}
	vpc := must2(w.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{VpcIds: []string{w.vpc}}))(t).Vpcs[0]
	if *vpc.CidrBlock != "172.31.0.0/16" || *vpc.CidrBlockAssociationSet[0].CidrBlock != "172.31.0.0/16" {
		t.Errorf("VPC %+v", vpc)
	}
	if groups := must2(w.DescribeSecurityGroups(t.Context(), &ec2.DescribeSecurityGroupsInput{GroupNames: []string{"nodes"}}))(t).SecurityGroups; len(groups) != 1 || *groups[0].GroupId != w.group {
		t.Errorf("groups %+v", groups)
	}
}

func TestReservationsAreRespected(t *testing.T) {
	w := newWorld(t, "m5.4xlarge")
	w.Reserve(w.subnet, prefix("172.31.16.128/27"), ec2test.ReservedForPrefixes)
	w.Reserve(w.subnet, prefix("172.31.16.16/28"), ec2test.ReservedExplicitly)
	shown := must2(w.GetSubnetCidrReservations(t.Context(), &ec2.GetSubnetCidrReservationsInput{SubnetId: &w.subnet}))(t).SubnetIpv4CidrReservations
	if len(shown) != 2 || *shown[0].Cidr != "172.31.16.128/27" || shown[0].ReservationType != types.SubnetCidrReservationTypePrefix {
		t.Errorf("reservations %+v", shown)
	}
	if got := w.assign(t, 2); !slices.Equal(got, []string{"172.31.16.128/28", "172.31.16.144/28"}) {
		t.Errorf("first prefixes %v, want those of the reservation", got)
	}
	for _, p := range w.assign(t, 11) {
		if prefix(p).Overlaps(prefix("172.31.16.16/28")) {
			t.Errorf("%s is from the explicit reservation", p)
		}
	}
	_, err := w.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &w.eni, Ipv4Prefixes: []string{"172.31.16.16/28"}})
	if err != nil {
		t.Errorf("an explicit request: %v", err)
	}
}

func TestClientReservesARange(t *testing.T) {
	w := newWorld(t, "m5.large")
	reserve := func(cidr string, kind types.SubnetCidrReservationType) error {
		_, err := w.CreateSubnetCidrReservation(t.Context(), &ec2.CreateSubnetCidrReservationInput{SubnetId: &w.subnet, Cidr: &cidr, ReservationType: kind})
		return err
	}
	if err := reserve("172.31.16.16/28", types.SubnetCidrReservationTypeExplicit); err != nil {
		t.Fatal(err)
	}
	shown := must2(w.GetSubnetCidrReservations(t.Context(), &ec2.GetSubnetCidrReservationsInput{SubnetId: &w.subnet}))(t).SubnetIpv4CidrReservations
	if len(shown) != 1 || *shown[0].Cidr != "172.31.16.16/28" || shown[0].ReservationType != types.SubnetCidrReservationTypeExplicit {
		t.Errorf("reservations %+v", shown)
	}
	for cidr, kind := range map[string]types.SubnetCidrReservationType{
		"172.31.16.24/29": types.SubnetCidrReservationTypePrefix,   // overlaps
		"172.31.0.0/28":   types.SubnetCidrReservationTypeExplicit, // another subnet
		"172.31.16.33/28": types.SubnetCidrReservationTypeExplicit, // has host bits
		"172.31.17.0/28":  "any",
	} {
		if err := reserve(cidr, kind); codeOf(err) != "InvalidParameterValue" {
			t.Errorf("%s %s: %v", kind, cidr, err)
		}
	}
}

func TestTagsComeAndGo(t *testing.T) {
	w := newWorld(t, "m5.large")
	tags := func() map[string]string {
		i, _ := w.Interface(w.eni)
		return i.Tags
	}
	must2(w.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: []string{w.eni}, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("1")}, {Key: aws.String("b"), Value: aws.String("2")}}}))(t)
	must2(w.DeleteTags(t.Context(), &ec2.DeleteTagsInput{Resources: []string{w.eni}, Tags: []types.Tag{{Key: aws.String("a")}, {Key: aws.String("b"), Value: aws.String("other")}}}))(t)
	if got := tags(); !maps.Equal(got, map[string]string{"b": "2"}) {
		t.Errorf("tags %v", got)
	}
	described := must2(w.DescribeTags(t.Context(), &ec2.DescribeTagsInput{Filters: []types.Filter{by("resource-id", w.eni)}}))(t).Tags
	if len(described) != 1 || *described[0].Key != "b" || described[0].ResourceType != types.ResourceTypeNetworkInterface {
		t.Errorf("described tags %+v", described)
	}
}

func TestTerminatedInstanceLosesItsInterfaces(t *testing.T) {
	w := newWorld(t, "m5.large")
	other := w.AddInterface(ec2test.Interface{Subnet: w.subnet})
	must2(w.AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{NetworkInterfaceId: &other, InstanceId: &w.node, DeviceIndex: aws.Int32(1)}))(t)
	out := must2(w.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{w.node}}))(t)
	if c := out.TerminatingInstances[0]; *c.InstanceId != w.node || c.CurrentState.Name != types.InstanceStateNameTerminated || c.PreviousState.Name != types.InstanceStateNameRunning {
		t.Errorf("the answer has %+v", c)
	}
	if routes := w.Routes(); len(routes) > 0 {
		t.Errorf("the VPC delivers %v", routes)
	}
	if _, ok := w.Interface(w.eni); ok {
		t.Error("the primary interface is left")
	}
	if i, ok := w.Interface(other); !ok || i.Attachment != nil {
		t.Errorf("the other interface: %+v", i)
	}
	described := must2(w.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{w.node}}))(t).Reservations[0].Instances[0]
	if described.State.Name != types.InstanceStateNameTerminated || len(described.NetworkInterfaces) > 0 {
		t.Errorf("described as %+v", described)
	}
}

func TestInstanceHasItsMAC(t *testing.T) {
	w := newWorld(t, "m5.large")
	const mac = "06:4e:ac:1f:16:e4"
	id := w.AddInstance(ec2test.Instance{Type: "m5.large", Subnet: w.subnet, MAC: mac})
	if got := w.Interfaces(id)[0].MAC; got != mac {
		t.Errorf("the primary interface has %s, want %s", got, mac)
	}
}
