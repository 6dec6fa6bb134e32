package cloudnetwork

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/alibaba"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/alibabatest"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
	"spiderpool.dev/spiderpool/internal/lease"
)

// documentedPolicy returns the policy below a heading of a page in docs/reference.
func documentedPolicy(t *testing.T, page, heading string) string {
	t.Helper()
	content, err := os.ReadFile("../../../docs/reference/" + page)
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile("(?s)\n## " + heading + "\n.*?```json\n(.*?)```").FindSubmatch(content)
	if match == nil {
		t.Fatalf("%s has no policy below %s", page, heading)
	}
	return string(match[1])
}

// denying returns a policy without an action.
func denying(policy, action string) string {
	return strings.Replace(policy, `"Statement": [`, `"Statement": [{"Effect": "Deny", "Action": "`+action+`", "Resource": "*"},`, 1)
}

const (
	movedIPv4 = "172.31.16.200"
	movedIPv6 = "2406:da1e:c4:ed01:0:1:0:10"
)

// refusedCall is a call for a fixed address that the policy lacks.
type refusedCall struct {
	name, ip, action string
	leave            bool // the address has no pod any more
}

// refusedCalls are those of a move on both clouds, and of the end of an address.
var refusedCalls = []refusedCall{
	{"IPv4", movedIPv4, "AssignPrivateIpAddresses", false},
	{"IPv6 from the former interface", movedIPv6, "UnassignIpv6Addresses", false},
	{"IPv6 to the next interface", movedIPv6, "AssignIpv6Addresses", false},
	{"IPv4 without a pod", movedIPv4, "UnassignPrivateIpAddresses", true},
	{"IPv6 without a pod", movedIPv6, "UnassignIpv6Addresses", true},
}

// playMove has a pod come to worker1, then to worker2 or to an end, while the policy lacks an action. Then the policy has all.
func playMove(x *bench, ip, first, second, action string, leave bool, set func(policy string), policy string) {
	x.t.Helper()
	set(policy)
	x.passes(3)
	x.lease(ip, lease.InUse, "db-0", "uid-1", "worker1")
	x.passes(2)
	x.wantPlaced(ip, first, "uid-1")
	x.condition("PoolsUpToDate", "")
	set(denying(policy, action))
	if leave {
		x.lease(ip, lease.Released, "", "", "")
		x.pass(time.Second)
		x.pass(coolDown)
		x.pass(time.Second)
		x.degraded("PermissionMissing", "the cloud does not allow the action "+action+"; add it to the policy")
		set(policy)
		x.passes(10)
		if got := x.placement(ip); got.IP != "" {
			x.t.Errorf("%+v is left", got)
		}
		x.condition("PoolsUpToDate", "")
		return
	}
	x.lease(ip, lease.InUse, "db-0", "uid-2", "worker2")
	x.passes(2)
	x.condition("PermissionMissing", "the cloud does not allow the action "+action+"; add it to the policy")
	if got := x.placement(ip); got.PodUID != "" || !strings.Contains(got.Message, action) {
		x.t.Fatalf("the agent sees %+v", got)
	}
	set(policy)
	x.passes(10)
	x.wantPlaced(ip, second, "uid-2")
	x.condition("PoolsUpToDate", "")
}

func TestRefusedMoveNamesActionOfEC2(t *testing.T) {
	policy := documentedPolicy(t, "aws-iam.md", "Manage")
	for _, tc := range refusedCalls {
		t.Run(tc.name, func(t *testing.T) {
			w := newManagedWire(t, 4, 6)
			second := w.start("worker2", ec2test.Instance{})
			w.reserve(tc.ip)
			w.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: w.subnet, IPs: []string{tc.ip}})
			playMove(w.bench, tc.ip, w.eni, second, "ec2:"+tc.action, tc.leave, func(policy string) {
				if err := w.ec2.SetPolicy(key, policy); err != nil {
					t.Fatal(err)
				}
			}, policy)
			if !tc.leave && (w.has(w.eni, tc.ip) || !w.has(second, tc.ip)) {
				t.Error("the address did not move")
			}
			if tc.leave && w.has(w.eni, tc.ip) {
				t.Error("the address is left")
			}
		})
	}
}

// loseMove has a pod with a fixed address come to a node, and loses the answer to the call that assigns it.
func (w *wire) loseMove(ip, action, uid, node string) {
	w.t.Helper()
	w.ec2.Inject(ec2test.Fault{Action: action, Times: 1, Done: true})
	w.lease(ip, lease.InUse, "db-0", uid, node)
	w.passes(12)
}

