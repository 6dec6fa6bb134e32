package compile

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

const (
	// conditionReady is the condition that our controller writes to every pool.
	conditionReady = "Ready"
	// ReasonForeign is the reason of the condition Ready of a pool with ForeignAllocations.
	ReasonForeign = "ForeignAllocations"
)

// ForeignAllocations describes the addresses in use in a status that another program
// wrote, such as Spiderpool 1.2, e.g. "2 addresses, e.g. 10.0.0.1 of pod default/web".
// It returns "" if there are none.
//
// In our releases the status is a view of the SpiderIPBlocks. In others it is the only
// record of the addresses, in the same format. We tell them apart by the condition
// Ready, which our controller writes together with the addresses: others have no
// conditions, and drop ours when they write the status. In doubt it is foreign.
func ForeignAllocations(status *v2beta1.SpiderIPPoolStatus) string {
	if IsOurStatus(status) {
		return ""
	}
	count := ptr.Deref(status.AllocatedIPCount, 0)
	text := ptr.Deref(status.AllocatedIPs, "")
	var holders map[string]struct{ Pod string }
	if err := json.Unmarshal([]byte(text), &holders); err != nil && text != "" {
		return fmt.Sprintf("%d addresses, in an unknown format", max(count, 1))
	}
	if len(holders) == 0 {
		if count > 0 {
			return fmt.Sprintf("%d addresses", count)
		}
		return ""
	}
	first := slices.Min(slices.Collect(maps.Keys(holders)))
	return fmt.Sprintf("%d addresses, e.g. %.40s of pod %.320s", max(count, int64(len(holders))), first, holders[first].Pod)
}

// DescribeForeign returns a text for each pool with ForeignAllocations, e.g. "SpiderIPPool blue has 2 addresses, e.g. …".
// There are at most limit texts.
func DescribeForeign(pools []*v2beta1.SpiderIPPool, limit int) (foreign []string) {
	for _, pool := range pools {
		if text := ForeignAllocations(&pool.Status); text != "" && len(foreign) < limit {
			foreign = append(foreign, fmt.Sprintf("SpiderIPPool %s has %s", pool.Name, text))
		}
	}
	return foreign
}

// IsOurStatus reports whether our controller wrote the addresses of the status.
func IsOurStatus(status *v2beta1.SpiderIPPoolStatus) bool {
	ready := meta.FindStatusCondition(status.Conditions, conditionReady)
	return ready != nil && ready.Reason != ReasonForeign
}
