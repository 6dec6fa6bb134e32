package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

// readCounter counts live reads of pools.
type readCounter struct {
	ipam.Pools
	reads atomic.Int64
}

func (c *readCounter) Get(ctx context.Context, name string) (*pool.Pool, error) {
	c.reads.Add(1)
	return c.Pools.Get(ctx, name)
}

// A tenant writes up to 256 KiB of annotations (TotalAnnotationSizeLimitB of
// Kubernetes). Neither addresses nor work may grow with them.
func TestAnnotationsOfTenantAreBounded(t *testing.T) {
	const networks, pools = "k8s.v1.cni.cncf.io/networks", "ipam.spidernet.io/ippool"
	var unknown []string
	for i := range 32000 {
		unknown = append(unknown, fmt.Sprintf("%q", fmt.Sprintf("%05x", i)))
	}
	list := func(n int) string { return `{"ipv4":[` + strings.Join(unknown[:n], ",") + `]}` }
	for _, tc := range []struct {
		name, annotation, value string
		want                    string // part of the error, or "" for none
		leases                  int
	}{
		{"64 interfaces", networks, strings.Repeat("n,", 62) + "n", "", 64},
		{"65 interfaces", networks, strings.Repeat("n,", 63) + "n", "asks for 64 interfaces besides eth0; ask for at most 63", 0},
		{"8000 interfaces", networks, strings.Repeat("n,", 7999) + "n", "ask for at most 63", 0},
		{"long interface name", networks, "n@" + strings.Repeat("x", 250000), "is longer than 15 bytes", 0},
		{"32000 pools", pools, list(32000), "ipv4 has 32000 names; write at most 1024", 0},
		{"1024 unknown pools", pools, list(1024), "no such SpiderIPPool; and 924 more", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cluster := ipamtest.NewFakeCluster(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
			t.Cleanup(cluster.Close)
			cluster.SetPool(rangePool(t, "p", "10.0.0.0/16", "10.0.1.0-10.0.8.255"), true)
			cluster.SetNetwork(pool.NetworkAttachment{Namespace: "default", Name: "n"}, ipam.Network{IPAM: true, Name: "n"})
			s := cluster.Service("n1")
			counter := &readCounter{Pools: s.Catalog.Pools}
			s.Catalog.Pools = counter
			cluster.SetPod(ipamtest.FakePod{Node: "n1", Pod: ipam.Pod{
				PodKey: lease.PodKey{Namespace: "default", Name: "e"}, UID: "uid-e", Annotations: map[string]string{tc.annotation: tc.value},
			}})
			_, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("e")})
			var failure *ipam.Error
			if tc.want == "" && err != nil || tc.want != "" && (!errors.As(err, &failure) || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %.300v, want %q", err, tc.want)
			}
			if failure != nil && len(failure.Error()) > 10000 {
				t.Errorf("the error has %d bytes", len(failure.Error()))
			}
			if n := len(held(t, cluster.Store)); n != tc.leases {
				t.Errorf("the pod has %d addresses, want %d", n, tc.leases)
			}
			if n := counter.reads.Load(); n > 100 {
				t.Errorf("%d reads of pools", n)
			}
		})
	}
}

func (c *readCounter) List(ctx context.Context, limit int) ([]*pool.Pool, error) {
	c.reads.Add(1)
	return c.Pools.List(ctx, limit)
}

func TestPoolsOfConfigurationAreBounded(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	req := wire.AddRequest{Attachment: attachment("a"), DefaultIPv4Pools: slices.Repeat([]string{"p*"}, 17)}
	_, err := cluster.Service("n1").Add(t.Context(), req)
	var failure *ipam.Error
	if !errors.As(err, &failure) || failure.Kind != ipam.Invalid || !strings.Contains(err.Error(), "default_ipv4_ippool has more than 16 names with wildcards") {
		t.Errorf("got %v", err)
	}
}

// Each of 63 interfaces names other unknown pools, besides one that exists.
func TestReadsOfPodAreBounded(t *testing.T) {
	for name, ips := range map[string]string{"pools with addresses": "10.0.1.0-10.0.1.255", "exhausted pools": "10.0.1.0-10.0.1.7"} {
		t.Run(name, func(t *testing.T) {
			cluster := ipamtest.NewFakeCluster(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
			t.Cleanup(cluster.Close)
			cluster.SetPool(rangePool(t, "p", "10.0.0.0/16", ips), true)
			cluster.SetNetwork(pool.NetworkAttachment{Namespace: "default", Name: "n"}, ipam.Network{IPAM: true, Name: "n"})
			s := cluster.Service("n1")
			counter := &readCounter{Pools: s.Catalog.Pools}
			s.Catalog.Pools = counter
			var entries []string
			for i := range 64 {
				names := []string{`"p"`}
				for k := range 15 {
					names = append(names, fmt.Sprintf(`"unknown-%d-%d"`, i, k))
				}
				entries = append(entries, `{"ipv4":[`+strings.Join(names, ",")+`]}`)
			}
			cluster.SetPod(ipamtest.FakePod{Node: "n1", Pod: ipam.Pod{
				PodKey: lease.PodKey{Namespace: "default", Name: "e"}, UID: "uid-e", Annotations: map[string]string{
					"k8s.v1.cni.cncf.io/networks": strings.Repeat("n,", 62) + "n",
					"ipam.spidernet.io/ippools":   "[" + strings.Join(entries, ",") + "]",
				},
			}})
			_, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("e")})
			if (err != nil) != (name == "exhausted pools") {
				t.Errorf("got %.300v", err)
			}
			if n := counter.reads.Load(); n > 100 {
				t.Errorf("%d reads of pools", n)
			}
		})
	}
}
