package ec2test_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

const (
	region  = "eu-central-1"
	testKey = "AKIATEST"
)

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a cloud with a VPC, two subnets in two zones, and a node in the first.
type world struct {
	*ec2test.Cloud
	*ec2.Client
	clock       *clock
	server      *ec2test.Server
	vpc, group  string
	subnet, far string
	node, eni   string
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func newWorld(t *testing.T, instanceType string) *world {
	t.Helper()
	w := &world{clock: &clock{now: time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)}}
	w.Cloud = ec2test.New(ec2test.Options{Region: region, Now: w.clock.Now})
	w.vpc = w.AddVPC(ec2test.VPC{IPv4: prefix("172.31.0.0/16"), IPv6: prefix("2001:db8:1:ff00::/56")})
	w.group = w.AddSecurityGroup(ec2test.SecurityGroup{VPC: w.vpc, Name: "nodes"})
	w.subnet = w.AddSubnet(ec2test.Subnet{
		VPC: w.vpc, Zone: "eu-central-1a", IPv4: prefix("172.31.16.0/24"), IPv6: prefix("2001:db8:1:ff01::/64"), Tags: map[string]string{"use": "pods"},
	})
	w.far = w.AddSubnet(ec2test.Subnet{VPC: w.vpc, Zone: "eu-central-1b", IPv4: prefix("172.31.32.0/24")})
	w.node = w.AddInstance(ec2test.Instance{Type: instanceType, Subnet: w.subnet, Groups: []string{w.group}, Role: "node", Address: netip.MustParseAddr("172.31.16.10")})
	w.eni = w.Interfaces(w.node)[0].ID
	w.server = w.Start(t)
	w.Client = w.client(testKey, region)
	return w
}

// client returns an SDK client with an access key.
func (w *world) client(key, region string) *ec2.Client {
	return ec2.New(ec2.Options{
		Region: region, BaseEndpoint: &w.server.URL, RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: key, SecretAccessKey: "secret"}, nil
		}),
	})
}

// codeOf returns the error code of a call, empty for success or an error without a code.
func codeOf(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return ""
}

// must fails the test on an error.
func must[T any](t *testing.T, result T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// assign gives the node's interface IPv4 prefixes.
func (w *world) assign(t *testing.T, prefixes int32) []string {
	t.Helper()
	out, err := w.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &w.eni, Ipv4PrefixCount: &prefixes})
	var got []string
	for _, p := range must(t, out, err).AssignedIpv4Prefixes {
		got = append(got, *p.Ipv4Prefix)
	}
	return got
}

// described returns the addresses and prefixes of an interface, as DescribeNetworkInterfaces shows them.
func (w *world) described(t *testing.T, id string) (ranges []string) {
	t.Helper()
	out, err := w.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{id}})
	i := must(t, out, err).NetworkInterfaces[0]
	for _, a := range i.PrivateIpAddresses {
		ranges = append(ranges, *a.PrivateIpAddress)
	}
	for _, p := range i.Ipv4Prefixes {
		ranges = append(ranges, *p.Ipv4Prefix)
	}
	for _, a := range i.Ipv6Addresses {
		ranges = append(ranges, *a.Ipv6Address)
	}
	for _, p := range i.Ipv6Prefixes {
		ranges = append(ranges, *p.Ipv6Prefix)
	}
	return ranges
}

