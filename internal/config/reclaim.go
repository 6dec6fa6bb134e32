package config

import (
	"time"

	"spiderpool.dev/spiderpool/internal/reclaim"
)

// ReclaimPolicy returns the rules of reclaim, for agents and controller alike.
func (c IPAM) ReclaimPolicy() reclaim.Policy {
	return reclaim.Policy{
		Enabled:                  c.GC.Enabled,
		ZombieOnReadyNode:        c.GC.Pods.ZombieOnReadyNode,
		ZombieOnNotReadyNode:     c.GC.Pods.ZombieOnNotReadyNode,
		RunningPodWithoutAddress: c.GC.Pods.RunningPodOnEmptyPodStatusIPs,
		TerminatingDelay:         time.Duration(c.GC.GCDeletingTimeOutPodDelay) * time.Second,
		FixedForStatefulSet:      c.EnableStatefulSet,
		FixedForKubeVirt:         c.EnableKubevirtStaticIP,
		MinAge:                   reclaim.DefaultMinAge,
		ScaledDownRetention:      reclaim.DefaultScaledDownRetention,
	}
}
