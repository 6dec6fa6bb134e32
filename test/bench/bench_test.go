package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/test/sim"
)

func TestPoolsHaveTheScenariosSize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		scenario string
		want     []string // name, node, range
	}{
		{"A", []string{"shared-v4  10.200.0.16-10.200.2.3"}},
		{"B", []string{"shared-v4  10.200.0.16-10.200.7.223"}},
		{"C", []string{"node-0 node-0 10.201.0.16-10.201.0.140", "node-1 node-1 10.202.0.16-10.202.0.140",
			"node-2 node-2 10.203.0.16-10.203.0.140", "node-3 node-3 10.204.0.16-10.204.0.140"}},
		{"D", []string{"shared-v4  10.200.0.16-10.200.7.223", "shared-v6  fd00:200::10-fd00:200::7df"}},
		{"G", []string{"shared-v4  10.200.0.16-10.200.250.15"}},
	} {
		t.Run(c.scenario, func(t *testing.T) {
			picked, err := scenariosNamed(c.scenario)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range picked[0].pools(4, 500) {
				got = append(got, p.Name+" "+p.Node+" "+p.First+"-"+p.Last)
				subnet := netip.MustParsePrefix(p.Subnet)
				if !subnet.Contains(netip.MustParseAddr(p.First)) || !subnet.Contains(netip.MustParseAddr(p.Last)) {
					t.Errorf("%s-%s is outside %s", p.First, p.Last, p.Subnet)
				}
			}
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("pools\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestScenariosAreNamed(t *testing.T) {
	t.Parallel()
	if picked, err := scenariosNamed("E,A"); err != nil || len(picked) != 2 || picked[0].name != "E" {
		t.Errorf("E,A: %v, %v", picked, err)
	}
	if _, err := scenariosNamed("A,Z"); err == nil || !strings.Contains(err.Error(), `"Z"`) {
		t.Errorf("A,Z: %v; want an error naming Z", err)
	}
}

func TestPercentileIsTheSmallestCoveringValue(t *testing.T) {
	t.Parallel()
	var latencies []time.Duration
	for ms := 100; ms >= 1; ms-- {
		latencies = append(latencies, time.Duration(ms)*time.Millisecond)
	}
	for q, want := range map[float64]float64{0.5: 50, 0.9: 90, 0.99: 99, 1: 100} {
		if got := percentile(latencies, q); got != want {
			t.Errorf("percentile %g: %g ms, want %g", q, got, want)
		}
	}
	if got := percentile(latencies[:1], 0.5); got != 100 {
		t.Errorf("of one value: %g ms, want 100", got)
	}
}

func TestMedianKeepsEveryFailure(t *testing.T) {
	t.Parallel()
	runs := []result{
		{AddPerS: 10, AddP50MS: 7, FailedAttempts: 1},
		{AddPerS: 30, AddP50MS: 9, Duplicates: 2},
		{AddPerS: 20, AddP50MS: 8, FailedAttempts: 1},
	}
	got := median(runs)
	if got.AddPerS != 20 || got.AddP50MS != 8 || got.FailedAttempts != 2 || got.Duplicates != 2 {
		t.Errorf("median %+v", got)
	}
	if got := median(runs[:2]); got.AddPerS != 20 {
		t.Errorf("median of 10 and 30: %g, want 20", got.AddPerS)
	}
}

func TestTargetsUseTheSameRunsFloor(t *testing.T) {
	t.Parallel()
	good := result{Scenario: "C", Plugin: product, AddPerS: 250, DelPerS: 300, AddP50MS: 10, AddP99MS: 20,
		EtcdBytesPerPod: 3000, PluginCPUMS: 2}
	base := result{Scenario: "C", Plugin: floor, AddPerS: 490, PluginCPUMS: 3}
	var out strings.Builder
	if missed := printTargets(&out, []result{base, good}); missed != 0 {
		t.Errorf("%d targets missed:\n%s", missed, &out)
	}
	for name, spoil := range map[string]func(*result){
		"slow": func(r *result) { r.AddPerS = 240 }, "DEL slower than ADD": func(r *result) { r.DelPerS = 200 },
		"long tail": func(r *result) { r.AddP99MS = 31 }, "much to etcd": func(r *result) { r.EtcdBytesPerPod = 8001 },
		"conflict": func(r *result) { r.Conflicts = 1 }, "failure": func(r *result) { r.FailedAttempts = 1 },
		"duplicate": func(r *result) { r.Duplicates = 1 }, "plugin": func(r *result) { r.PluginCPUMS = 3.1 },
	} {
		t.Run(name, func(t *testing.T) {
			bad := good
			spoil(&bad)
			if missed := printTargets(&out, []result{base, bad}); missed != 1 {
				t.Errorf("%d targets missed, want 1", missed)
			}
		})
	}
	out.Reset()
	if printTargets(&out, []result{good}); strings.Contains(out.String(), "host-local") {
		t.Errorf("a target was judged without its floor:\n%s", &out)
	}
}

func TestRequestsAreClassified(t *testing.T) {
	t.Parallel()
	conflict := sim.Request{Verb: "PUT", Code: "409"}
	if !conflict.Write() || conflict.Read() || !conflict.Conflict() {
		t.Errorf("%+v: want a write and a conflict", conflict)
	}
	list := sim.Request{Verb: "LIST", Code: "200"}
	if list.Write() || !list.Read() || list.Conflict() {
		t.Errorf("%+v: want a read", list)
	}
}
