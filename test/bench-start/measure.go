package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"spiderpool.dev/spiderpool/test/e2e/walk"
)

const (
	// atOnce is the number of pods that start together.
	atOnce = 10
	// podLimit bounds the start of a pod, and its end.
	podLimit = 2 * time.Minute
	// poll is the time between two looks at the pods. It is not part of a measured time.
	poll = 200 * time.Millisecond
)

// bench measures on a lab with Spiderpool installed.
type bench struct {
	node
	kube kubernetes.Interface
	made int // pods so far, for their names
}

// measure takes the measurements of the networks in turn, first in dual stack and
// then, without a default IPv6 pool, in IPv4.
func measure(ctx context.Context, o *options, lab *walk.Lab, stopwatch string) (results []result, err error) {
	path, err := lab.Sh(ctx, "echo $KUBECONFIG")
	if err != nil {
		return nil, err
	}
	path = strings.TrimSpace(path)
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // pods at once, not five a second
	b := &bench{node: node{lab}}
	if b.kube, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if err := b.installStopwatch(ctx, stopwatch); err != nil {
		return nil, err
	}
	if err := preferControlPlane(filepath.Dir(path)); err != nil {
		return nil, err
	}
	fmt.Printf("\n== Measure\n")
	lab.Out = io.Discard
	for _, dual := range []bool{true, false} {
		if !dual {
			if _, err := lab.Kubectl(ctx, `patch spiderippool lan-v6 --type merge -p '{"spec":{"default":false}}'`); err != nil {
				return nil, err
			}
		}
		one, ten := map[string]*result{}, map[string]*result{}
		for _, net := range networks {
			one[net.name] = &result{Network: net.name, Direct: net.isDirect(), Dual: dual, AtOnce: 1}
			ten[net.name] = &result{Network: net.name, Direct: net.isDirect(), Dual: dual, AtOnce: atOnce}
		}
		for round := range o.rounds { // in turn, so that a disturbance meets all
			for _, net := range networks {
				share := o.pods*(round+1)/o.rounds - o.pods*round/o.rounds
				if err := b.round(ctx, net, dual, share, one[net.name], ten[net.name]); err != nil {
					return nil, fmt.Errorf("network %s: %w", net.name, err)
				}
			}
		}
		for _, net := range networks {
			results = append(results, *one[net.name], *ten[net.name])
		}
	}
	for _, r := range results {
		fmt.Println(r.summary())
	}
	return results, nil
}

// round starts some pods one at a time, then ten at once.
func (b *bench) round(ctx context.Context, net network, dual bool, pods int, one, ten *result) error {
	if err := b.use(ctx, net, dual); err != nil {
		return err
	}
	if err := b.warmUp(ctx, net); err != nil {
		return err
	}
	for range pods {
		if err := b.start(ctx, net, 1, one, net.outer); err != nil {
			return err
		}
	}
	return b.start(ctx, net, atOnce, ten, net.outer)
}

// outers are the first plugins of all networks.
func outers() (names []string) {
	for _, n := range networks {
		names = append(names, n.outer)
	}
	return names
}

