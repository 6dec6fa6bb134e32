package ipamtest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"spiderpool.dev/spiderpool/internal/ipam"
)

// SetStatefulSet adds or replaces a StatefulSet.
func (c *FakeCluster) SetStatefulSet(namespace, name string, set ipam.StatefulSet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sets[namespace+"/"+name] = set
}

// DeleteStatefulSet removes a StatefulSet, not its pods.
func (c *FakeCluster) DeleteStatefulSet(namespace, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sets, namespace+"/"+name)
}

// OwnedCluster is a cluster in which OwnersContract creates owners. The methods return
// the UIDs.
type OwnedCluster interface {
	ipam.Owners
	CreateStatefulSet(t *testing.T, name string, start, replicas int) (uid string)
	CreateInstance(t *testing.T, name string, activePods ...string) (uid string)
}

// OwnersContract tests the requirements of ipam.Owners with objects in the namespace.
func OwnersContract(t *testing.T, c OwnedCluster, namespace string) {
	for name, replicas := range map[string][2]int{"from-0": {0, 3}, "from-2": {2, 1}, "empty": {0, 0}} {
		uid := c.CreateStatefulSet(t, name, replicas[0], replicas[1])
		want := ipam.StatefulSet{UID: uid, First: replicas[0], End: replicas[0] + replicas[1]}
		if got, err := c.StatefulSet(t.Context(), namespace, name); err != nil || got != want {
			t.Errorf("StatefulSet %s: got %+v, %v; want %+v", name, got, err, want)
		}
	}
	for name, active := range map[string][]string{"idle": nil, "runs": {"a"}, "migrates": {"a", "b"}} {
		want := ipam.VirtualMachineInstance{UID: c.CreateInstance(t, name, active...), ActivePods: map[string]bool{}}
		for _, uid := range active {
			want.ActivePods[uid] = true
		}
		if got, err := c.VirtualMachineInstance(t.Context(), namespace, name); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("VirtualMachineInstance %s: got %+v, %v; want %+v", name, got, err, want)
		}
	}
	for _, name := range []string{"none", "..", "../../" + namespace + "/statefulsets/from-0", "a%2fb"} {
		if got, err := c.StatefulSet(t.Context(), namespace, name); !errors.Is(err, ipam.ErrNotFound) {
			t.Errorf("StatefulSet %q: got %+v, %v; want not found", name, got, err)
		}
		if got, err := c.VirtualMachineInstance(t.Context(), namespace, name); !errors.Is(err, ipam.ErrNotFound) {
			t.Errorf("VirtualMachineInstance %q: got %+v, %v; want not found", name, got, err)
		}
	}
}

// SetInstance adds or replaces a VirtualMachineInstance that acknowledges the pods.
func (c *FakeCluster) SetInstance(namespace, name, uid string, activePods ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	active := map[string]bool{}
	for _, pod := range activePods {
		active[pod] = true
	}
	c.instances[namespace+"/"+name] = ipam.VirtualMachineInstance{UID: uid, ActivePods: active}
}

// DeleteInstance removes a VirtualMachineInstance, not its pods.
func (c *FakeCluster) DeleteInstance(namespace, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.instances, namespace+"/"+name)
}

// StatefulSet implements ipam.Owners.
func (c *FakeCluster) StatefulSet(_ context.Context, namespace, name string) (ipam.StatefulSet, error) {
	return owner(c, c.sets, namespace, name)
}

// VirtualMachineInstance implements ipam.Owners.
func (c *FakeCluster) VirtualMachineInstance(_ context.Context, namespace, name string) (ipam.VirtualMachineInstance, error) {
	return owner(c, c.instances, namespace, name)
}

func owner[T any](c *FakeCluster, all map[string]T, namespace, name string) (found T, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return found, ErrAway
	}
	found, ok := all[namespace+"/"+name]
	if !ok {
		return found, fmt.Errorf("%s/%s: %w", namespace, name, ipam.ErrNotFound)
	}
	return found, nil
}
