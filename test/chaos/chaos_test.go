package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/test/history"
	"spiderpool.dev/spiderpool/test/sim"
)

func TestOutagesOverlapAndAreRemembered(t *testing.T) {
	t.Parallel()
	o := newOutages()
	before := time.Now()
	if o.isDown("n") || o.downSince("n", before) {
		t.Error("down before the first outage")
	}
	o.begin("n")
	if o.beginUnlessDown("n") {
		t.Error("an outage began twice")
	}
	o.begin("n")
	o.end("n")
	if !o.isDown("n") || !o.downSince("n", time.Now()) {
		t.Error("up although one of two outages continues")
	}
	o.end("n")
	if o.isDown("n") || !o.downSince("n", before) || o.downSince("n", time.Now().Add(time.Second)) {
		t.Error("the end of the last outage is wrong")
	}
	if !o.beginUnlessDown("n") || !o.isDown("n") || o.isDown("other") {
		t.Error("the outage did not begin, or another target is down too")
	}
}

// stored returns a run whose API server has the objects.
func stored(objects ...client.Object) *chaos {
	c := newChaos(&options{nodes: 1, workers: 1, quietFor: 50 * time.Millisecond})
	c.pools = pools(1)
	c.objects = fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(objects...).Build()
	return c
}

func block(leases ...v2beta1.Lease) *v2beta1.SpiderIPBlock {
	return &v2beta1.SpiderIPBlock{ObjectMeta: metav1.ObjectMeta{Name: "10.200.0.0"}, Spec: v2beta1.SpiderIPBlockSpec{Leases: leases}}
}

func inUse(ip, pod string) v2beta1.Lease {
	return v2beta1.Lease{IP: ip, Pod: pod, State: v2beta1.LeaseInUse}
}

// TestLeaksAreFound stores the leaks of a broken product.
func TestLeaksAreFound(t *testing.T) {
	t.Parallel()
	four, six := inUse("10.200.0.10", namespace+"/anchor"), inUse("fd00:200::a", namespace+"/anchor")
	endpoint := func(name string) *v2beta1.SpiderEndpoint {
		return &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	released := inUse("10.200.0.11", namespace+"/gone")
	released.State = v2beta1.LeaseReleased
	kept := inUse("10.200.0.12", namespace+"/web-0")
	kept.State = v2beta1.LeaseRetained
	anchors := []*sandbox{{interfaces: []string{"eth0"}}}
	anchors[0].Pod = "anchor"
	for name, c := range map[string]struct {
		objects []client.Object
		want    string // part of the error; empty for no error
	}{
		"only living pods":         {[]client.Object{block(four, six, released), endpoint("anchor")}, ""},
		"a lease":                  {[]client.Object{block(four, six, inUse("10.200.0.12", namespace+"/gone"))}, "lease of 10.200.0.12"},
		"a retained address":       {[]client.Object{block(four, six, kept)}, "lease of 10.200.0.12"},
		"an endpoint":              {[]client.Object{block(four, six), endpoint("gone")}, "endpoint chaos/gone"},
		"freed under a living pod": {[]client.Object{block(four)}, "1 leases instead of 2"},
		"no lease of a living pod": {nil, "0 leases instead of 2"},
	} {
		t.Run(name, func(t *testing.T) {
			err := stored(c.objects...).awaitNoLeases(context.Background(), anchors)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestLongRunNeedsEveryEventKind(t *testing.T) {
	t.Parallel()
	needed := func(n *counts) []*atomic.Int64 {
		return []*atomic.Int64{&n.kills, &n.adds, &n.delsWithoutAPI, &n.checks, &n.repeated, &n.lateDels, &n.second, &n.fixed, &n.gcs}
	}
	c := newChaos(&options{time: time.Minute})
	for missing, n := range needed(&c.count) {
		poor := newChaos(&options{time: time.Minute})
		for i, other := range needed(&poor.count) {
			if i != missing {
				other.Add(1)
			}
		}
		if poor.judge(nil, nil) == nil {
			t.Errorf("a run without event %d passed", missing)
		}
		n.Add(1)
	}
	if err := c.judge(nil, nil); err != nil {
		t.Error(err)
	}
	c.moved.add(errors.New("web-0 has another address"))
	if err := c.judge(nil, nil); err == nil || !strings.Contains(err.Error(), "web-0 has another address") {
		t.Errorf("%v; want the changed address", err)
	}
	c.refused.add(errors.New("DEL of x failed"))
	if err := c.judge(nil, nil); err == nil || !strings.Contains(err.Error(), "DEL of x failed") {
		t.Errorf("%v; want the failed DEL", err)
	}
}

// TestCheckFailsOnlyDuringOutages calls a plugin with one lease.
func TestCheckFailsOnlyDuringOutages(t *testing.T) {
	t.Parallel()
	const held = `{"ips":[{"address":"10.200.0.10/24"}]}`
	plugin := filepath.Join(t.TempDir(), "plugin")
	script := "#!/bin/sh\n" + `test "$CNI_COMMAND" = CHECK && grep -qF '"prevResult":` + held + `' && exit
echo '{"code":101,"msg":"not leased"}'
exit 1
`
	if err := os.WriteFile(plugin, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		result, away      string
		good, bad, unjust int64
	}{
		"all is well":              {held, "", 2, 0, 0},
		"the lease is gone":        {`{}`, "", 0, 2, 2},
		"its agent was away":       {`{}`, "node-0", 0, 2, 0},
		"another agent was away":   {`{}`, "node-1", 0, 2, 2},
		"the API server was away":  {`{}`, apiServer, 0, 2, 0},
		"etcd was away":            {`{}`, etcd, 0, 2, 0},
		"a CHECK without an agent": {held, "node-0", 2, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := newChaos(&options{nodes: 1, workers: 1})
			c.attached = []*attached{{}}
			calls := sim.Plugin{Binary: plugin, Conf: []byte(`{"name":"n"}`)}
			c.cluster = &sim.Cluster{Nodes: []*sim.Node{{Name: "node-0", Plugin: calls}}}
			if tc.away != "" {
				c.outages.begin(tc.away)
			}
			result := []byte(tc.result)
			s := &sandbox{interfaces: []string{"eth0", "net1"}, results: map[string][]byte{"eth0": result, "net1": result}}
			c.check(t.Context(), s)
			good, bad, unjust := c.count.checks.Load(), c.count.failedChecks.Load(), int64(len(c.refused.all()))
			if good != tc.good || bad != tc.bad || unjust != tc.unjust {
				t.Errorf("%d good, %d bad, %d without an excuse; want %d, %d, %d: %v",
					good, bad, unjust, tc.good, tc.bad, tc.unjust, c.refused.all())
			}
			if events := c.history.Events(); len(events) != 2 || events[0].Kind != history.CheckCall || events[1].Name != "net1" {
				t.Errorf("recorded %v", events)
			}
		})
	}
}

func TestPoolsShareBlocksAmongNodes(t *testing.T) {
	t.Parallel()
	for _, o := range []options{{nodes: 1, workers: 1}, {nodes: 3, workers: 4}, {nodes: 20, workers: 50}} {
		size := newChaos(&o).poolSize()
		if p := pools(size); p[0].First != "10.200.0.10" || size < 1 || size > 245 {
			t.Errorf("%+v: %+v with %d addresses", o, p, size)
		}
	}
	if p := pools(24); p[0].Last != "10.200.0.33" || p[1].Last != "fd00:200::21" {
		t.Errorf("pools of 24 addresses: %+v", p)
	}
}
