package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// stateful is a StatefulSet with one pod. The pod must get the same addresses in every
// life, on any node.
type stateful struct {
	name      string
	second    bool
	object    *appsv1.StatefulSet
	addresses map[string][]netip.Addr // by interface; nil before its first life
}

// fixedLife is one life of a StatefulSet's pod. It creates the StatefulSet if it is
// missing. The next life begins once no sandbox of this one remains.
func (c *chaos) fixedLife(ctx context.Context, of *stateful, random *rand.Rand) error {
	if of.object == nil {
		if err := c.createStatefulSet(ctx, of); err != nil {
			return err
		}
	}
	s, err := c.begin(ctx, random.IntN(c.nodes), pod{name: of.name + "-0", second: of.second, of: of.object})
	if err != nil {
		return err
	}
	if of.addresses != nil {
		c.count.fixed.Add(1)
		if !maps.EqualFunc(of.addresses, s.addresses, slices.Equal[[]netip.Addr]) {
			c.moved.add(fmt.Errorf("pod %s had %v and now has %v in sandbox %s", s.Pod, of.addresses, s.addresses, s.ContainerID))
		}
	}
	of.addresses = s.addresses
	sleep(ctx, upTo(random, holdLimit))
	c.check(ctx, s)
	switch {
	case random.Float64() < 2*c.lost:
		return c.vanish(ctx, s)
	case random.IntN(2) == 0:
		return errors.Join(c.deletePod(ctx, s), c.end(ctx, s))
	}
	return errors.Join(c.end(ctx, s), c.deletePod(ctx, s))
}

func (c *chaos) createStatefulSet(ctx context.Context, of *stateful) error {
	labels := map[string]string{"app": of.name}
	object := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: of.name},
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.example/app:1"}}}},
		},
	}
	sets := c.cluster.Kube.AppsV1().StatefulSets(namespace)
	return c.request(ctx, func(ctx context.Context) error {
		created, err := sets.Create(ctx, object, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			created, err = sets.Get(ctx, of.name, metav1.GetOptions{})
		}
		if err == nil {
			of.object = created
		}
		return err
	})
}

// deleteStatefulSets deletes the owners of the fixed addresses.
func (c *chaos) deleteStatefulSets(ctx context.Context) error {
	return c.request(ctx, func(ctx context.Context) error {
		return c.cluster.Kube.AppsV1().StatefulSets(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
	})
}
