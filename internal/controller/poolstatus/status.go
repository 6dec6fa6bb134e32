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
	// maxAllocatedIPs limits status.allocatedIPs, in bytes. etcd accepts objects up to
	// 1.5 MiB by default. About 10,000 addresses fit.
	maxAllocatedIPs = 1 << 20
	// conditionTruncated is true if status.allocatedIPs does not list every address.
	conditionTruncated = "AllocatedIPsTruncated"
)

// allocation is an entry of status.allocatedIPs.
type allocation struct {
	Pod    string `json:"pod"`
	PodUID string `json:"podUid"`
}

// SetStatus sets the counts and the addresses in the status of the pool. The leases
// are all its leases in use or retained, reserved the addresses of all
// SpiderReservedIPs. It returns the length of status.allocatedIPs in bytes.
func SetStatus(pool *v2beta1.SpiderIPPool, reserved inet.Set, leases []lease.Lease) int {
	total, free := int64(0), int64(0)
	if compiled, errs := compile.Pool(pool); len(errs) == 0 {
		usable := compiled.Usable(reserved)
		total = usable.Count()
		free = total
		for _, l := range leases {
			if usable.Contains(l.Addr) {
				free--
			}
		}
	}
	text, named := allocatedIPs(leases)
	pool.Status.TotalIPCount, pool.Status.FreeIPCount = &total, &free
	pool.Status.AllocatedIPCount = new(int64(len(leases)))
	pool.Status.AllocatedIPs = text
	if named < len(leases) {
		meta.SetStatusCondition(&pool.Status.Conditions, metav1.Condition{
			Type: conditionTruncated, Status: metav1.ConditionTrue, Reason: "TooMany", ObservedGeneration: pool.Generation,
			Message: "status.allocatedIPs has no room for all addresses; kubectl get spideripblocks shows every lease",
		})
	} else {
		meta.RemoveStatusCondition(&pool.Status.Conditions, conditionTruncated)
	}
	if text == nil {
		return 0
	}
	return len(*text)
}

// allocatedIPs returns a JSON object with the leases by address, e.g.
// {"10.0.0.1":{"pod":"default/web","podUid":"…"}}, and their number. If not all fit,
// it contains the lowest addresses.
func allocatedIPs(leases []lease.Lease) (text *string, named int) {
	if len(leases) == 0 {
		return nil, 0
	}
	sorted := slices.SortedFunc(slices.Values(leases), func(a, b lease.Lease) int { return a.Addr.Compare(b.Addr) })
	var out strings.Builder
	out.WriteByte('{')
	for i, l := range sorted {
		value, err := json.Marshal(allocation{Pod: l.Pod.String(), PodUID: l.PodUID})
		if err != nil {
			continue // impossible: two strings always encode
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

// holdersNamed is the number of holders in a message.
const holdersNamed = 5

// holders lists the holders of leases, e.g. "1 lease: default/web (10.0.0.1)".
func holders(leases []lease.Lease) string {
	sorted := slices.SortedFunc(slices.Values(leases), func(a, b lease.Lease) int {
		return cmp.Or(cmp.Compare(a.Pod.String(), b.Pod.String()), a.Addr.Compare(b.Addr))
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
