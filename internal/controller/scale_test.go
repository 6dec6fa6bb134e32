//go:build apiserver && scale

package controller_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/lease"
)

var quiet = flag.Duration("quiet", 30*time.Second, "how long to watch that nothing is written when nothing changes")

const (
	scalePools     = 5000
	scaleEndpoints = 20000
	scaleLimit     = 30 * time.Second
	scaleMemory    = 400 << 20
)

// TestFiveThousandPoolsBecomeReady measures a controller in a process of its own,
// on a cluster whose objects are all there when it starts: once before
// any status is written, and once after that.
//
//	go test -tags 'apiserver scale' -run FiveThousand -v ./internal/controller -quiet 5m
func TestFiveThousandPoolsBecomeReady(t *testing.T) {
	c := kubetest.Client(t)
	begin := time.Now()
	populate(t, c)
	t.Logf("%d pools, %d pods with endpoints and leases created in %s", scalePools, scaleEndpoints, time.Since(begin).Round(time.Second))

	program := kubetest.Program(t, "spiderpool-controller")
	for _, start := range []string{"first", "second"} {
		p := launch(t, program, kubetest.Namespace(t, c), nil)
		took := p.takenIn(t, c)
		memory := kubetest.Memory(t, p.command.Process.Pid, "VmHWM")
		t.Logf("%s start: taken in after %s, peak memory %d MiB, CPU %s", start, took.Round(100*time.Millisecond), memory>>20, p.cpu(t))
		if took > scaleLimit {
			t.Errorf("%s start: taken in after %s, want at most %s", start, took, scaleLimit)
		}
		if memory > scaleMemory {
			t.Errorf("%s start: peak memory %d MiB, want at most %d", start, memory>>20, scaleMemory>>20)
		}
		if start == "second" {
			p.idle(t, *quiet)
			if memory := kubetest.Memory(t, p.command.Process.Pid, "VmHWM"); memory > scaleMemory {
				t.Errorf("peak memory at the end is %d MiB, want at most %d", memory>>20, scaleMemory>>20)
			}
		}
		p.stop(t)
	}
}

// populate creates the pools (of 16 addresses) and, for the first of them, pods
// with endpoints and leases, until there are enough endpoints.
func populate(t *testing.T, c client.Client) {
	t.Helper()
	kubetest.Each(t, scalePools, func(ctx context.Context, i int) error { return populateOne(ctx, c, i) })
	kubetest.Create(t, c,
		&v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "reserved"}, Spec: v2beta1.SpiderReservedIPSpec{IPs: []string{"10.0.0.1"}}},
		&v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: "subnet"}, Spec: v2beta1.SpiderSubnetSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "11.0.0.0/24", IPs: []string{"11.0.0.10"}}}},
		&v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "config"}, Spec: v2beta1.SpiderMultusConfigSpec{
			CNIType: new(v2beta1.CNIMacvlan), Macvlan: &v2beta1.MasterConfig{Master: []string{"eth0"}}}},
		&v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v2beta1.CoordinatorSpec{PodCIDRType: new(v2beta1.PodCIDRNone)}},
	)
	if t.Failed() {
		t.FailNow()
	}
}

func populateOne(ctx context.Context, c client.Client, i int) error {
	base := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 16})
	subnet := fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)
	name, node := fmt.Sprintf("pool-%d", i), fmt.Sprintf("node-%d", i)
	pool := &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: subnet, IPs: []string{fmt.Sprintf("%s-10.%d.%d.31", base, i>>8, i&255)}}, NodeName: []string{node}},
	}
	compile.CompletePool(pool) // as admission does
	errs := []error{c.Create(ctx, pool), c.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})}
	block := lease.Block{Base: base, Node: node}
	for n := range scaleEndpoints / scalePools {
		podName := fmt.Sprintf("pod-%d-%d", i, n)
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: podName},
			Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}
		errs = append(errs, c.Create(ctx, pod))
		addr := base
		for range n {
			addr = addr.Next()
		}
		block.Leases = append(block.Leases, lease.Lease{
			Addr: addr, State: lease.InUse, Pool: name, Since: time.Now().UTC().Truncate(time.Second),
			Holder: lease.Holder{Pod: lease.ParsePodKey("default/" + podName), PodUID: string(pod.UID), Node: node, Attachment: lease.Attachment{ContainerID: "c-" + podName, Interface: "eth0"}},
		})
		endpoint := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: podName}}
		endpoint.Status.Current = v2beta1.EndpointAllocation{UID: string(pod.UID), Node: node, IPs: []v2beta1.EndpointIP{{
			Interface: "eth0", IPv4: new(addr.String() + "/24"), IPv4Pool: &name,
		}}}
		endpoint.Status.OwnerControllerType, endpoint.Status.OwnerControllerName = "Pod", podName
		errs = append(errs, c.Create(ctx, endpoint))
	}
	return errors.Join(append(errs, c.Create(ctx, compile.BlockObject(block)))...)
}