// A call whose answer is lost is repeated, although the interface has the address already. The documented policy is enough for that.
func TestLostMoveNeedsDocumentedPolicyOnly(t *testing.T) {
	policy := documentedPolicy(t, "aws-iam.md", "Manage")
	for _, tc := range []struct{ name, ip, action string }{
		{"IPv4", movedIPv4, "AssignPrivateIpAddresses"}, {"IPv6", movedIPv6, "AssignIpv6Addresses"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newManagedWire(t, 4, 6)
			second := w.start("worker2", ec2test.Instance{})
			if err := w.ec2.SetPolicy(key, policy); err != nil {
				t.Fatal(err)
			}
			w.reserve(tc.ip)
			w.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: w.subnet, IPs: []string{tc.ip}})
			w.passes(3)
			for i, at := range []struct{ node, eni string }{{"worker1", w.eni}, {"worker2", second}} {
				uid := fmt.Sprintf("uid-%d", i)
				w.loseMove(tc.ip, tc.action, uid, at.node)
				w.wantPlaced(tc.ip, at.eni, uid)
				w.condition("PoolsUpToDate", "")
			}
		})
	}
}

// newAlibabaWire has two nodes in a fake of Alibaba Cloud that speaks on the wire, and a controller with its client.
func newAlibabaWire(t *testing.T, ip string) (x *bench, world *alibabatest.Cloud, first, second string) {
	t.Helper()
	const region = "cn-hangzhou"
	world = alibabatest.New(region)
	for name, value := range world.Start(t) {
		t.Setenv(name, value)
	}
	provider, err := alibaba.New(region)
	if err != nil {
		t.Fatal(err)
	}
	x = newManagedBench(t, 4, 6)
	x.cloud = world.Fake
	world.AddType("ecs.g7.large", cloud.Limits{Interfaces: 3, IPv4: 10, IPv6: 10, Prefixes: true})
	subnet := world.AddSubnet("cn-hangzhou-a", nil, prefix("172.31.16.0/24"), prefix("2406:da1e:c4:ed01::/64"))
	network := x.network()
	network.Spec.Provider = v2beta1.CloudAlibaba
	network.Spec.Interfaces[0].FixedAddresses = []v2beta1.CloudFixedAddresses{{Name: "db", Subnet: subnet, IPs: []string{ip}}}
	if err := x.c.Update(t.Context(), network); err != nil {
		t.Fatal(err)
	}
	join := func(name string) string {
		id := world.AddInstance("ecs.g7.large", subnet)
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		node.Spec.ProviderID = world.ProviderID(id)
		x.create(node)
		for _, i := range world.Present() {
			if i.Attached == id {
				return i.ID
			}
		}
		t.Fatalf("node %s has no interface", name)
		return ""
	}
	first, second = join("worker1"), join("worker2")
	x.start(x.c, provider)
	return x, world, first, second
}

// Alibaba Cloud has no call that moves an address: it is unassigned, then assigned.
func TestFixedAddressMovesOnAlibabaCloud(t *testing.T) {
	for _, tc := range []struct{ ip, assign, unassign string }{
		{movedIPv4, "AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"}, {movedIPv6, "AssignIpv6Addresses", "UnassignIpv6Addresses"},
	} {
		t.Run(tc.ip, func(t *testing.T) {
			x, world, first, second := newAlibabaWire(t, tc.ip)
			x.passes(3)
			x.condition("PoolsUpToDate", "") // without a reservation, which Alibaba Cloud does not have
			x.lease(tc.ip, lease.InUse, "db-0", "uid-1", "worker1")
			x.pass(time.Second)
			x.wantAt(tc.ip, first)
			x.wantPlaced(tc.ip, first, "uid-1")
			x.passes(10)
			x.condition("PoolsUpToDate", "")
			before := world.Calls()
			x.lease(tc.ip, lease.InUse, "db-0", "uid-2", "worker2")
			x.pass(time.Second)
			x.wantAt(tc.ip, second)
			x.wantPlaced(tc.ip, second, "uid-2")
			calls := map[string]int{}
			for action, n := range world.Calls() {
				if n > before[action] {
					calls[action] = n - before[action]
				}
			}
			if diff := cmp.Diff(map[string]int{tc.assign: 1, tc.unassign: 1}, calls); diff != "" {
				t.Errorf("calls (-want +got)\n%s", diff)
			}
			x.lease(tc.ip, lease.Released, "", "", "")
			x.pass(time.Second)
			x.pass(coolDown)
			x.pass(time.Second)
			x.wantAt(tc.ip)
			x.condition("PoolsUpToDate", "")
		})
	}
}

func TestRefusedMoveNamesActionOfAlibabaCloud(t *testing.T) {
	policy := strings.ReplaceAll(documentedPolicy(t, "alibaba-ram.md", "Attach"), "CLUSTER", "uid-cluster")
	for _, tc := range append(slices.Clip(refusedCalls), refusedCall{"IPv4 from the former interface", movedIPv4, "UnassignPrivateIpAddresses", false}) {
		t.Run(tc.name, func(t *testing.T) {
			x, world, first, second := newAlibabaWire(t, tc.ip)
			playMove(x, tc.ip, first, second, "ecs:"+tc.action, tc.leave, func(policy string) {
				if err := world.Permit(policy); err != nil {
					t.Fatal(err)
				}
			}, policy)
			want := []string{second}
			if tc.leave {
				want = nil
			}
			if got := x.at(tc.ip); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s is on %v, want %v", tc.ip, got, want)
			}
		})
	}
}
