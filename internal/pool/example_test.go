package pool_test

import (
	"fmt"
	"net/netip"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/pool"
)

func ExampleSelect() {
	catalog := pool.NewCatalog()
	for _, node := range []string{"master", "worker1"} {
		ips, _ := inet.Parse([]string{"172.31.28.16-172.31.28.31"}, inet.Bounds{})
		catalog.Set(&pool.Pool{
			Name: node + "-v4", Family: inet.IPv4, Subnet: netip.MustParsePrefix("172.31.16.0/20"), IPs: ips,
			NodeNames: []string{node}, Default: true,
		})
	}
	request := &pool.Request{
		Interface: "eth0",
		Pod:       pool.PodFacts{Namespace: "default", Name: "web"},
		Namespace: pool.NamespaceFacts{Name: "default"},
		Node:      pool.NodeFacts{Name: "master"},
	}
	selection, _ := pool.Select(catalog, request, inet.IPv4)
	fmt.Println(selection.Names())
	fmt.Println(pool.FormatRejections(selection.Rejections))
	// Output:
	// [master-v4]
	// worker1-v4: spec.nodeName [worker1] does not include the pod's node master
}
