//go:build apiserver

package cloudnetwork_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/controller/cloudnetwork"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/withhold"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/liveblocks"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// network is the SpiderCloudNetwork of the guide.
func network(name string) *v2beta1.SpiderCloudNetwork {
	n := &v2beta1.SpiderCloudNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Spec.Provider = v2beta1.CloudAWS
	n.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"pods": name}}
	n.Spec.Interfaces = []v2beta1.CloudInterface{{MultusName: "default/ipvlan-ens5", Master: "ens5"}}
	return n
}

// runController runs the controller with the rights of the chart, and with a fake cloud.
func runController(t *testing.T) *cloudtest.Fake {
	t.Helper()
	fake := cloudtest.NewFake()
	runControllerOn(t, fake)
	return fake
}

func runControllerOn(t *testing.T, provider cloud.Provider) {
	t.Helper()
	kubetest.ManagerWith(t, "secure", func(mgr ctrl.Manager) error {
		providers := func(context.Context, v2beta1.CloudProvider, string) (cloud.Provider, error) { return provider, nil }
		log := slog.New(slog.DiscardHandler)
		o := cloudnetwork.Options{
			Withholder: withhold.New(liveblocks.New(mgr.GetClient(), mgr.GetAPIReader()), time.Now, log),
			Cluster:    func(context.Context) (string, error) { return "uid", nil },
			Live:       mgr.GetAPIReader(),
		}
		return errors.Join(
			blockindex.IndexBlocksByPool(t.Context(), mgr.GetFieldIndexer()),
			cloudnetwork.New(status.NewWriter(mgr), providers, o, log).Register(mgr),
		)
	})
}

// meddled is a cloud in which another process does something during each assignment.
type meddled struct {
	*cloudtest.Fake
	during func()
}

func (m meddled) Assign(ctx context.Context, a cloud.Assignment) ([]netip.Prefix, error) {
	m.during()
	return m.Fake.Assign(ctx, a)
}

func TestPoolsFollowCloud(t *testing.T) {
	fake := runController(t)
	c := kubetest.Client(t)
	scn := network("follow")
	kubetest.Create(t, c, scn)
	wantReady(t, c, scn, "NoInstances", 0)
	kubetest.Event(t, c, scn, "NoInstances", "spec.nodeSelector matches 0 nodes")
	fake.AddType("m5.large", cloud.Limits{Interfaces: 3, IPv4: 10, IPv6: 10, Prefixes: true})
	subnet := fake.AddSubnet("eu-central-1a", nil, netip.MustParsePrefix("172.31.16.0/20"), netip.MustParsePrefix("2406:da1e:c4:ed01::/64"))
	instance := fake.AddInstance("m5.large", subnet)
	described, err := fake.Instances(t.Context(), []string{instance})
	if err != nil {
		t.Fatal(err)
	}
	eni := described[0].Interfaces[0].ID
	for _, piece := range []string{"172.31.28.16/28", "2406:da1e:c4:ed01:c57d::/80"} {
		p := netip.MustParsePrefix(piece)
		a := cloud.Assignment{Interface: eni, Family: inet.FamilyOf(p.Addr()), Unit: cloud.Prefixes, Exact: []netip.Prefix{p}}
		if _, err := fake.Assign(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "master", Labels: map[string]string{"pods": "follow"}}}
	node.Spec.ProviderID = fake.ProviderID(instance)
	kubetest.Create(t, c, node)
	wantPools(t, c, "follow-master-0-v4: 172.31.28.16-172.31.28.31", "follow-master-0-v6: 2406:da1e:c4:ed01:c57d::-2406:da1e:c4:ed01:c57d:ffff:ffff:ffff")
	wantReady(t, c, scn, "PoolsUpToDate", 1)
	config := &v2beta1.SpiderMultusConfig{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "ipvlan-ens5"}, config); err != nil {
		t.Fatal(err)
	}

	// The user changes the master, the cloud takes a prefix and gives another.
	change(t, c, scn, func() { scn.Spec.Interfaces[0].Master = "ens6" })
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(config), config); err != nil || config.Spec.IPvlan.Master[0] != "ens6" {
			return fmt.Errorf("the attachment is %+v: %w", config.Spec.IPvlan, err)
		}
		return nil
	})
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "follow-master-0-v4"}}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(pool), pool); err != nil {
		t.Fatal(err)
	}
	change(t, c, pool, func() { pool.Spec.Gateway = new("172.31.16.2") })
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(pool), pool); err != nil || *pool.Spec.Gateway != "172.31.16.1" {
			return fmt.Errorf("the gateway is %s: %w", *pool.Spec.Gateway, err)
		}
		return nil
	})

	// A node that leaves takes its pools with it. No controller of pools runs here.
	kubetest.Remove(t, c, node)
	kubetest.Eventually(t, func(ctx context.Context) error {
		var list v2beta1.SpiderIPPoolList
		if err := c.List(ctx, &list); err != nil {
			return err
		}
		for i := range list.Items {
			if p := &list.Items[i]; strings.HasPrefix(p.Name, "follow-") && p.DeletionTimestamp == nil {
				return fmt.Errorf("pool %s is not deleted", p.Name)
			}
		}
		return nil
	})
	kubetest.Remove(t, c, config)
	for _, name := range []string{"follow-master-0-v4", "follow-master-0-v6"} {
		kubetest.Remove(t, c, &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
}

// change updates an object until no other writer is in the way.
func change(t *testing.T, c client.Client, o client.Object, edit func()) {
	t.Helper()
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		edit()
		return c.Update(ctx, o)
	})
}

