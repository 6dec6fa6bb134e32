package admission

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/lease"
)

// indexer adds indexes to a fake client before it is built.
type indexer struct{ *fake.ClientBuilder }

func (x indexer) IndexField(_ context.Context, o client.Object, field string, values client.IndexerFunc) error {
	x.WithIndex(o, field, values)
	return nil
}

// cacheOf returns a client with the objects and the indexes of the webhooks' cache.
func cacheOf(t *testing.T, objects ...client.Object) client.WithWatch {
	t.Helper()
	b := fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(objects...)
	if err := errors.Join(blockindex.IndexBlocksByPool(t.Context(), indexer{b}), indexOffers(t.Context(), indexer{b})); err != nil {
		t.Fatal(err)
	}
	return b.Build()
}

var errRead = errors.New("the cache does not answer")

// unreadable returns a cache that fails reads of the kind.
func unreadable(t *testing.T, kind any, objects ...client.Object) client.Reader {
	t.Helper()
	same := func(o any) bool { return fmt.Sprintf("%T", o) == fmt.Sprintf("%T", kind) }
	return interceptor.NewClient(cacheOf(t, objects...), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if same(list) {
				return errRead
			}
			return c.List(ctx, list, options...)
		},
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
			if same(o) {
				return errRead
			}
			return c.Get(ctx, key, o, options...)
		},
	})
}

// result checks the answer of a webhook: want is a part of the error, or "" for none.
func result(t *testing.T, warnings admission.Warnings, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("rejected: %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("error is %v, want %s", err, want)
	case len(warnings) > 0:
		t.Errorf("warnings are %q", warnings)
	}
}

func poolOf(name, subnet string, ips ...string) *v2beta1.SpiderIPPool {
	return &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: subnet, IPs: ips}}}
}

// leased returns a block with one lease of the pool for each address, all in one block.
func leased(pool string, addrs ...string) *v2beta1.SpiderIPBlock {
	block := lease.Block{Node: "n1"}
	for _, text := range addrs {
		addr := netip.MustParseAddr(text)
		base := addr.As4()
		base[3] &^= 15
		block.Base = netip.AddrFrom4(base)
		block.Leases = append(block.Leases, lease.Lease{
			Addr: addr, State: lease.InUse, Pool: pool, Since: time.Unix(1700000000, 0).UTC(),
			Holder: lease.Holder{
				Pod: lease.ParsePodKey("default/pod-" + text), PodUID: "u", Node: "n1", Attachment: lease.Attachment{ContainerID: "c" + text, Interface: "eth0"},
			},
		})
	}
	return compile.BlockObject(block)
}

// indexed returns an index of the pools.
func indexed(pools ...*v2beta1.SpiderIPPool) *poolindex.Index {
	x := poolindex.New()
	for _, p := range pools {
		x.SetPool(p)
	}
	return x
}

func TestNewPoolsAreValidated(t *testing.T) {
	other := poolOf("other", "10.1.0.0/24", "10.1.0.10-10.1.0.20")
	w := &pools{reader: cacheOf(t), index: indexed(other)}
	for _, tc := range []struct {
		name string
		pool *v2beta1.SpiderIPPool
		want string
	}{
		{"disjoint addresses", poolOf("a", "10.1.0.0/24", "10.1.0.21-10.1.0.30"), ""},
		{"invalid", poolOf("a", "10.0.0.0/24", "10.0.0.9-10.0.0.5"), "spec.ips[0]: Invalid value: \"10.0.0.9-10.0.0.5\": is inverted"},
		{"shared addresses", poolOf("a", "10.1.0.0/24", "10.1.0.1-10.1.0.11"),
			"spec.ips: Invalid value: \"10.1.0.1-10.1.0.11\": shares 10.1.0.10-10.1.0.11 with SpiderIPPool other"},
		{"link-local without a gateway", poolOf("a", "169.254.0.0/16", "169.254.0.9"), ""},
		{"link-local with a gateway", func() *v2beta1.SpiderIPPool {
			p := poolOf("a", "169.254.0.0/16", "169.254.0.9")
			p.Spec.Gateway = new("169.254.0.1")
			return p
		}(), "spec.subnet: Invalid value: \"169.254.0.0/16\": is link-local, and no router forwards its packets"},
		{"other subnet", poolOf("a", "10.1.0.0/16", "10.1.9.1"), "spec.subnet: Invalid value: \"10.1.0.0/16\": 10.1.0.0/16 overlaps"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			warnings, err := w.ValidateCreate(t.Context(), tc.pool)
			result(t, warnings, err, tc.want)
		})
	}
}

