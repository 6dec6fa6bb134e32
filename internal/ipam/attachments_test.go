package ipam_test

import (
	"fmt"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/pool"
)

func TestAttachmentsComeFromBoundPools(t *testing.T) {
	named := rangePool(t, "named", "10.0.0.0/24", "10.0.0.1")
	named.NodeNames, named.MultusNames = []string{"a", "b"}, []string{"kube-system/x", "anywhere"}
	selected := rangePool(t, "selected", "10.0.1.0/24", "10.0.1.1")
	selected.NodeAffinity, selected.MultusNames = &pool.Selector{MatchLabels: map[string]string{"zone": "1"}}, []string{"kube-system/w", "kube-system/x"}
	everywhere := rangePool(t, "everywhere", "10.0.2.0/24", "10.0.2.1")
	everywhere.MultusNames = []string{"kube-system/y"}
	elsewhere := rangePool(t, "elsewhere", "10.0.3.0/24", "10.0.3.1")
	elsewhere.NodeNames, elsewhere.MultusNames = []string{"c"}, []string{"kube-system/z"}
	c := ipam.NewPoolCatalog(nil, time.Now, func(string, inet.Set) {})
	for _, p := range []*pool.Pool{named, selected, everywhere, elsewhere} {
		c.SetPool(p)
	}
	got := c.Attachments(pool.NodeFacts{Name: "a", Labels: map[string]string{"zone": "1"}})
	if fmt.Sprint(got) != "[kube-system/w kube-system/x]" {
		t.Errorf("got %v", got)
	}
}