func TestAssignedRangesAreDescribed(t *testing.T) {
	w := newWorld(t, "m5.large")
	four := must2(w.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &w.eni, Ipv4PrefixCount: aws.Int32(2)}))(t)
	must2(w.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &w.eni, Ipv4Prefixes: []string{"172.31.16.64/28"}}))(t)
	single := must2(w.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &w.eni, SecondaryPrivateIpAddressCount: aws.Int32(1)}))(t)
	must2(w.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &w.eni, PrivateIpAddresses: []string{"172.31.16.99"}}))(t)
	six := must2(w.AssignIpv6Addresses(t.Context(), &ec2.AssignIpv6AddressesInput{NetworkInterfaceId: &w.eni, Ipv6PrefixCount: aws.Int32(1)}))(t)
	must2(w.AssignIpv6Addresses(t.Context(), &ec2.AssignIpv6AddressesInput{NetworkInterfaceId: &w.eni, Ipv6Addresses: []string{"2001:db8:1:ff01::99"}}))(t)

	want := []string{
		"172.31.16.10", *single.AssignedPrivateIpAddresses[0].PrivateIpAddress, "172.31.16.99",
		*four.AssignedIpv4Prefixes[0].Ipv4Prefix, *four.AssignedIpv4Prefixes[1].Ipv4Prefix, "172.31.16.64/28",
		"2001:db8:1:ff01::99", six.AssignedIpv6Prefixes[0],
	}
	if diff := cmp.Diff(want, w.described(t, w.eni)); diff != "" {
		t.Errorf("described ranges differ (-want +got):\n%s", diff)
	}

	must2(w.UnassignPrivateIpAddresses(t.Context(), &ec2.UnassignPrivateIpAddressesInput{
		NetworkInterfaceId: &w.eni, Ipv4Prefixes: []string{want[3], want[4], "172.31.16.64/28"},
	}))(t)
	must2(w.UnassignPrivateIpAddresses(t.Context(), &ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: &w.eni, PrivateIpAddresses: want[1:3]}))(t)
	gone := must2(w.UnassignIpv6Addresses(t.Context(), &ec2.UnassignIpv6AddressesInput{
		NetworkInterfaceId: &w.eni, Ipv6Addresses: []string{"2001:db8:1:ff01::99"}, Ipv6Prefixes: six.AssignedIpv6Prefixes,
	}))(t)
	if !slices.Equal(gone.UnassignedIpv6Prefixes, six.AssignedIpv6Prefixes) {
		t.Errorf("unassigned %v", gone.UnassignedIpv6Prefixes)
	}
	if got := w.described(t, w.eni); !slices.Equal(got, want[:1]) {
		t.Errorf("%v is left, want the primary address", got)
	}
}

// must2 is must for the results of a call.
func must2[T any](result T, err error) func(*testing.T) T {
	return func(t *testing.T) T { t.Helper(); return must(t, result, err) }
}

