package config

import (
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/reclaim"
)

func TestEachSwitchChangesOnePolicyField(t *testing.T) {
	for name, tc := range map[string]struct {
		text   string
		change func(*reclaim.Policy)
	}{
		"defaults": {"", func(*reclaim.Policy) {}},
		"ipam.gc.enabled": {"ipam: {gc: {enabled: false}}",
			func(p *reclaim.Policy) { p.Enabled = false }},
		"ipam.gc.statelessPod.zombieOnReadyNode": {"ipam: {gc: {statelessPod: {zombieOnReadyNode: false}}}",
			func(p *reclaim.Policy) { p.ZombieOnReadyNode = false }},
		"ipam.gc.statelessPod.zombieOnNotReadyNode": {"ipam: {gc: {statelessPod: {zombieOnNotReadyNode: false}}}",
			func(p *reclaim.Policy) { p.ZombieOnNotReadyNode = false }},
		"ipam.gc.statelessPod.enableGcRunningPodOnEmptyPodStatusIPs": {"ipam: {gc: {statelessPod: {enableGcRunningPodOnEmptyPodStatusIPs: true}}}",
			func(p *reclaim.Policy) { p.RunningPodWithoutAddress = true }},
		"ipam.gc.gcDeletingTimeOutPodDelay": {"ipam: {gc: {gcDeletingTimeOutPodDelay: 90}}",
			func(p *reclaim.Policy) { p.TerminatingDelay = 90 * time.Second }},
		"ipam.enableStatefulSet": {"ipam: {enableStatefulSet: false}",
			func(p *reclaim.Policy) { p.FixedForStatefulSet = false }},
		"ipam.enableKubevirtStaticIP": {"ipam: {enableKubevirtStaticIP: false}",
			func(p *reclaim.Policy) { p.FixedForKubeVirt = false }},
		"the interval of the scan": {"ipam: {gc: {gcAll: {intervalInSecond: 60}}}", func(*reclaim.Policy) {}},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := Parse([]byte(header + tc.text))
			if err != nil {
				t.Fatal(err)
			}
			want := reclaim.Policy{
				Enabled: true, ZombieOnReadyNode: true, ZombieOnNotReadyNode: true,
				FixedForStatefulSet: true, FixedForKubeVirt: true,
				MinAge: reclaim.DefaultMinAge, ScaledDownRetention: reclaim.DefaultScaledDownRetention,
			}
			tc.change(&want)
			if got := file.IPAM.ReclaimPolicy(); got != want {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
}