func wantPools(t *testing.T, c client.Client, want ...string) {
	t.Helper()
	kubetest.Eventually(t, func(ctx context.Context) error {
		var list v2beta1.SpiderIPPoolList
		if err := c.List(ctx, &list); err != nil {
			return err
		}
		var got []string
		for _, p := range list.Items {
			got = append(got, p.Name+": "+strings.Join(p.Spec.IPs, ", "))
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("pools are %q, want %q", got, want)
		}
		return nil
	})
}

func wantReady(t *testing.T, c client.Client, scn *v2beta1.SpiderCloudNetwork, reason string, nodes int64) {
	t.Helper()
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(scn), scn); err != nil {
			return err
		}
		got := meta.FindStatusCondition(scn.Status.Conditions, status.ConditionReady)
		if got == nil || got.Reason != reason || scn.Status.NodeCount == nil || *scn.Status.NodeCount != nodes {
			return fmt.Errorf("status is %+v", scn.Status)
		}
		return nil
	})
}

// TestBadNetworksAreRefused checks the rules of the definition.
func TestBadNetworksAreRefused(t *testing.T) {
	c := kubetest.Client(t)
	for _, tc := range []struct {
		name, want string
		edit       func(n *v2beta1.SpiderCloudNetwork)
	}{
		{"mode", `supported values: "Discover", "Manage"`, func(n *v2beta1.SpiderCloudNetwork) { n.Spec.Mode = "Auto" }},
		{"manage without its mode", "manage needs mode 'Manage', and mode is 'Discover'; set mode, or remove manage", func(n *v2beta1.SpiderCloudNetwork) {
			n.Spec.Manage = &v2beta1.CloudManagement{}
		}},
		{"reserve", "spec.manage.reservePercent", func(n *v2beta1.SpiderCloudNetwork) {
			n.Spec.Mode, n.Spec.Manage = v2beta1.CloudManage, &v2beta1.CloudManagement{ReservePercent: new(int64(101))}
		}},
		{"cool-down", "spec.manage.coolDownMinutes", func(n *v2beta1.SpiderCloudNetwork) {
			n.Spec.Mode, n.Spec.Manage = v2beta1.CloudManage, &v2beta1.CloudManagement{CoolDownMinutes: new(int64(0))}
		}},
		{"provider", `supported values: "aws"`, func(n *v2beta1.SpiderCloudNetwork) { n.Spec.Provider = "azure" }},
		{"region", "is not a region, such as 'eu-central-1'", func(n *v2beta1.SpiderCloudNetwork) { n.Spec.Region = "https://x" }},
		{"no interface", "should have at least 1 items", func(n *v2beta1.SpiderCloudNetwork) { n.Spec.Interfaces = []v2beta1.CloudInterface{} }},
		{"attachment", "write 'namespace/name'", func(n *v2beta1.SpiderCloudNetwork) { n.Spec.Interfaces[0].MultusName = "ipvlan" }},
		{"master", "copy the name from 'ip link'", func(n *v2beta1.SpiderCloudNetwork) { n.Spec.Interfaces[0].Master = "a/b" }},
		{"one attachment twice", "give each its own attachment", func(n *v2beta1.SpiderCloudNetwork) {
			n.Spec.Interfaces = append(n.Spec.Interfaces, v2beta1.CloudInterface{Device: 1, MultusName: "default/ipvlan-ens5"})
		}},
		{"one device twice", "Duplicate value", func(n *v2beta1.SpiderCloudNetwork) {
			n.Spec.Interfaces = append(n.Spec.Interfaces, v2beta1.CloudInterface{MultusName: "default/other"})
		}},
		{"long name", "choose a shorter name", func(n *v2beta1.SpiderCloudNetwork) { n.Name = strings.Repeat("n", 41) }},
		{"attach without its mode", "attach needs mode 'Manage' and provider 'aws' or 'alibaba', and they are 'Discover' and 'aws'", func(n *v2beta1.SpiderCloudNetwork) {
			n.Spec.Interfaces[0].Device, n.Spec.Interfaces[0].Attach = 1, &v2beta1.CloudAttachment{SubnetTags: map[string]string{"pods": "yes"}}
		}},
		{"attach at a service", "they are 'Manage' and 'iaas'", func(n *v2beta1.SpiderCloudNetwork) {
			n.Spec.Provider, n.Spec.Mode = v2beta1.CloudIaaS, v2beta1.CloudManage
			n.Spec.Interfaces[0].Device, n.Spec.Interfaces[0].Attach = 1, &v2beta1.CloudAttachment{SubnetTags: map[string]string{"pods": "yes"}}
		}},
		{"attach device 0", "device 0 is the primary interface", func(n *v2beta1.SpiderCloudNetwork) {
			n.Spec.Mode, n.Spec.Interfaces[0].Attach = v2beta1.CloudManage, &v2beta1.CloudAttachment{SubnetTags: map[string]string{"pods": "yes"}}
		}},
		{"attach without tags", "should have at least 1 properties", func(n *v2beta1.SpiderCloudNetwork) {
			n.Spec.Mode = v2beta1.CloudManage
			n.Spec.Interfaces[0].Device, n.Spec.Interfaces[0].Attach = 1, &v2beta1.CloudAttachment{SubnetTags: map[string]string{}}
		}},
		{"fixed addresses without the mode", "fixedAddresses needs mode 'Manage', and mode is 'Discover'", func(n *v2beta1.SpiderCloudNetwork) {
			n.Spec.Interfaces[0].FixedAddresses = []v2beta1.CloudFixedAddresses{{Name: "db", Subnet: "subnet-1", IPs: []string{"172.31.16.200"}}}
		}},
		{"name of fixed addresses", "write lower-case letters, digits and hyphens", func(n *v2beta1.SpiderCloudNetwork) {
			n.Spec.Mode = v2beta1.CloudManage
			n.Spec.Interfaces[0].FixedAddresses = []v2beta1.CloudFixedAddresses{{Name: "DB", Subnet: "subnet-1", IPs: []string{"172.31.16.200"}}}
		}},
		{"no fixed address", "spec.interfaces[0].fixedAddresses[0].ips", func(n *v2beta1.SpiderCloudNetwork) {
			n.Spec.Mode = v2beta1.CloudManage
			n.Spec.Interfaces[0].FixedAddresses = []v2beta1.CloudFixedAddresses{{Name: "db", Subnet: "subnet-1", IPs: []string{}}}
		}},
		{"tag without a key", "a key of subnetTags is empty", func(n *v2beta1.SpiderCloudNetwork) {
			n.Spec.Mode = v2beta1.CloudManage
			n.Spec.Interfaces[0].Device, n.Spec.Interfaces[0].Attach = 1, &v2beta1.CloudAttachment{SubnetTags: map[string]string{"": "yes"}}
		}},
		{"version", "spec.ipVersions[0]", func(n *v2beta1.SpiderCloudNetwork) { n.Spec.IPVersions = []int64{5} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := network("bad")
			tc.edit(n)
			if err := c.Create(t.Context(), n); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the answer is %v, want %q", err, tc.want)
			}
		})
	}
}

