package cloudnetwork

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
)

func TestForeignObjectsAreLeftAlone(t *testing.T) {
	x := newBench(t, 4)
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "mine", Labels: map[string]string{names.LabelCloudNetwork: "aws"}}}
	pool.Spec.Subnet, pool.Spec.IPs = "172.31.32.0/24", []string{"172.31.32.176-172.31.32.179"}
	config := &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "ipvlan-ens5"}}
	config.Spec.CNIType, config.Spec.IPvlan = new(v2beta1.CNIIPvlan), &v2beta1.MasterConfig{Master: []string{"eth0"}}
	x.create(pool, config)
	x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	x.want("aws-worker1-0-v4: 172.31.32.180-172.31.32.191", "mine: 172.31.32.176-172.31.32.179")
	x.degraded("Overlap", "172.31.32.176-172.31.32.179 of interface")
	if err := x.c.Get(t.Context(), client.ObjectKeyFromObject(config), config); err != nil || config.Spec.IPvlan.Master[0] != "eth0" {
		t.Errorf("the user's attachment is %+v (%v)", config.Spec, err)
	}
}

func TestForeignPoolOfNameIsNamed(t *testing.T) {
	x := newBench(t, 4)
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "aws-worker1-0-v4"}}
	pool.Spec.Subnet, pool.Spec.IPs = "172.31.99.0/24", []string{"172.31.99.1"}
	x.create(pool)
	x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	x.want("aws-worker1-0-v4: 172.31.99.1")
	x.condition("Refused", "create SpiderIPPool aws-worker1-0-v4: another owner has it")
}

func TestForeignReservedIPStays(t *testing.T) {
	x := newBench(t, 4)
	mine := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "spiderpool-cloud-aws-ipv4", Labels: map[string]string{names.LabelCloudNetwork: "aws"}}}
	mine.Spec.IPVersion, mine.Spec.IPs = new(int64(4)), []string{"172.31.99.1"}
	x.create(mine)
	eni := x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	full := "aws-worker1-0-v4: 172.31.32.176-172.31.32.191"
	check := func() {
		t.Helper()
		x.want(full)
		x.condition("Refused", "SpiderReservedIP spiderpool-cloud-aws-ipv4")
		if x.reserved() != "172.31.99.1" {
			t.Fatalf("the user's SpiderReservedIP has %q", x.reserved())
		}
	}
	check()
	x.cloud.TakeAway(eni, prefix("172.31.32.176/28"))
	x.pass(resyncMax)
	for range 3 {
		x.pass(settleTime)
		check()
	}
}

// A user who removes our labels does not take the pool from the controller.
func TestLostLabelsComeBack(t *testing.T) {
	x := newBench(t, 4)
	x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	pool := x.pools()["aws-worker1-0-v4"]
	want := pool.Labels
	pool.Labels = nil
	if err := x.c.Update(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	x.pass(time.Second)
	if diff := cmp.Diff(want, x.pools()["aws-worker1-0-v4"].Labels); diff != "" {
		t.Errorf("labels (-want +got)\n%s", diff)
	}
	x.condition("PoolsUpToDate", "")
}

func TestUserKeepsOtherFields(t *testing.T) {
	x := newBench(t, 4)
	x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	pool := x.pools()["aws-worker1-0-v4"]
	pool.Spec.Disable, pool.Spec.ExcludeIPs, pool.Spec.Gateway = new(true), []string{"172.31.32.180"}, new("172.31.32.2")
	if err := x.c.Update(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	x.pass(time.Second)
	pool = x.pools()["aws-worker1-0-v4"]
	if !*pool.Spec.Disable || len(pool.Spec.ExcludeIPs) != 1 || *pool.Spec.Gateway != "172.31.32.1" {
		t.Errorf("the pool is %+v", pool.Spec)
	}
}
