package walk

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// replicas is the number of pods, and of addresses in each of their pools.
const replicas = 100

// Scale returns steps that fill pools to the last address, empty them and fill them
// again. They need a lab with Spiderpool installed by Guide, and a site whose nodes share
// their addresses.
func Scale(lab *Lab, site Site) []Step {
	g := &guide{lab, site}
	return []Step{
		{"Create a Deployment without replicas", false, g.createScale},
		{"Fill its pools to the last address", false, g.fill},
		{"Empty them", false, g.empty},
		{"Fill them again", false, g.fill},
		{"No pod failed for lack of an address", false, g.noneTurnedAway},
		{"Delete everything", false, g.deleteScale},
	}
}

func (g *guide) createScale(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "apply -f "+g.manifest("scale.yaml")); err != nil {
		return err
	}
	_, err := g.Kubectl(ctx, "wait spiderippool/scale-v4 spiderippool/scale-v6 --for=condition=Ready --timeout=60s")
	return err
}

// fill starts as many pods as there are addresses. Each must have two addresses, unique
// among all pods.
func (g *guide) fill(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, fmt.Sprintf("scale deployment/scale --replicas=%d", replicas)); err != nil {
		return err
	}
	pods, err := g.runningPods(ctx, "run=scale", replicas)
	if err != nil {
		return err
	}
	holders := map[netip.Addr]string{}
	for _, pod := range pods {
		v4, v6, err := addressesOf(pod)
		if err != nil {
			return err
		}
		for _, addr := range []netip.Addr{v4, v6} {
			if other, twice := holders[addr]; twice {
				return fmt.Errorf("%s is the address of %s and of %s", addr, other, pod.Name)
			}
			holders[addr] = pod.Name
		}
	}
	if err := g.eventually(ctx, "the pools are full according to their status", slow, func(ctx context.Context) error {
		return g.scaleCounts(ctx, replicas)
	}); err != nil {
		return err
	}
	_, err = g.Kubectl(ctx, "get spiderippools")
	return err
}

// scaleCounts checks the counts in the status of both pools.
func (g *guide) scaleCounts(ctx context.Context, want int64) error {
	for _, name := range []string{"scale-v4", "scale-v6"} {
		var pool v2beta1.SpiderIPPool
		if err := g.Get(ctx, "spiderippool "+name, &pool); err != nil {
			return err
		}
		if count := pool.Status.AllocatedIPCount; count == nil || *count != want {
			return fmt.Errorf("the status of pool %s does not count %d addresses in use", name, want)
		}
	}
	return nil
}

func (g *guide) empty(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "scale deployment/scale --replicas=0"); err != nil {
		return err
	}
	return g.eventually(ctx, "no pod, no lease and no count remains", slow, func(ctx context.Context) error {
		var pods corev1.PodList
		if err := g.Get(ctx, "pods -l run=scale", &pods); err != nil {
			return err
		}
		if len(pods.Items) > 0 {
			return fmt.Errorf("%d pods remain", len(pods.Items))
		}
		held, err := g.leases(ctx)
		if err != nil {
			return err
		}
		for _, lease := range held {
			if strings.HasPrefix(lease.Pool, "scale-") {
				return fmt.Errorf("%s is held by %s", lease.IP, lease.Pod)
			}
		}
		return g.scaleCounts(ctx, 0)
	})
}

// noneTurnedAway checks that no ADD failed for lack of an address: the number of free
// addresses equals the number of pods.
func (g *guide) noneTurnedAway(ctx context.Context) error {
	var events corev1.EventList
	if err := g.Get(ctx, "events --field-selector reason=FailedAllocateIP", &events); err != nil {
		return err
	}
	var errs []error
	for _, e := range events.Items {
		if strings.HasPrefix(e.InvolvedObject.Name, "scale-") {
			errs = append(errs, fmt.Errorf("pod %s: %s", e.InvolvedObject.Name, e.Message))
		}
	}
	return errors.Join(errs...)
}

func (g *guide) deleteScale(ctx context.Context) error {
	if err := g.empty(ctx); err != nil {
		return err
	}
	_, err := g.Kubectl(ctx, "delete -f "+g.manifest("scale.yaml"))
	return err
}