func TestPoolUpdatesAreValidated(t *testing.T) {
	other := poolOf("other", "10.1.0.0/24", "10.1.0.15-10.1.0.30")
	before := poolOf("a", "10.1.0.0/24", "10.1.0.10-10.1.0.20") // shares 15 to 20 with other
	type change = func(*v2beta1.SpiderIPPool)
	ips := func(ips ...string) change { return func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = ips } }
	gateway := func(addr string) change { return func(p *v2beta1.SpiderIPPool) { p.Spec.Gateway = &addr } }
	const lacks = "spec.ips: Invalid value: \"10.1.0.14-10.1.0.20\": lacks addresses in use: 10.1.0.12 of default/pod-10.1.0.12; keep them in ips"
	for _, tc := range []struct {
		name   string
		change change
		want   string
	}{
		{"nothing", func(*v2beta1.SpiderIPPool) {}, ""},
		{"other spelling", func(p *v2beta1.SpiderIPPool) { compile.CanonicalizePool(p); compile.CompletePool(p) }, ""},
		{"disable", func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = new(true) }, ""},
		{"invalid", ips("10.9.9.9"), "spec.ips[0]"},
		{"invalid, being deleted", func(p *v2beta1.SpiderIPPool) {
			p.Spec.IPs, p.DeletionTimestamp = []string{"10.9.9.9"}, new(metav1.Now())
		}, ""},
		{"other subnet", func(p *v2beta1.SpiderIPPool) { p.Spec.Subnet, p.Spec.IPs = "10.2.0.0/24", []string{"10.2.0.1"} },
			"spec.subnet: Invalid value: \"10.2.0.0/24\": differs from the subnet 10.1.0.0/24 of this pool"},
		{"former conflict shrinks", ips("10.1.0.10-10.1.0.19"), ""},
		{"former conflict grows", ips("10.1.0.10-10.1.0.21"), "shares 10.1.0.15-10.1.0.21 with SpiderIPPool other"},
		{"address in use removed", ips("10.1.0.14-10.1.0.20"), lacks},
		{"free address removed", ips("10.1.0.11-10.1.0.20"), ""},
		{"gateway in use", gateway("10.1.0.12"), "spec.gateway: Invalid value: \"10.1.0.12\": is an address in use: 10.1.0.12 of default/pod-10.1.0.12"},
		{"free gateway", gateway("10.1.0.11"), ""},
		{"next hop in use", func(p *v2beta1.SpiderIPPool) {
			p.Spec.Routes = v2beta1.Routes{{Dst: "10.9.0.0/16", Gw: "10.1.0.11"}, {Dst: "10.8.0.0/16", Gw: "10.1.0.12"}}
		}, "spec.routes[1].gw: Invalid value: \"10.1.0.12\": is an address in use: 10.1.0.12 of default/pod-10.1.0.12"},
		{"address in use excluded", func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"10.1.0.12"} },
			"spec.excludeIPs: Invalid value: \"10.1.0.12\": has addresses in use: 10.1.0.12 of default/pod-10.1.0.12; remove them from excludeIPs and put them into a SpiderReservedIP"},
		{"free address excluded", func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"10.1.0.13"} }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := &pools{reader: cacheOf(t, leased("a", "10.1.0.12")), index: indexed(other, before)}
			after := before.DeepCopy()
			tc.change(after)
			warnings, err := w.ValidateUpdate(t.Context(), before, after)
			result(t, warnings, err, tc.want)
		})
	}
}

func TestGatewayIsNoPodsAddress(t *testing.T) {
	w := &pools{reader: cacheOf(t, leased("other", "10.1.0.12")), index: indexed()}
	for gateway, want := range map[string]string{
		"10.1.0.12": "spec.gateway: Invalid value: \"10.1.0.12\": is an address in use: 10.1.0.12 of default/pod-10.1.0.12; choose another gateway",
		"10.1.0.11": "", "10.1.0.77": "",
	} {
		p := poolOf("a", "10.1.0.0/24", "10.1.0.20")
		p.Spec.Gateway = &gateway
		warnings, err := w.ValidateCreate(t.Context(), p)
		result(t, warnings, err, want)
		warnings, err = w.ValidateUpdate(t.Context(), poolOf("a", "10.1.0.0/24", "10.1.0.20"), p)
		result(t, warnings, err, want)
	}
	p := poolOf("a", "10.1.0.0/24", "10.1.0.20")
	p.Spec.Gateway = new("10.1.0.12")
	unread := &pools{reader: unreadable(t, &v2beta1.SpiderIPBlock{}), index: indexed()}
	if _, err := unread.ValidateCreate(t.Context(), p); !errors.Is(err, errRead) {
		t.Errorf("create: %v", err)
	}
}

// The rule against routers of link-local subnets is new, so an old pool keeps its own.
func TestLinkLocalPoolKeepsItsGateway(t *testing.T) {
	before := poolOf("a", "169.254.0.0/16", "169.254.0.9")
	before.Spec.Gateway = new("169.254.0.1")
	after := before.DeepCopy()
	after.Spec.IPs = []string{"169.254.0.9-169.254.0.10"}
	warnings, err := (&pools{reader: cacheOf(t), index: indexed(before)}).ValidateUpdate(t.Context(), before, after)
	result(t, warnings, err, "")
}

