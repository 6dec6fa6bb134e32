package leasereclaim

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// forceWord asks for a release in spite of the owner of the address.
const forceWord = "force"

// request is the request of a user to release an address (names.AnnotationReleaseAddress); nil
// is none. Each write of a block removes the annotation, so the request concerns the leases that
// the user saw.
type request struct {
	addr netip.Addr // invalid if the annotation is
	kind reclaim.Request
	text string
}

// releaseAsked returns the request in a block.
func releaseAsked(object *v2beta1.SpiderIPBlock) *request {
	text, ok := object.Annotations[names.AnnotationReleaseAddress]
	if !ok {
		return nil
	}
	r := &request{text: text, kind: reclaim.Unneeded}
	words := strings.Fields(text)
	if len(words) == 2 && words[1] == forceWord {
		words, r.kind = words[:1], reclaim.Forced
	}
	if len(words) == 1 {
		r.addr, _ = netip.ParseAddr(words[0])
	}
	return r
}

// addTo adds the request to the facts about its address.
func (r *request) addTo(facts func(lease.Lease) reclaim.Facts) func(lease.Lease) reclaim.Facts {
	return func(l lease.Lease) reclaim.Facts {
		f := facts(l)
		if r != nil && l.Addr == r.addr {
			f.Request = r.kind
		}
		return f
	}
}

// pod returns the pod with the address for the event: events about a block with different pods stay apart. It returns
// nil without a pod.
func (r *request) pod(block lease.Block) runtime.Object {
	if l, ok := block.Lease(r.addr); ok && l.Pod != (lease.PodKey{}) {
		return podOf(l)
	}
	return nil
}

// refusal returns why none of the changes is the wanted release, "" if one is or no user asks.
func (r *request) refusal(block lease.Block, changes []reclaim.Change, facts func(lease.Lease) reclaim.Facts, policy reclaim.Policy) string {
	switch {
	case r == nil:
		return ""
	case !r.addr.IsValid():
		return fmt.Sprintf("annotation %s: %q is no address; write e.g. \"10.6.0.5\" or \"10.6.0.5 %s\"", names.AnnotationReleaseAddress, r.text, forceWord)
	case slices.ContainsFunc(changes, func(c reclaim.Change) bool { return c.Lease.Addr == r.addr }):
		return ""
	}
	l, ok := block.Lease(r.addr)
	if !ok {
		return fmt.Sprintf("%s has no lease in this block", r.addr)
	}
	f := facts(l)
	if l.State == lease.InUse && f.Node.Presence == reclaim.Exists && !f.Node.OutOfService {
		return fmt.Sprintf("%s is not released: pod %s may use it, and only the agent of node %s can prove the end of sandbox %s; it then frees the address by itself",
			r.addr, l.Pod, l.Node, l.ContainerID)
	}
	return fmt.Sprintf("%s is not released: %s", r.addr, reclaim.Judge(l, f, policy).Message)
}
