package view

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

// TestCapacityOfManyNodes has nodes with a pool each, and as many without. Only maxExplained of these are compared with all pools.
func TestCapacityOfManyNodes(t *testing.T) {
	const nodes = 2 * maxExplained
	network := pool.NetworkAttachment{Namespace: "kube-system", Name: "ipvlan"}
	q := CapacityQuestion{Pods: 1, Like: PodQuestion{
		Name: lease.PodKey{Namespace: "shop", Name: "web-0"}, Families: []inet.Family{4}, Cluster: pool.ClusterNetwork{Default: network},
		Network: func(pool.NetworkAttachment) (ipam.Network, error) {
			return ipam.Network{IPAM: true, Pools: pool.Names{IPv4: []string{"pool-*"}}}, nil
		},
	}}
	var objects Objects
	for i := range nodes {
		with, without := fmt.Sprintf("a-%d", i), fmt.Sprintf("b-%d", i)
		p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pool-%d", i)}}
		p.Spec.Subnet, p.Spec.IPs, p.Spec.NodeName = "10.6.0.0/16", []string{fmt.Sprintf("10.6.%d.1-10.6.%d.3", i, i)}, []string{with}
		objects.Pools = append(objects.Pools, p)
		for _, name := range []string{with, without} {
			q.Nodes = append(q.Nodes, CandidateNode{NodeFacts: pool.NodeFacts{Name: name}, Room: 110, Limit: 110})
		}
	}
	c, err := NewState(objects, now).Capacity(q)
	if err != nil || len(c.Findings) > 0 {
		t.Fatal(err, c.Findings)
	}
	explained := 0
	for _, node := range c.Nodes {
		want, stop := int64(0), errUnexplained.Error()
		if strings.HasPrefix(node.Node, "a-") {
			want, stop = 3, "is full"
		} else if explained < maxExplained {
			explained++
			stop = "pool-0: " // the first of the rejected pools
		}
		if node.Pods != want || !strings.Contains(node.Stop, stop) {
			t.Errorf("%s: %d pods until %q, want %d until %q", node.Node, node.Pods, node.Stop, want, stop)
		}
	}
	if c.Total != 3*nodes {
		t.Errorf("%d pods in all, want %d", c.Total, 3*nodes)
	}
}
