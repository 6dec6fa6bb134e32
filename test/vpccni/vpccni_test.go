// Package vpccni proves the fake EC2 with a client that AWS wrote for the real one: the one of amazon-vpc-cni-k8s, which manages
// interfaces, addresses and prefixes through the metadata service and the EC2 API.
package vpccni

import (
	"bufio"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/aws/amazon-vpc-cni-k8s/pkg/awsutils"
	"github.com/aws/amazon-vpc-cni-k8s/pkg/ec2wrapper"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// start runs test/fakecloud until the test ends, with its environment in this process.
func start(t *testing.T) {
	t.Helper()
	program := t.TempDir() + "/fakecloud"
	if out, err := exec.Command("go", "-C", "../..", "build", "-o", program, "./test/fakecloud").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.Command(program)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		name, value, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		if !ok {
			return // the first line behind the environment
		}
		t.Setenv(name, value)
	}
	t.Fatal("fakecloud ended")
}

func prefixes(eni awsutils.ENIMetadata) (all []string) {
	for _, p := range eni.IPv4Prefixes {
		all = append(all, *p.Ipv4Prefix)
	}
	return all
}

func TestClientManagesPrefixes(t *testing.T) {
	start(t)
	client, err := awsutils.New(t.Context(), false, false, true, true, false)
	if err != nil {
		t.Fatal(err)
	}
	client.InitCachedPrefixDelegation(true)
	if err := client.FetchInstanceTypeLimits(t.Context()); err != nil {
		t.Fatal(err)
	}
	if interfaces, addresses := client.GetENILimit(), client.GetENIIPv4Limit(); interfaces != 3 || addresses != 9 {
		t.Errorf("limits %d and %d, want 3 interfaces and 9 addresses beside the primary one", interfaces, addresses)
	}
	attached, err := client.GetAttachedENIs()
	if err != nil {
		t.Fatal(err)
	}
	if len(attached) != 1 || attached[0].SubnetIPv4CIDR != "172.31.16.0/20" || !slices.Equal(prefixes(attached[0]), []string{"172.31.28.16/28"}) {
		t.Fatalf("attached: %+v", attached)
	}
	primary := attached[0].ENIID

	out, err := client.AllocIPAddresses(t.Context(), primary, 2)
	if err != nil {
		t.Fatal(err)
	}
	var assigned []string
	for _, p := range out.AssignedIpv4Prefixes {
		assigned = append(assigned, *p.Ipv4Prefix)
	}
	if has, err := client.GetIPv4PrefixesFromEC2(t.Context(), primary); err != nil || len(has) != 3 || len(assigned) != 2 {
		t.Errorf("EC2 shows %+v (%v) after the assignment of %v", has, err, assigned)
	}
	if err := client.DeallocPrefixAddresses(t.Context(), primary, assigned); err != nil {
		t.Error(err)
	}

	second, err := client.AllocENI(t.Context(), nil, "", 2, 0)
	if err != nil {
		t.Fatal(err)
	}
	ready, err := client.WaitForENIAndIPsAttached(second, 2)
	if err != nil || ready.DeviceNumber != 1 || len(prefixes(ready)) != 2 {
		t.Errorf("the second interface: %+v, %v", ready, err)
	}
	if err := client.TagENI(t.Context(), second, nil); err != nil {
		t.Error(err)
	}
	all, err := client.DescribeAllENIs(t.Context())
	if err != nil || len(all.ENIMetadata) != 2 || all.TagMap[second]["node.k8s.amazonaws.com/instance_id"] != client.GetInstanceID() {
		t.Errorf("all interfaces: %+v, %v", all, err)
	}
	if err := client.FreeENI(t.Context(), second); err != nil {
		t.Error(err)
	}
	if left, err := client.GetAttachedENIs(); err != nil || len(left) != 1 || !slices.Equal(prefixes(left[0]), []string{"172.31.28.16/28"}) {
		t.Errorf("left: %+v, %v", left, err)
	}
}

func TestClientUsesSingleAddresses(t *testing.T) {
	start(t)
	client, err := awsutils.New(t.Context(), false, false, true, true, false)
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.AllocIPAddresses(t.Context(), client.GetPrimaryENI(), 3)
	if err != nil {
		t.Fatal(err)
	}
	var assigned []string
	for _, a := range out.AssignedPrivateIpAddresses {
		assigned = append(assigned, *a.PrivateIpAddress)
	}
	has, err := client.GetIPv4sFromEC2(t.Context(), client.GetPrimaryENI())
	if err != nil || len(assigned) != 3 || len(has) != 4 || slices.IndexFunc(has, func(a types.NetworkInterfacePrivateIpAddress) bool { return *a.Primary }) != 0 {
		t.Errorf("assigned %v, EC2 shows %+v, %v", assigned, has, err)
	}
	if err := client.DeallocIPAddresses(t.Context(), client.GetPrimaryENI(), assigned); err != nil {
		t.Error(err)
	}
}

// TestWrapperReadsTags uses the package that amazon-vpc-cni-k8s calls its EC2 wrapper.
func TestWrapperReadsTags(t *testing.T) {
	start(t)
	wrapper, err := ec2wrapper.NewMetricsClient()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := wrapper.GetClusterTag("Name"); err != nil || got != "master" {
		t.Errorf("tag %q, %v", got, err)
	}
}
