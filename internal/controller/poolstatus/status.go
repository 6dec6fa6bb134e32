package poolstatus

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"k8s.io/apimachinery/pkg/api/meta"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
)

const (
	// maxAllocatedIPs bounds status.allocatedIPs in bytes. An object can have
	// 1.5 MiB in etcd; about 10,000 addresses fit.
	maxAllocatedIPs = 1 << 20
	// conditionTruncated is true when status.allocatedIPs does not name every address.
	conditionTruncated = "AllocatedIPsTruncated"
)

// allocation is an entry of status.allocatedIPs.
type allocation struct {
	Pod    string `json:"pod"`
	PodUID string `json:"podUid"`
}

// SetStatus sets counts and addresses in the status of the pool to what the leases
// say by which they are held or kept, and returns the length of the addresses' text.
func SetStatus(pool *v2beta1.SpiderIPPool, reserved inet.Set, leases []lease.Lease) int {
	total := int64(0)
	if compiled, errs := compile.Pool(pool); len(errs) == 0 {
		total = compiled.Usable(reserved).Count()
	}
	text, named := allocatedIPs(leases)
	pool.Status.TotalIPCount = &total
	pool.Status.AllocatedIPCount = new(int64(len(leases)))
	pool.Status.AllocatedIPs = text
	if named < len(leases) {
		meta.SetStatusCondition(&pool.Status.Conditions, metav1.Condition{
			Type: conditionTruncated, Status: metav1.ConditionTrue, Reason: "TooMany", ObservedGeneration: pool.Generation,
			Message: "status.allocatedIPs is full; SpiderIPBlocks hold every address",
		})
	} else {
		meta.RemoveStatusCondition(&pool.Status.Conditions, conditionTruncated)
	}
	if text == nil {
		return 0
	}
	return len(*text)
}

// allocatedIPs returns the JSON object of the leases by address, and how many of
// them it has: the lowest addresses, as many as fit.
func allocatedIPs(leases []lease.Lease) (text *string, named int) {
	if len(leases) == 0 {
		return nil, 0
	}
	sorted := slices.SortedFunc(slices.Values(leases), func(a, b lease.Lease) int { return a.Addr.Compare(b.Addr) })
	var out strings.Builder
	out.WriteByte('{')
	for i, l := range sorted {
		value, err := json.Marshal(allocation{Pod: l.Pod, PodUID: l.PodUID})
		if err != nil {
			continue // two strings always encode
		}
		entry := fmt.Sprintf("%q:%s", l.Addr, value)
		if out.Len()+len(entry)+2 > maxAllocatedIPs {
			break
		}
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString(entry)
		named++
	}
	out.WriteByte('}')
	return new(out.String()), named
}

// holdersNamed is how many holders a message names.
const holdersNamed = 5

// holders says in words who holds the leases.
func holders(leases []lease.Lease) string {
	sorted := slices.SortedFunc(slices.Values(leases), func(a, b lease.Lease) int {
		return cmp.Or(cmp.Compare(a.Pod, b.Pod), a.Addr.Compare(b.Addr))
	})
	var names []string
	for _, l := range sorted[:min(len(sorted), holdersNamed)] {
		names = append(names, fmt.Sprintf("%s (%s)", l.Pod, l.Addr))
	}
	text := fmt.Sprintf("%d leases: %s", len(leases), strings.Join(names, ", "))
	if len(leases) == 1 {
		text = "1 lease: " + names[0]
	}
	if more := len(leases) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
