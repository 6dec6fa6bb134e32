package cloudnetwork

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

// faultsNamed is the number of faults in the message of a condition.
const faultsNamed = 5

// degrading returns faults that only degrade the network, unless one of the others does more: these faults may be its cause.
func degrading(faults, others []cloud.Issue) []cloud.Issue {
	if slices.ContainsFunc(others, func(other cloud.Issue) bool { return !other.Degrades }) {
		return faults
	}
	faults = slices.Clone(faults)
	for i := range faults {
		faults[i].Degrades = true
	}
	return faults
}

// report writes the status. in is nil if the cluster was not read.
func (r *Reconciler) report(ctx context.Context, network *v2beta1.SpiderCloudNetwork, in *input, faults []cloud.Issue) error {
	before := network.DeepCopy()
	if in != nil {
		count(network, in)
	}
	var severe, minor []cloud.Issue
	for _, f := range faults {
		if f.Degrades {
			minor = append(minor, f)
		} else {
			severe = append(severe, f)
		}
	}
	degraded := degradedBy(minor)
	if in == nil {
		degraded.Status, degraded.Reason, degraded.Message = metav1.ConditionUnknown, "NotChecked", "the condition Ready says why the controller did not look"
	}
	_, err := r.status.Update(ctx, network, before, ready(severe), degraded)
	return err
}

// count sets the counters in the status.
func count(network *v2beta1.SpiderCloudNetwork, in *input) {
	nodes := map[string]bool{}
	free := map[int64]int64{4: 0, 6: 0}
	for _, pool := range in.pools {
		for _, node := range pool.Spec.NodeName {
			nodes[node] = true
		}
		version, n := ptr.Deref(pool.Spec.IPVersion, 4), ptr.Deref(pool.Status.FreeIPCount, 0)
		free[version] += min(n, math.MaxInt64-free[version])
	}
	s := &network.Status
	s.NodeCount, s.PoolCount = new(int64(len(nodes))), new(int64(len(in.pools)))
	s.FreeIPv4Count, s.FreeIPv6Count = new(free[4]), new(free[6])
}

// ready decides the condition Ready. The first fault gives the reason.
func ready(faults []cloud.Issue) status.Condition {
	if len(faults) == 0 {
		return status.Condition{OK: true, Reason: "PoolsUpToDate", Message: "the pools equal the cloud"}
	}
	return status.Condition{Reason: string(faults[0].Reason), Message: textOfFaults(faults)}
}

// degradedBy decides the condition Degraded in the same way, from faults that stop no pool (cloud.Issue.Degrades).
func degradedBy(faults []cloud.Issue) metav1.Condition {
	if len(faults) == 0 {
		return metav1.Condition{Type: status.ConditionDegraded, Status: metav1.ConditionFalse, Reason: "AsExpected", Message: "nothing stops growth and returns, and no fixed address is at risk"}
	}
	return metav1.Condition{Type: status.ConditionDegraded, Status: metav1.ConditionTrue, Reason: string(faults[0].Reason), Message: textOfFaults(faults)}
}

// textOfFaults names the first faults.
func textOfFaults(faults []cloud.Issue) string {
	var texts []string
	for _, f := range faults[:min(len(faults), faultsNamed)] {
		texts = append(texts, f.Text)
	}
	if more := len(faults) - len(texts); more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, "; ")
}
