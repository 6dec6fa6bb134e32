package poolindex

import (
	"fmt"
	"net/netip"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
)

// BenchmarkTaken has four pools in each subnet, with one gateway, and a node beside
// them.
func BenchmarkTaken(b *testing.B) {
	for _, pools := range []int{200, 20000} {
		b.Run(fmt.Sprint(pools), func(b *testing.B) {
			x := New()
			var nodes []netip.Addr
			for i := range pools {
				network := fmt.Sprintf("10.%d.%d.", i>>10, i>>2&255)
				p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}}
				p.Spec.Subnet, p.Spec.Gateway = network+"0/24", new(network+"1")
				p.Spec.IPs = []string{fmt.Sprintf("%s%d-%s%d", network, 16+i%4*16, network, 31+i%4*16)}
				x.SetPool(p)
				nodes = append(nodes, netip.MustParseAddr(network+"9"))
			}
			set := inet.OfAddrs(nodes...)
			for b.Loop() {
				if taken := x.Taken(set); !taken.IsEmpty() {
					b.Fatal(taken)
				}
			}
		})
	}
}