// TestAttachOnAPIServer has the controller attach an interface, and wait with the end of its network until none is left, with the rights
// of the chart.
func TestAttachOnAPIServer(t *testing.T) {
	fake := runController(t)
	c := kubetest.Client(t)
	fake.AddType("m5.large", cloud.Limits{Interfaces: 3, IPv4: 10, IPv6: 10, Prefixes: true})
	instance := fake.AddInstance("m5.large", fake.AddSubnet("eu-central-1a", map[string]string{"pods": "yes"}, netip.MustParsePrefix("172.31.16.0/20")))
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "attached", Labels: map[string]string{"pods": "attach"}}}
	node.Spec.ProviderID = fake.ProviderID(instance)
	kubetest.Create(t, c, node)
	scn := network("attach")
	scn.Spec.Mode, scn.Spec.IPVersions = v2beta1.CloudManage, []int64{4}
	scn.Spec.Interfaces[0] = v2beta1.CloudInterface{Device: 1, MultusName: "default/ipvlan-attach", Attach: &v2beta1.CloudAttachment{SubnetTags: map[string]string{"pods": "yes"}}}
	kubetest.Create(t, c, scn)
	wantPools(t, c, "attach-attached-1-v4: 172.31.16.16-172.31.16.31")
	wantReady(t, c, scn, "PoolsUpToDate", 1)
	if len(scn.Finalizers) != 1 {
		t.Errorf("the finalizers are %v", scn.Finalizers)
	}
	if err := c.Delete(t.Context(), scn); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(scn), scn); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the network has the finalizers %v: %w", scn.Finalizers, err)
		}
		return nil
	})
	kubetest.Remove(t, c, &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "attach-attached-1-v4"}})
}

