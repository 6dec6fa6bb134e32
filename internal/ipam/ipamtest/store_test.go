package ipamtest_test

import (
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
)

func TestStoreKeepsTheContract(t *testing.T) {
	ipamtest.Contract(t, func(*testing.T) ipamtest.OrderedBlocks { return &ipamtest.Store{} })
}

func TestFakeOwnersKeepTheContract(t *testing.T) {
	ipamtest.OwnersContract(t, owned{ipamtest.NewFakeCluster(time.Time{})}, "default")
}

type owned struct{ *ipamtest.FakeCluster }

func (c owned) CreateStatefulSet(_ *testing.T, name string, start, replicas int) (uid string) {
	c.SetStatefulSet("default", name, ipam.StatefulSet{UID: "uid-" + name, First: start, End: start + replicas})
	return "uid-" + name
}

func (c owned) CreateInstance(_ *testing.T, name string, activePods ...string) (uid string) {
	c.SetInstance("default", name, "uid-"+name, activePods...)
	return "uid-" + name
}