func TestInvalidPoolsMayBecomeAnything(t *testing.T) {
	w := &pools{reader: unreadable(t, &v2beta1.SpiderIPBlockList{}), index: indexed(poolOf("other", "10.1.0.0/24", "10.1.0.10"))}
	before := poolOf("a", "10.0.0.0/24", "10.0.0.9-10.0.0.5")
	for _, tc := range []struct {
		name  string
		after *v2beta1.SpiderIPPool
		want  string
	}{
		{"other subnet", poolOf("a", "10.2.0.0/24", "10.2.0.1"), ""},
		{"conflict", poolOf("a", "10.1.0.0/24", "10.1.0.10"), "shares 10.1.0.10 with SpiderIPPool other"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			warnings, err := w.ValidateUpdate(t.Context(), before, tc.after)
			result(t, warnings, err, tc.want)
		})
	}
}

func TestPoolUpdateReportsUnreadableLeases(t *testing.T) {
	w := &pools{reader: unreadable(t, &v2beta1.SpiderIPBlockList{}), index: indexed()}
	before, after := poolOf("a", "10.1.0.0/24", "10.1.0.10-10.1.0.20"), poolOf("a", "10.1.0.0/24", "10.1.0.10")
	if _, err := w.ValidateUpdate(t.Context(), before, after); !errors.Is(err, errRead) {
		t.Errorf("update: %v", err)
	}
	if _, err := w.ValidateDelete(t.Context(), before); !errors.Is(err, errRead) {
		t.Errorf("delete: %v", err)
	}
	after.Spec.IPs = []string{"10.1.0.10-10.1.0.30"}
	if _, err := w.ValidateUpdate(t.Context(), before, after); err != nil {
		t.Errorf("no address removed, but leases were read: %v", err)
	}
}

func TestDeletedPoolWarnsOfHolders(t *testing.T) {
	for _, tc := range []struct {
		name  string
		addrs []string
		want  string
	}{
		{"one", []string{"10.1.0.1"}, ": 10.1.0.1 of default/pod-10.1.0.1"},
		{"five", []string{"10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"}, ", 10.1.0.5 of default/pod-10.1.0.5"},
		{"seven", []string{"10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.7"},
			", 10.1.0.5 of default/pod-10.1.0.5 and 2 more"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := &pools{reader: cacheOf(t, leased("a", tc.addrs...))}
			warnings, err := w.ValidateDelete(t.Context(), poolOf("a", "10.1.0.0/24"))
			if err != nil || len(warnings) != 1 || !strings.HasSuffix(warnings[0], tc.want) {
				t.Errorf("warnings %q, error %v; want one that ends with %s", warnings, err, tc.want)
			}
			warnings, err = w.ValidateDelete(t.Context(), poolOf("b", "10.1.0.0/24"))
			result(t, warnings, err, "")
		})
	}
}

func TestDefaultsSkipDeletedObjects(t *testing.T) {
	ctx, deleted := t.Context(), metav1.Now()
	for _, isDeleted := range []bool{false, true} {
		var at *metav1.Time
		if isDeleted {
			at = &deleted
		}
		p := poolOf("a", "FD00::/64", "fd00::B")
		subnet := &v2beta1.SpiderSubnet{Spec: v2beta1.SpiderSubnetSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "FD00::/64"}}}
		reserved := &v2beta1.SpiderReservedIP{Spec: v2beta1.SpiderReservedIPSpec{IPs: []string{"FD00::B"}}}
		custom := &v2beta1.SpiderMultusConfig{Spec: v2beta1.SpiderMultusConfigSpec{CNIType: new(v2beta1.CNICustom)}}
		other := &v2beta1.SpiderMultusConfig{Spec: v2beta1.SpiderMultusConfigSpec{CNIType: new(v2beta1.CNIMacvlan)}}
		p.DeletionTimestamp, subnet.DeletionTimestamp, reserved.DeletionTimestamp, custom.DeletionTimestamp = at, at, at, at
		err := errors.Join((&pools{}).Default(ctx, p), (&subnets{}).Default(ctx, subnet), (&reservedIPs{}).Default(ctx, reserved),
			(&multusConfigs{}).Default(ctx, custom), (&multusConfigs{}).Default(ctx, other),
			(&multusConfigs{}).Default(ctx, &v2beta1.SpiderMultusConfig{}), (&coordinators{}).Default(ctx, &v2beta1.SpiderCoordinator{}))
		if err != nil {
			t.Fatal(err)
		}
		for what, changed := range map[string]bool{
			"subnet of pool": p.Spec.Subnet == "fd00::/64", "finalizer of pool": len(p.Finalizers) == 1, "subnet": subnet.Spec.Subnet == "fd00::/64",
			"reserved address":              reserved.Spec.IPs[0] == "fd00::b",
			"coordinator of custom network": custom.Spec.EnableCoordinator != nil && !*custom.Spec.EnableCoordinator,
		} {
			if changed == isDeleted {
				t.Errorf("%s: completed %t, deleted %t", what, changed, isDeleted)
			}
		}
		if other.Spec.EnableCoordinator != nil {
			t.Error("the default changed a macvlan network")
		}
	}
}