// TestManageAssignsOnAPIServer has a node and a pod come, with the rights of the chart.
func TestManageAssignsOnAPIServer(t *testing.T) {
	fake := runController(t)
	c := kubetest.Client(t)
	fake.AddType("m5.large", cloud.Limits{Interfaces: 3, IPv4: 10, IPv6: 10, Prefixes: true})
	instance := fake.AddInstance("m5.large", fake.AddSubnet("eu-central-1a", nil, netip.MustParsePrefix("172.31.16.0/20"), netip.MustParsePrefix("2406:da1e:c4:ed01::/64")))
	scn := network("manage")
	scn.Spec.Mode, scn.Spec.IPVersions = v2beta1.CloudManage, []int64{4}
	scn.Spec.Interfaces[0].MultusName = "default/ipvlan-manage"
	kubetest.Create(t, c, scn)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "managed", Labels: map[string]string{"pods": "manage"}}}
	node.Spec.ProviderID = fake.ProviderID(instance)
	kubetest.Create(t, c, node)
	wantPools(t, c, "manage-managed-0-v4: 172.31.16.16-172.31.16.31")
	wantReady(t, c, scn, "PoolsUpToDate", 1)
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(scn), scn); err != nil || len(scn.Status.Changes) > 0 {
			return fmt.Errorf("the open calls are %v: %w", scn.Status.Changes, err)
		}
		return nil
	})
}

