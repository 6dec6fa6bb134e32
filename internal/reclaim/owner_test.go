package reclaim

import (
	"testing"

	"spiderpool.dev/spiderpool/internal/lease"
)

func TestOwnerOfStatefulSetPod(t *testing.T) {
	find := func(name string) (first, end int, exists bool) { return 2, 4, name == "web" }
	for pod, want := range map[string]Owner{
		"web-1": OwnerScaledDown, "web-2": OwnerWanted, "web-3": OwnerWanted, "web-4": OwnerScaledDown,
		"db-2": OwnerGone, "web": OwnerGone, "web-02": OwnerGone,
	} {
		if got := StatefulSetPod(lease.Owner{Kind: lease.KindPod, Namespace: "shop", Name: pod}, find); got != want {
			t.Errorf("%s: %v, want %v", pod, got, want)
		}
	}
}
