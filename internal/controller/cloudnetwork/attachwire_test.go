package cloudnetwork

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

// newAttachWire has a node, a subnet for pods in its zone, and a controller that attaches interfaces.
func newAttachWire(t *testing.T, versions ...int64) *wire {
	t.Helper()
	w := wireOf(newManagedBench(t, versions...), guideVPC, ec2test.Subnet{IPv4: prefix("172.31.16.0/24"), IPv6: prefix("2406:da1e:c4:ed01::/64")})
	w.withAttach()
	w.ec2.AddSubnet(ec2test.Subnet{VPC: w.vpc, Zone: "eu-central-1a", IPv4: prefix("172.31.48.0/20"), IPv6: prefix("2406:da1e:c4:ed02::/64"), Tags: podSubnets})
	w.ec2.AddSubnet(ec2test.Subnet{VPC: w.vpc, Zone: "eu-central-1b", IPv4: prefix("172.31.64.0/18"), Tags: podSubnets})
	w.eni = w.start("worker1", ec2test.Instance{Groups: []string{w.ec2.AddSecurityGroup(ec2test.SecurityGroup{VPC: w.vpc, Name: "nodes"})}})
	return w
}

// attached returns the interface at device 1 of a node.
func (w *wire) attached(node string) ec2test.Interface {
	w.t.Helper()
	for _, i := range w.ec2.Interfaces(w.instance(node)) {
		if i.Attachment.Device == 1 {
			return i
		}
	}
	w.t.Fatalf("node %s has no interface with device index 1", node)
	return ec2test.Interface{}
}

func TestAttachOnEC2(t *testing.T) {
	w := newAttachWire(t, 4, 6)
	w.run(30 * time.Second)
	w.condition("PoolsUpToDate", "")
	w.ec2.ResetCalls()
	w.start("worker2", ec2test.Instance{})
	w.run(3 * time.Second)
	want := map[string]int{
		"DescribeInstances":      1,
		"CreateNetworkInterface": 1, "AttachNetworkInterface": 1, "ModifyNetworkInterfaceAttribute": 1,
		"AssignPrivateIpAddresses": 1, "AssignIpv6Addresses": 1,
	}
	if diff := cmp.Diff(want, w.ec2.Calls()); diff != "" {
		t.Errorf("the calls for a node that joins (-want +got)\n%s", diff)
	}
	primary, _ := w.ec2.Interface(w.eni)
	got := w.attached("worker1")
	tags := map[string]string{
		cloud.TagCluster: "uid-cluster", cloud.TagNetwork: "aws", cloud.TagInstance: w.instance("worker1"), cloud.TagIndex: "1", "node.k8s.amazonaws.com/no_manage": "true",
	}
	if diff := cmp.Diff(tags, got.Tags); diff != "" {
		t.Errorf("tags (-want +got)\n%s", diff)
	}
	if !got.Attachment.DeleteOnTermination || !prefix("172.31.48.0/20").Contains(got.IPv4[0]) || !cmp.Equal(got.Groups, primary.Groups) || len(got.Prefixes) != 2 {
		t.Errorf("the interface is %+v, attached by %+v", got, got.Attachment)
	}
	w.ec2.Vanish(w.instance("worker1"))
	if _, exists := w.ec2.Interface(got.ID); exists {
		t.Error("the interface is left after its instance")
	}
}

// The controller dies between the two calls that attach an interface. Without the second one, EC2 keeps it.
func TestHalfAttachedInterfaceGoesWithInstance(t *testing.T) {
	for name, fault := range map[string]ec2test.Fault{
		"refused":     {Code: "RequestLimitExceeded"},
		"lost":        {Done: true},
		"not carried": {Code: "InternalError"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newAttachWire(t, 4)
			fault.Action, fault.Times = "ModifyNetworkInterfaceAttribute", 1
			w.ec2.Inject(fault)
			w.run(7 * time.Second)
			w.lead("eu-central-1")
			w.run(2 * resyncMax)
			if got := w.attached("worker1"); !got.Attachment.DeleteOnTermination {
				t.Error("the interface would be left after its instance")
			}
			w.condition("PoolsUpToDate", "")
			if n := w.ec2.Calls()["CreateNetworkInterface"]; n != 1 {
				t.Errorf("%d calls to create", n)
			}
		})
	}
}

func TestLostCreationIsAdopted(t *testing.T) {
	for _, lost := range []string{"", "InternalError"} {
		w := newAttachWire(t, 4)
		w.ec2.Inject(ec2test.Fault{Action: "CreateNetworkInterface", Times: 1, Code: lost, Done: true})
		w.run(7 * time.Second)
		if open := w.network().Status.Changes; len(open) != 1 || open[0].Action != "Create" || open[0].Node != "worker1" {
			t.Errorf("the open calls are %v", open)
		}
		w.ec2.StaleReads(2)
		w.lead("eu-central-1") // the successor waits, too
		w.run(100 * time.Second)
		w.attached("worker1")
		if n := w.ec2.Calls()["CreateNetworkInterface"]; n != 1 {
			t.Errorf("%d calls to create", n)
		}
		w.condition("PoolsUpToDate", "")
	}
}

// TestAttachPolicyIsLeast gives the controller the documented policy, then takes each action away.
func TestAttachPolicyIsLeast(t *testing.T) {
	policy := strings.ReplaceAll(documentedPolicy(t, "aws-iam.md", "Attach"), "CLUSTER", "uid-cluster")
	run := func(t *testing.T, policy string, pods int, versions ...int64) *wire {
		w := newAttachWire(t, versions...)
		if err := w.ec2.SetPolicy(key, policy); err != nil {
			t.Fatal(err)
		}
		left := ec2test.Interface{Subnet: w.subnet, Tags: map[string]string{cloud.TagCluster: "uid-cluster", cloud.TagNetwork: "aws", cloud.TagInstance: "i-0", cloud.TagIndex: "1"}}
		w.ec2.AddInterface(left) // of an instance that has gone
		w.pods("worker1", pods)
		w.run(3 * cloud.Grace / 2)
		return w
	}
	t.Run("all", func(t *testing.T) {
		w := run(t, policy, 100, 4, 6)
		w.condition("PoolsUpToDate", "")
		if n := w.ec2.Calls()["DeleteNetworkInterface"]; n != 1 {
			t.Errorf("%d calls to delete", n)
		}
		w.removePods()
		w.run(5 * time.Minute)
		if got := w.attached("worker1"); len(got.Prefixes) != 2 {
			t.Errorf("the interface has %v", got.Prefixes)
		}
	})
	actions := strings.ReplaceAll(policy, "ec2:CreateAction", "")
	for _, action := range regexp.MustCompile(`"(ec2:[A-Z][A-Za-z0-9]+)"`).FindAllStringSubmatch(actions, -1) {
		t.Run(action[1], func(t *testing.T) {
			pods, versions := 100, []int64{4, 6}
			if action[1] == "ec2:UnassignIpv6Addresses" {
				pods, versions = 300, []int64{6} // more than the addresses of one prefix
			}
			w := run(t, denying(policy, action[1]), pods, versions...)
			if strings.HasPrefix(action[1], "ec2:Unassign") {
				w.removePods()
				w.run(5 * time.Minute)
			}
			w.reported("PermissionMissing", action[1])
		})
	}
}