// takenIn waits until every pool's status is right and nothing is queued, and
// returns how long that took from the start of the process.
func (p *process) takenIn(t *testing.T, c client.Client) time.Duration {
	t.Helper()
	deadline := time.Now().Add(10 * time.Minute)
	for {
		err := p.caughtUp(t.Context(), c)
		if err == nil {
			return time.Since(p.started)
		}
		if time.Now().After(deadline) {
			t.Fatalf("not taken in: %v\n%s", err, p.output)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

var depth = regexp.MustCompile(`(?m)^workqueue_depth\{.*name="([a-z-]+)".*\} (\d+)$`)

// queued returns an error while objects are queued.
func (p *process) queued(ctx context.Context) error {
	var body bytes.Buffer
	r := &replica{output: p.output}
	if err := r.get(ctx, p.metrics, "/metrics", &body); err != nil {
		return err
	}
	queues := depth.FindAllStringSubmatch(body.String(), -1)
	if len(queues) < 6 {
		return fmt.Errorf("%d reconcilers have started", len(queues))
	}
	for _, q := range queues {
		if q[2] != "0" {
			return fmt.Errorf("%s objects are queued for %s", q[2], q[1])
		}
	}
	return nil
}

func (p *process) caughtUp(ctx context.Context, c client.Client) error {
	if err := p.queued(ctx); err != nil {
		return err
	}
	var pools v2beta1.SpiderIPPoolList
	if err := c.List(ctx, &pools); err != nil {
		return err
	}
	for _, pool := range pools.Items {
		if n := pool.Status.AllocatedIPCount; n == nil || *n != scaleEndpoints/scalePools || len(pool.Finalizers) != 1 {
			return fmt.Errorf("pool %s is %+v", pool.Name, pool)
		}
	}
	return nil
}

func (p *process) cpu(t *testing.T) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.command.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(stat))
	user, errUser := strconv.Atoi(words[13])
	system, errSystem := strconv.Atoi(words[14])
	if err := errors.Join(errUser, errSystem); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

var mutations = regexp.MustCompile(`(?m)^apiserver_request_total\{.*resource="([a-z-]+)".*verb="(POST|PUT|PATCH|DELETE|DELETECOLLECTION|APPLY)".*\} ([0-9.e+]+)$`)

// idle checks that nothing but the lease of the lead is written, and that nothing
// is reconciled but blocks, which reclaim judges by the age of their leases and at an
// interval.
func (p *process) idle(t *testing.T, during time.Duration) {
	t.Helper()
	before, reconciled := written(t), p.reconciled(t)
	time.Sleep(during)
	for resource, n := range written(t) {
		if resource != "leases" && n != before[resource] {
			t.Errorf("%v writes of %s in %s without a change", n-before[resource], resource, during)
		}
	}
	after := p.reconciled(t)
	for name, n := range after {
		if name != "reclaim" && n != reconciled[name] {
			t.Errorf("%d reconciles of %s in %s without a change", n-reconciled[name], name, during)
		}
	}
	t.Logf("no writes in %s, except the lease of the lead; reconciles before: %v, after: %v", during, reconciled, after)
}

var reconciles = regexp.MustCompile(`(?m)^controller_runtime_reconcile_total\{controller="([a-z-]+)",result="[a-z_]+"\} (\d+)$`)

// reconciled is how often each reconciler was called.
func (p *process) reconciled(t *testing.T) map[string]int {
	t.Helper()
	var body bytes.Buffer
	r := &replica{output: p.output}
	if err := r.get(t.Context(), p.metrics, "/metrics", &body); err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, match := range reconciles.FindAllStringSubmatch(body.String(), -1) {
		n, err := strconv.Atoi(match[2])
		if err != nil {
			t.Fatal(err)
		}
		out[match[1]] += n
	}
	return out
}

func written(t *testing.T) map[string]float64 {
	t.Helper()
	clientset, err := kubernetes.NewForConfig(rest.CopyConfig(kubetest.Config(t)))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := clientset.RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, match := range mutations.FindAllStringSubmatch(string(raw), -1) {
		n, err := strconv.ParseFloat(match[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		out[match[1]] += n
	}
	return out
}
