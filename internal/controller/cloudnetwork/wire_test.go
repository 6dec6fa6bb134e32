package cloudnetwork

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/aws"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

// key is the access key of the controller at the fake EC2.
const key = "AKIAFAKEFAKEFAKEFAKE"

// wire is a bench with a fake EC2 and the client of AWS.
type wire struct {
	*bench
	ec2    *ec2test.Cloud
	eni    string
	vpc    string
	subnet string
}

func newWire(t *testing.T) *wire {
	t.Helper()
	w := wireOf(newBench(t, 4, 6), guideVPC, ec2test.Subnet{IPv4: prefix("172.31.16.0/20"), IPv6: prefix("2406:da1e:c4:ed01::/64")})
	w.eni = w.add("master", "172.31.28.16/28", "2406:da1e:c4:ed01:c57d::/80")
	return w
}

// guideVPC is the VPC of the guide.
var guideVPC = ec2test.VPC{IPv4: prefix("172.31.0.0/16"), IPv6: prefix("2406:da1e:c4:ed00::/56")}

// wireOf has a VPC with one subnet, and a leader with the client of AWS.
func wireOf(x *bench, vpc ec2test.VPC, subnet ec2test.Subnet) *wire {
	x.t.Helper()
	w := &wire{bench: x, ec2: ec2test.New(ec2test.Options{Region: "eu-central-1"})}
	w.serve()
	w.vpc = w.ec2.AddVPC(vpc)
	subnet.VPC, subnet.Zone = w.vpc, "eu-central-1a"
	w.subnet = w.ec2.AddSubnet(subnet)
	w.lead("eu-central-1")
	return w
}

// serve starts the fake, and lets the client of AWS use it.
func (w *wire) serve() {
	w.t.Helper()
	for _, variable := range w.ec2.Start(w.t).Environment("") {
		name, value, _ := strings.Cut(variable, "=")
		w.t.Setenv(name, value)
	}
}

// lead makes a new leader with the client of AWS in a region.
func (w *wire) lead(region string) {
	w.restart()
	providers := func(ctx context.Context, _ v2beta1.CloudProvider, _ string) (cloud.Provider, error) {
		return aws.New(ctx, region)
	}
	w.r.providers = providers
}

// add starts an instance with these prefixes.
func (w *wire) add(name string, pieces ...string) string {
	w.t.Helper()
	var prefixes []netip.Prefix
	for _, p := range pieces {
		prefixes = append(prefixes, prefix(p))
	}
	return w.start(name, ec2test.Instance{Prefixes: prefixes})
}

// start starts an instance, with its node, and returns its primary interface.
func (w *wire) start(name string, i ec2test.Instance) string {
	w.t.Helper()
	i.Type, i.Subnet = "m5.large", w.subnet
	id := w.ec2.AddInstance(i)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	node.Spec.ProviderID = "aws:///eu-central-1a/" + id
	w.create(node)
	return w.ec2.Interfaces(id)[0].ID
}

const (
	master4 = "aws-master-0-v4: 172.31.28.16-172.31.28.31"
	master6 = "aws-master-0-v6: 2406:da1e:c4:ed01:c57d::-2406:da1e:c4:ed01:c57d:ffff:ffff:ffff"
)

func TestPoolsFollowEC2(t *testing.T) {
	w := newWire(t)
	w.pass(0)
	w.want(master4, master6)
	w.condition("PoolsUpToDate", "")
	w.ec2.ResetCalls()
	w.add("worker1", "172.31.28.64/28", "2406:da1e:c4:ed01:7a2e::/80")
	w.pass(time.Second)
	if calls := w.ec2.Calls(); len(calls) != 1 || calls["DescribeInstances"] != 1 {
		t.Errorf("the calls for a node that joins are %v", calls)
	}
	worker4, worker6 := "aws-worker1-0-v4: 172.31.28.64-172.31.28.79", "aws-worker1-0-v6: 2406:da1e:c4:ed01:7a2e::-2406:da1e:c4:ed01:7a2e:ffff:ffff:ffff"
	w.want(master4, master6, worker4, worker6)

	w.ec2.TakePrefix(w.eni, prefix("172.31.28.16/28"))
	w.pass(w.pass(resyncMax))
	if got := w.reserved(); got != "172.31.28.16-172.31.28.31" {
		t.Fatalf("%s are reserved", got)
	}
	w.pass(settleTime)
	w.pass(settleTime)
	w.want(master4, master6, worker4, worker6)
	if w.pools()["aws-master-0-v4"].DeletionTimestamp == nil {
		t.Error("the pool without addresses is not deleted")
	}
	w.condition("NothingAssigned", w.eni)
}

func TestThrottledEC2ChangesNothing(t *testing.T) {
	w := newWire(t)
	w.pass(0)
	w.ec2.TakePrefix(w.eni, prefix("172.31.28.16/28"))
	w.ec2.Inject(ec2test.Fault{Action: "DescribeInstances", Times: 1, Code: "RequestLimitExceeded"})
	w.pass(resyncMax)
	w.want(master4, master6)
	w.condition("Throttled", "ec2:DescribeInstances")
}

func TestWrongRegionChangesNothing(t *testing.T) {
	w := newWire(t)
	w.pass(0)
	w.lead("us-east-1")
	w.pass(time.Minute)
	w.pass(resyncMax)
	w.want(master4, master6)
	w.condition("NoInstances", "check spec.region")
}

// TestGuidesPolicyIsLeast gives the controller the IAM policy of the guide, then takes each action away.
func TestGuidesPolicyIsLeast(t *testing.T) {
	policy := guidesPolicy(t)
	actions := policy.Statement[0].Action
	t.Run("all", func(t *testing.T) {
		w := newWire(t)
		w.permit(actions)
		w.pass(0)
		w.want(master4, master6)
		w.condition("PoolsUpToDate", "")
	})
	for i, action := range actions {
		t.Run(action, func(t *testing.T) {
			w := newWire(t)
			w.permit(slices.Delete(slices.Clone(actions), i, i+1))
			w.pass(0)
			w.want()
			w.condition("PermissionMissing", action)
			w.permit(actions)
			w.pass(resyncMax)
			w.want(master4, master6)
		})
	}
}

type iamPolicy struct {
	Version   string
	Statement []struct {
		Effect   string
		Action   []string
		Resource string
	}
}

// guidesPolicy reads the policy in docs/guides/aws.md.
func guidesPolicy(t *testing.T) iamPolicy {
	t.Helper()
	page, err := os.ReadFile("../../../docs/guides/aws.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```json\n")
	text, _, found := strings.Cut(rest, "```")
	var policy iamPolicy
	if err := json.Unmarshal([]byte(text), &policy); err != nil || !found || len(policy.Statement) != 1 {
		t.Fatalf("the guide has no policy: %v", err)
	}
	return policy
}

// permit permits these actions and no others.
func (w *wire) permit(actions []string) {
	w.t.Helper()
	policy := guidesPolicy(w.t)
	policy.Statement[0].Action = actions
	text, err := json.Marshal(policy)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.ec2.SetPolicy(key, string(text)); err != nil {
		w.t.Fatal(err)
	}
}
