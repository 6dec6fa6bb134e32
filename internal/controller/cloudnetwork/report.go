package cloudnetwork

import (
	"context"
	"fmt"
	"math"
	"strings"

	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

// faultsNamed is the number of faults in the message of the condition.
const faultsNamed = 5

// report writes the status. in is nil if the cluster was not read.
func (r *Reconciler) report(ctx context.Context, network *v2beta1.SpiderCloudNetwork, in *input, faults []cloud.Issue) error {
	before := network.DeepCopy()
	if in != nil {
		count(network, in)
	}
	_, err := r.status.Update(ctx, network, before, ready(faults))
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
	var texts []string
	for _, f := range faults[:min(len(faults), faultsNamed)] {
		texts = append(texts, f.Text)
	}
	if more := len(faults) - len(texts); more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return status.Condition{Reason: string(faults[0].Reason), Message: strings.Join(texts, "; ")}
}
