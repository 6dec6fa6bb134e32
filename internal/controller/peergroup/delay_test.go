//go:build apiserver && scale

package peergroup_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/peergroup"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

// TestDelayOfNewPods measures the time from a pod's address to its group, at 50 pod starts a second. Each pod is in one of
// ten groups of applications, and in one of the namespace.
//
//	go test -tags 'apiserver scale' -run DelayOfNewPods -v ./internal/controller/peergroup
func TestDelayOfNewPods(t *testing.T) {
	const starts, perSecond = 500, 50
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	kubetest.Manager(t, func(mgr ctrl.Manager) error {
		return peergroup.New(status.NewWriter(mgr), mgr.GetAPIReader(), slog.New(slog.DiscardHandler)).Register(mgr)
	}, func(o *ctrl.Options) {
		o.NewClient = func(config *rest.Config, options client.Options) (client.Client, error) {
			config = rest.CopyConfig(config)
			config.QPS, config.Burst = 500, 1000 // as in the controller
			options.HTTPClient = nil
			return client.New(config, options)
		}
	})
	for i := range 10 {
		p := allow(namespace, fmt.Sprint("p", i), fmt.Sprint("app", i))
		all := p.Spec.Ingress[0].From[0].DeepCopy()
		all.PodSelector = &metav1.LabelSelector{}
		p.Spec.Ingress[0].From = append(p.Spec.Ingress[0].From, *all)
		kubetest.Create(t, c, p)
		p.Spec.Ingress[0].From = p.Spec.Ingress[0].From[:1]
		has(t, c, groupOf(t, p)) // the reconciler has started
	}
	follower, err := client.NewWithWatch(kubetest.Config(t), client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	events, err := follower.Watch(t.Context(), &v2beta1.SpiderPeerGroupList{})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	var mu sync.Mutex
	began, seen := map[string]time.Time{}, map[string]int{}
	var delays []time.Duration
	done := make(chan struct{})
	go func() {
		defer close(done)
		known := map[string]map[string]bool{}
		for e := range events.ResultChan() {
			object, ok := e.Object.(*v2beta1.SpiderPeerGroup)
			if !ok || e.Type == watch.Deleted {
				continue
			}
			if known[object.Name] == nil {
				known[object.Name] = map[string]bool{}
			}
			mu.Lock()
			for _, ip := range object.Spec.IPs {
				if known[object.Name][ip] {
					continue
				}
				known[object.Name][ip] = true
				// The pod's group, and that of the namespace: the later one counts.
				if seen[ip]++; seen[ip] == 2 {
					delays = append(delays, time.Since(began[ip]))
				}
			}
			complete := len(delays) == starts
			mu.Unlock()
			if complete {
				return
			}
		}
	}()
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	var all sync.WaitGroup
	first := time.Now()
	for i := range starts {
		<-tick.C
		all.Go(func() {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprint("pod-", i), Labels: map[string]string{"app": fmt.Sprint("app", i%10)}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			}
			ip := fmt.Sprintf("10.91.%d.%d", i>>8, i&255)
			err := c.Create(t.Context(), pod)
			pod.Status = corev1.PodStatus{PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}}
			mu.Lock()
			began[ip] = time.Now()
			mu.Unlock()
			if err == nil {
				err = c.Status().Update(t.Context(), pod)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	took := time.Since(first)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("not all addresses are in their groups")
	}
	slices.Sort(delays)
	t.Logf("%d starts in %s: from before the status update to the watch of both groups: p50 %s, p99 %s, max %s", starts, took.Round(time.Millisecond),
		delays[starts/2].Round(time.Millisecond), delays[starts*99/100].Round(time.Millisecond), delays[starts-1].Round(time.Millisecond))
}