// TestFixedAddressOnAPIServer has a pod of a StatefulSet get its fixed address, with the rights of the chart.
func TestFixedAddressOnAPIServer(t *testing.T) {
	fake, c := cloudtest.NewFake(), kubetest.Client(t)
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "fixed-db-fixed-v4"}}
	// The counts of the pool change meanwhile, as for any grant.
	runControllerOn(t, meddled{fake, func() {
		is := &v2beta1.SpiderIPPool{}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(pool), is); err != nil {
			return // addresses of the node's own pool come earlier
		}
		want := is.DeepCopy()
		want.Status.AllocatedIPCount = new(time.Now().UnixNano() & math.MaxInt32)
		if err := c.Status().Patch(t.Context(), want, client.MergeFrom(is)); err != nil {
			t.Error(err)
		}
	}})
	fake.AddType("m5.large", cloud.Limits{Interfaces: 3, IPv4: 10, IPv6: 10, Prefixes: true})
	subnet := fake.AddSubnet("eu-central-1a", nil, netip.MustParsePrefix("172.31.48.0/20"))
	instance := fake.AddInstance("m5.large", subnet)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "fixed", Labels: map[string]string{"pods": "fixed"}}}
	node.Spec.ProviderID = fake.ProviderID(instance)
	kubetest.Create(t, c, node)
	scn := network("fixed")
	scn.Spec.Mode, scn.Spec.IPVersions = v2beta1.CloudManage, []int64{4}
	scn.Spec.Interfaces[0].MultusName = "default/ipvlan-fixed"
	scn.Spec.Interfaces[0].FixedAddresses = []v2beta1.CloudFixedAddresses{{Name: "db", Subnet: subnet, IPs: []string{"172.31.50.0-172.31.50.9"}}}
	kubetest.Create(t, c, scn)
	kubetest.Eventually(t, func(ctx context.Context) error { return c.Get(ctx, client.ObjectKeyFromObject(pool), pool) })
	kubetest.Create(t, c, &v2beta1.SpiderIPBlock{
		ObjectMeta: metav1.ObjectMeta{Name: compile.BlockName(netip.MustParseAddr("172.31.50.0"))},
		Spec: v2beta1.SpiderIPBlockSpec{CIDR: "172.31.50.0/28", Node: "fixed", Leases: []v2beta1.Lease{{
			IP: "172.31.50.5", State: v2beta1.LeaseInUse, Pool: pool.Name, Pod: "default/db-0", PodUID: "u", ContainerID: "c", Interface: "eth0", Node: "fixed", Since: metav1.Now(),
		}}},
	})
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(pool), pool); err != nil || len(pool.Status.Placements) != 1 || pool.Status.Placements[0].PodUID != "u" {
			return fmt.Errorf("the placements are %v: %w", pool.Status.Placements, err)
		}
		return nil
	})
	// Without the label, agents would not wait for placements.
	for _, zone := range []string{"", "eu-central-1b"} {
		changed := pool.DeepCopy()
		if changed.Labels[names.LabelCloudZone] = zone; zone == "" {
			delete(changed.Labels, names.LabelCloudZone)
		}
		if err := c.Patch(t.Context(), changed, client.MergeFrom(pool)); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		kubetest.Eventually(t, func(ctx context.Context) error {
			if err := c.Get(ctx, client.ObjectKeyFromObject(pool), pool); err != nil || pool.Labels[names.LabelCloudZone] != "eu-central-1a" {
				return fmt.Errorf("the labels of the pool are %v: %w", pool.Labels, err)
			}
			return nil
		})
		if after := time.Since(begin); after > 10*time.Second {
			t.Errorf("the zone %q is mended after %s", zone, after)
		}
	}
}
