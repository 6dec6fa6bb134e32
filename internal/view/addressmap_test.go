package view

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// mapped is a cluster with each state of an address in pool blue.
func mapped() *State {
	gateway := "10.6.0.1"
	blue := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "blue"}}
	blue.Spec.Subnet, blue.Spec.IPs, blue.Spec.ExcludeIPs, blue.Spec.Gateway = "10.6.0.0/16", []string{"10.6.0.1-10.6.0.12", "10.6.1.0-10.6.9.255"}, []string{"10.6.0.9"}, &gateway
	other := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	second := "10.6.0.11"
	other.Spec.Subnet, other.Spec.IPs, other.Spec.Gateway = "10.6.0.0/16", []string{"10.6.200.1"}, &second
	reserved := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "printer"}}
	reserved.Spec.IPs = []string{"10.6.0.10"}
	block := &v2beta1.SpiderIPBlock{ObjectMeta: metav1.ObjectMeta{Name: "10.6.0.0"}}
	since, until := metav1.NewTime(now.Add(-time.Hour)), metav1.NewTime(now.Add(time.Hour))
	block.Spec = v2beta1.SpiderIPBlockSpec{CIDR: "10.6.0.0/28", Leases: []v2beta1.Lease{
		{IP: "10.6.0.2", State: v2beta1.LeaseInUse, Pool: "blue", Pod: "shop/web-0", PodUID: "u", ContainerID: "c", Interface: "eth0", Node: "n1", Since: since},
		{IP: "10.6.0.3", State: v2beta1.LeaseRetained, Pool: "blue", FixedFor: "Pod/shop/db-0", Since: since},
		{IP: "10.6.0.4", State: v2beta1.LeaseQuarantined, Pool: "blue", Since: since, Until: &until, MAC: "02:00:00:00:00:01"},
		{IP: "10.6.0.5", State: v2beta1.LeaseReleased, Pool: "blue", Since: since},
		{IP: "10.6.0.14", State: v2beta1.LeaseInUse, Pool: "blue", Pod: "shop/lost", PodUID: "l", ContainerID: "d", Interface: "eth0", Node: "n1", Since: since},
	}, Former: []v2beta1.FormerSandbox{
		{IP: "10.6.0.2", ContainerID: "old", Interface: "eth0", Pod: "shop/web-0", Node: "n2"},
		{IP: "10.6.0.6", ContainerID: "older", Interface: "eth0", Pod: "shop/gone", Node: "n2"},
	}}
	return NewState(Objects{Pools: []*v2beta1.SpiderIPPool{blue, other}, Reserved: []*v2beta1.SpiderReservedIP{reserved}, Blocks: []*v2beta1.SpiderIPBlock{block}}, now)
}

// lines prints a map, one span a line.
func (m AddressMap) lines() (lines []string) {
	for _, s := range m.Spans {
		line := s.First.String()
		if s.Count > 1 {
			line += fmt.Sprintf("-%s (%d)", s.Last, s.Count)
		}
		line += " " + s.State
		if s.Holder != nil {
			line += strings.TrimRight(" "+s.Holder.Pod+s.Holder.FixedFor+s.Holder.MAC, " ")
		}
		lines = append(lines, line)
	}
	return lines
}

func TestMapHasEachState(t *testing.T) {
	m, ok := mapped().AddressMap("blue", netip.Addr{}, 100)
	want := []string{
		"10.6.0.1 Gateway", "10.6.0.2 InUse shop/web-0", "10.6.0.3 Retained Pod/shop/db-0", "10.6.0.4 Quarantined 02:00:00:00:00:01", "10.6.0.5 Free",
		"10.6.0.6 Former shop/gone", "10.6.0.7 Free", "10.6.0.8 Free", "10.6.0.9 Excluded", "10.6.0.10 Reserved", "10.6.0.11 NotForPods", "10.6.0.12 Free",
		"10.6.0.14 InUse shop/lost", "10.6.1.0-10.6.9.255 (2304) Free",
	}
	if diff := cmp.Diff(want, m.lines()); diff != "" || !ok || m.Next.IsValid() {
		t.Errorf("-want +got, next %v:\n%s", m.Next, diff)
	}
	if _, ok := mapped().AddressMap("no-such", netip.Addr{}, 100); ok {
		t.Error("a map of no pool")
	}
}

// TestMapContinues reads the same map in parts of each size.
func TestMapContinues(t *testing.T) {
	s := mapped()
	whole, _ := s.AddressMap("blue", netip.Addr{}, 100)
	for limit := 1; limit <= len(whole.Spans); limit++ {
		var parts []string
		for from := (netip.Addr{}); ; {
			part, _ := s.AddressMap("blue", from, limit)
			if len(part.Spans) > limit {
				t.Fatalf("%d spans, limit %d", len(part.Spans), limit)
			}
			parts = append(parts, part.lines()...)
			if from = part.Next; !from.IsValid() {
				break
			}
		}
		if diff := cmp.Diff(whole.lines(), parts); diff != "" {
			t.Errorf("parts of %d (-want +got):\n%s", limit, diff)
		}
	}
	if all, _ := s.AddressMap("blue", netip.Addr{}, 5000); len(all.Spans) != 13+2304 {
		t.Errorf("a map with room for all has %d spans", len(all.Spans))
	}
}

func TestTimeToFullFollowsHistory(t *testing.T) {
	history := func(step time.Duration, taken ...int64) (all []Sample) {
		for i, n := range taken {
			all = append(all, Sample{now.Add(time.Duration(i) * step), n})
		}
		return all
	}
	for name, tc := range map[string]struct {
		history []Sample
		free    int64
		want    time.Duration
		ok      bool
	}{
		"none":        {nil, 10, 0, false},
		"too short":   {history(time.Minute, 1, 2, 3), 10, 0, false},
		"steady":      {history(10*time.Minute, 1, 2, 3), 6, time.Hour, true},
		"full":        {history(10*time.Minute, 1, 2, 3), 0, 0, true},
		"constant":    {history(time.Hour, 4, 4, 4), 6, 0, false},
		"shrinking":   {history(time.Hour, 5, 4, 3), 6, 0, false},
		"up and down": {history(time.Hour, 1, 9, 1, 9, 1), 6, 0, false},
		"slow":        {history(time.Hour, 1, 2, 3), 1 << 40, 0, false},
		"one time":    {history(0, 1, 2), 6, 0, false},
	} {
		if got, ok := TimeToFull(tc.history, tc.free); got.Round(time.Second) != tc.want || ok != tc.ok {
			t.Errorf("%s: got %v, %v, want %v, %v", name, got, ok, tc.want, tc.ok)
		}
	}
}
