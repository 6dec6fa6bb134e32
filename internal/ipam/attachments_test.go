package ipam_test

import (
	"fmt"
	"testing"

	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/pool"
)

func TestAttachmentsOfANodeAreThoseOfPoolsThatAreBoundToIt(t *testing.T) {
	named := rangePool(t, "named", "10.0.0.0/24", "10.0.0.1")
	named.NodeNames, named.MultusNames = []string{"a", "b"}, []string{"kube-system/x", "anywhere"}
	selected := rangePool(t, "selected", "10.0.1.0/24", "10.0.1.1")
	selected.NodeAffinity, selected.MultusNames = &pool.Selector{MatchLabels: map[string]string{"zone": "1"}}, []string{"kube-system/w", "kube-system/x"}
	everywhere := rangePool(t, "everywhere", "10.0.2.0/24", "10.0.2.1")
	everywhere.MultusNames = []string{"kube-system/y"}
	elsewhere := rangePool(t, "elsewhere", "10.0.3.0/24", "10.0.3.1")
	elsewhere.NodeNames, elsewhere.MultusNames = []string{"c"}, []string{"kube-system/z"}
	a := newAllocator(t, "a", &ipamtest.Store{}, named, selected, everywhere, elsewhere)
	t.Cleanup(a.Close)
	got := a.Attachments(pool.NodeFacts{Name: "a", Labels: map[string]string{"zone": "1"}})
	if fmt.Sprint(got) != "[kube-system/w kube-system/x]" {
		t.Errorf("got %v", got)
	}
}