// TestRefusalsHaveAWSCodes calls with mistakes. Each case has a world of its own.
func TestRefusalsHaveAWSCodes(t *testing.T) {
	ctx := context.Background()
	assign := func(in ec2.AssignPrivateIpAddressesInput) func(*world) error {
		return func(w *world) error {
			if in.NetworkInterfaceId == nil {
				in.NetworkInterfaceId = &w.eni
			}
			_, err := w.AssignPrivateIpAddresses(ctx, &in)
			return err
		}
	}
	create := func(in ec2.CreateNetworkInterfaceInput) func(*world) error {
		return func(w *world) error {
			if in.SubnetId == nil {
				in.SubnetId = &w.subnet
			}
			_, err := w.CreateNetworkInterface(ctx, &in)
			return err
		}
	}
	for name, test := range map[string]struct {
		instance string
		prepare  func(*world)
		call     func(*world) error
		want     string
	}{
		"unknown interface":            {call: assign(ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: aws.String("eni-none"), Ipv4PrefixCount: aws.Int32(1)}), want: "InvalidNetworkInterfaceID.NotFound"},
		"nothing asked":                {call: assign(ec2.AssignPrivateIpAddressesInput{}), want: "MissingParameter"},
		"two questions":                {call: assign(ec2.AssignPrivateIpAddressesInput{Ipv4PrefixCount: aws.Int32(1), SecondaryPrivateIpAddressCount: aws.Int32(1)}), want: "InvalidParameterCombination"},
		"too many prefixes":            {call: assign(ec2.AssignPrivateIpAddressesInput{Ipv4PrefixCount: aws.Int32(10)}), want: "PrivateIpAddressLimitExceeded"},
		"old hypervisor":               {instance: "c4.large", call: assign(ec2.AssignPrivateIpAddressesInput{Ipv4PrefixCount: aws.Int32(1)}), want: "UnsupportedOperation"},
		"fragmented":                   {prepare: func(w *world) { w.Fragment(w.subnet) }, call: assign(ec2.AssignPrivateIpAddressesInput{Ipv4PrefixCount: aws.Int32(1)}), want: "InsufficientCidrBlocks"},
		"fragmented, single addresses": {prepare: func(w *world) { w.Fragment(w.subnet) }, call: assign(ec2.AssignPrivateIpAddressesInput{SecondaryPrivateIpAddressCount: aws.Int32(1)})},
		"full":                         {prepare: func(w *world) { w.Fill(w.subnet, 0) }, call: assign(ec2.AssignPrivateIpAddressesInput{SecondaryPrivateIpAddressCount: aws.Int32(1)}), want: "InsufficientFreeAddressesInSubnet"},
		"one left of two":              {prepare: func(w *world) { w.Fill(w.subnet, 1) }, call: assign(ec2.AssignPrivateIpAddressesInput{SecondaryPrivateIpAddressCount: aws.Int32(2)}), want: "InsufficientFreeAddressesInSubnet"},
		"foreign address":              {call: assign(ec2.AssignPrivateIpAddressesInput{PrivateIpAddresses: []string{"172.31.99.1"}}), want: "InvalidParameterValue"},
		"the router's address":         {call: assign(ec2.AssignPrivateIpAddressesInput{PrivateIpAddresses: []string{"172.31.16.1"}}), want: "InvalidParameterValue"},
		"a prefix with host bits":      {call: assign(ec2.AssignPrivateIpAddressesInput{Ipv4Prefixes: []string{"172.31.16.33/28"}}), want: "InvalidParameterValue"},
		"a /27":                        {call: assign(ec2.AssignPrivateIpAddressesInput{Ipv4Prefixes: []string{"172.31.16.32/27"}}), want: "InvalidParameterValue"},
		"no IPv6 in the subnet": {call: func(w *world) error {
			other := w.AddInstance(ec2test.Instance{Type: "m5.large", Subnet: w.far})
			_, err := w.AssignIpv6Addresses(ctx, &ec2.AssignIpv6AddressesInput{NetworkInterfaceId: &w.Interfaces(other)[0].ID, Ipv6PrefixCount: aws.Int32(1)})
			return err
		}, want: "InvalidParameterValue"},
		"the primary address": {call: func(w *world) error {
			_, err := w.UnassignPrivateIpAddresses(ctx, &ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: &w.eni, PrivateIpAddresses: []string{"172.31.16.10"}})
			return err
		}, want: "InvalidParameterValue"},
		"not assigned": {call: func(w *world) error {
			_, err := w.UnassignPrivateIpAddresses(ctx, &ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: &w.eni, Ipv4Prefixes: []string{"172.31.16.32/28"}})
			return err
		}, want: "InvalidParameterValue"},
		"unknown subnet": {call: create(ec2.CreateNetworkInterfaceInput{SubnetId: aws.String("subnet-none")}), want: "InvalidSubnetID.NotFound"},
		"unknown group":  {call: create(ec2.CreateNetworkInterfaceInput{Groups: []string{"sg-none"}}), want: "InvalidGroup.NotFound"},
		"delete in use": {call: func(w *world) error {
			_, err := w.DeleteNetworkInterface(ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &w.eni})
			return err
		}, want: "InvalidParameterValue"},
		"detach the primary": {call: func(w *world) error {
			_, err := w.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: &w.Interfaces(w.node)[0].Attachment.ID})
			return err
		}, want: "OperationNotPermitted"},
		"unknown attachment": {call: func(w *world) error {
			_, err := w.DetachNetworkInterface(ctx, &ec2.DetachNetworkInterfaceInput{AttachmentId: aws.String("eni-attach-none")})
			return err
		}, want: "InvalidAttachmentID.NotFound"},
		"another zone": {call: attachNew("far", 1), want: "InvalidParameterCombination"},
		"same index":   {call: attachNew("subnet", 0), want: "InvalidParameterValue"},
		"already in use": {call: func(w *world) error {
			_, err := w.AttachNetworkInterface(ctx, &ec2.AttachNetworkInterfaceInput{NetworkInterfaceId: &w.eni, InstanceId: &w.node, DeviceIndex: aws.Int32(1)})
			return err
		}, want: "InvalidNetworkInterface.InUse"},
		"too many interfaces": {instance: "t3.micro", prepare: func(w *world) {
			if err := attachNew("subnet", 1)(w); err != nil {
				panic(err)
			}
		}, call: attachNew("subnet", 2), want: "AttachmentLimitExceeded"},
		"unknown instance": {call: func(w *world) error {
			_, err := w.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{"i-none"}})
			return err
		}, want: "InvalidInstanceID.NotFound"},
		"unknown type": {call: func(w *world) error {
			_, err := w.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{"x9.huge"}})
			return err
		}, want: "InvalidInstanceType"},
		"unknown filter": {call: func(w *world) error {
			_, err := w.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{Filters: []types.Filter{{Name: aws.String("colour"), Values: []string{"red"}}}})
			return err
		}, want: "InvalidParameterValue"},
		"tiny page": {call: func(w *world) error {
			_, err := w.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{MaxResults: aws.Int32(4)})
			return err
		}, want: "InvalidParameterValue"},
		"page of IDs": {call: func(w *world) error {
			_, err := w.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{MaxResults: aws.Int32(5), SubnetIds: []string{w.subnet}})
			return err
		}, want: "InvalidParameterCombination"},
		"dry run": {call: create(ec2.CreateNetworkInterfaceInput{DryRun: aws.Bool(true)}), want: "DryRunOperation"},
		"another region": {call: func(w *world) error {
			_, err := w.client(testKey, "eu-west-1").DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{w.node}})
			return err
		}, want: "InvalidInstanceID.NotFound"},
		"missing tag target": {call: func(w *world) error {
			_, err := w.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{"eni-none"}, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}})
			return err
		}, want: "InvalidNetworkInterfaceID.NotFound"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.instance == "" {
				test.instance = "m5.large"
			}
			w := newWorld(t, test.instance)
			if test.prepare != nil {
				test.prepare(w)
			}
			before := w.Interfaces("")
			err := test.call(w)
			if got := codeOf(err); got != test.want || err != nil && got == "" {
				t.Fatalf("code %q (%v), want %q", got, err, test.want)
			}
			if after := w.Interfaces(""); test.want != "" && len(after) == len(before) && fmt.Sprint(ranges(after)) != fmt.Sprint(ranges(before)) {
				t.Errorf("a refused call changed %v to %v", ranges(before), ranges(after))
			}
		})
	}
}

// attachNew creates an interface in a subnet of the world and attaches it to the node.
func attachNew(where string, device int32) func(*world) error {
	return func(w *world) error {
		subnet := w.subnet
		if where == "far" {
			subnet = w.far
		}
		made, err := w.CreateNetworkInterface(context.Background(), &ec2.CreateNetworkInterfaceInput{SubnetId: &subnet})
		if err != nil {
			return err
		}
		_, err = w.AttachNetworkInterface(context.Background(), &ec2.AttachNetworkInterfaceInput{
			NetworkInterfaceId: made.NetworkInterface.NetworkInterfaceId, InstanceId: &w.node, DeviceIndex: &device,
		})
		return err
	}
}

// ranges returns the addresses and prefixes of interfaces.
func ranges(interfaces []ec2test.Interface) map[string][]string {
	all := map[string][]string{}
	for _, i := range interfaces {
		all[i.ID] = append(all[i.ID], fmt.Sprint(i.IPv4, i.IPv6, i.Prefixes))
	}
	return all
}