// warmUp starts pods until containerd uses the network. Until then, it calls the former
// network.
func (b *bench) warmUp(ctx context.Context, net network) error {
	var err error
	for range 5 {
		var r result
		if err = b.start(ctx, net, 1, &r, outers()...); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("containerd does not call %s: %w", net.outer, err)
}

// start starts n pods at once, adds their times to r, and deletes them. It waits until
// one of the plugins in ends has run DEL for each of them.
func (b *bench) start(ctx context.Context, net network, n int, r *result, ends ...string) error {
	if _, err := b.readLog(ctx); err != nil {
		return err
	}
	before, err := b.sandboxes(ctx)
	if err != nil {
		return err
	}
	for range n {
		b.made++
		if _, err := b.kube.CoreV1().Pods("default").Create(ctx, b.pod(net), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	if err := b.await(ctx, n, "run", func(p corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }); err != nil {
		return err
	}
	after, err := b.sandboxes(ctx)
	if err != nil {
		return err
	}
	records, err := b.readLog(ctx)
	if err != nil {
		return err
	}
	now := int64(0)
	if err := b.kube.CoreV1().Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now},
		metav1.ListOptions{LabelSelector: "bench-start"}); err != nil {
		return err
	}
	if err := b.await(ctx, 0, "end", nil); err != nil {
		return err
	}
	if err := b.sandboxesEnd(ctx, n, ends); err != nil {
		return err
	}
	return r.add(net, n, records, after.minus(before))
}

// pod is a pod that needs nothing but its network.
func (b *bench) pod(net network) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "bench-start-" + strconv.Itoa(b.made), Labels: map[string]string{"bench-start": ""}},
		Spec: corev1.PodSpec{
			NodeName: nodeName, TerminationGracePeriodSeconds: new(int64), AutomountServiceAccountToken: new(bool),
			Containers: []corev1.Container{{Name: "sleep", Image: "busybox", Command: []string{"sleep", "3600"}, ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
	if net.attachment != "" {
		p.Annotations = map[string]string{"v1.multus-cni.io/default-network": net.attachment}
	}
	return p
}

// await waits until there are n pods, all with the property.
func (b *bench) await(ctx context.Context, n int, what string, property func(corev1.Pod) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, podLimit, fmt.Errorf("%d pods do not %s within %s", n, what, podLimit))
	defer cancel()
	for {
		list, err := b.kube.CoreV1().Pods("default").List(ctx, metav1.ListOptions{
			LabelSelector: "bench-start", FieldSelector: fields.OneTermEqualSelector("spec.nodeName", nodeName).String()})
		if err == nil && len(list.Items) == n && !slices.ContainsFunc(list.Items, func(p corev1.Pod) bool { return !property(p) }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(poll):
		}
	}
}

// sandboxesEnd waits until DEL of every pod has ended, so that no DEL meets another
// network's configuration or another pod's ADD.
func (b *bench) sandboxesEnd(ctx context.Context, n int, ends []string) error {
	ended := map[string]bool{}
	for began := time.Now(); time.Since(began) < podLimit; time.Sleep(poll) {
		records, err := b.readLog(ctx)
		if err != nil {
			return err
		}
		for _, r := range records {
			if r.Command == "DEL" && slices.Contains(ends, r.Plugin) {
				ended[r.Container] = true
			}
		}
		if len(ended) >= n {
			return nil
		}
	}
	return fmt.Errorf("%d of %d sandboxes have ended", len(ended), n)
}

// sandboxes are the sandboxes that the kubelet has made: their number and the total
// time.
type sandboxes struct{ count, seconds float64 }

func (s sandboxes) minus(o sandboxes) sandboxes {
	return sandboxes{s.count - o.count, s.seconds - o.seconds}
}

// sandboxes reads the kubelet's metrics.
func (b *bench) sandboxes(ctx context.Context) (sandboxes, error) {
	text, err := b.kube.CoreV1().RESTClient().Get().Resource("nodes").Name(nodeName).SubResource("proxy").Suffix("metrics").DoRaw(ctx)
	if err != nil {
		return sandboxes{}, err
	}
	return parseSandboxes(string(text))
}

// parseSandboxes reads the sum and the count of a histogram, e.g.
// kubelet_run_podsandbox_duration_seconds_sum{runtime_handler=""} 12.5
func parseSandboxes(metrics string) (s sandboxes, err error) {
	const name = "kubelet_run_podsandbox_duration_seconds_"
	for line := range strings.Lines(metrics) {
		rest, ok := strings.CutPrefix(line, name)
		words := strings.Fields(rest)
		if !ok || len(words) != 2 {
			continue
		}
		value, err := strconv.ParseFloat(words[1], 64)
		if err != nil {
			return s, fmt.Errorf("metric %q: %w", line, err)
		}
		switch which, _, _ := strings.Cut(words[0], "{"); which {
		case "sum":
			s.seconds += value
		case "count":
			s.count += value
		}
	}
	return s, nil
}
