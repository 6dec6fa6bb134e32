package enforcer

import (
	"testing"

	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/pool"
)

// wantedOf is the policy of a default interface; nothing for an open one.
func wantedOf(sets policy.Sets) (w packetfilter.Wanted) {
	if sets != (policy.Sets{}) {
		w.Interfaces = []packetfilter.Interface{{Name: pool.FirstInterface, Sets: sets}}
	}
	return w
}

// tables counts the filters in a namespace.
type tables func(namespace string) int

// filterContract is what an Enforcer relies on. The fake and packetfilter pass it.
func filterContract(t *testing.T, namespace string, open func(string) (Filter, error), clearAll func(string) error, count tables) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect := func(when string, want bool) {
		t.Helper()
		if got := count(namespace); (got > 0) != want {
			t.Errorf("%s: %d filters in the namespace", when, got)
		}
	}
	must(clearAll(namespace))
	expect("nothing to clear", false)
	f, err := open(namespace)
	must(err)
	must(f.Apply(wantedOf(isolated)))
	must(f.Apply(wantedOf(isolated)))
	expect("applied", true)
	if _, err := f.Drops(); err != nil {
		t.Error(err)
	}
	must(f.Close())
	expect("closed", true)
	f, err = open(namespace)
	must(err)
	must(f.Apply(wantedOf(isolated)))
	expect("taken over", true)
	must(f.Apply(wantedOf(policy.Sets{})))
	expect("opened", false)
	must(f.Close())
	expect("opened and closed", false)
	f, err = open(namespace)
	must(err)
	must(f.Apply(wantedOf(isolated)))
	must(f.Close())
	must(clearAll(namespace))
	expect("cleared", false)
	if _, err := open(namespace + "-missing"); err == nil {
		t.Error("opened a missing namespace")
	}
}

func TestFakeKeepsContract(t *testing.T) {
	n := newNode(t)
	_, at := n.pod("web")
	filterContract(t, at.NetNS, n.kernel.Open, n.kernel.Clear, func(namespace string) int {
		if _, ok := n.kernel.tables[namespace]; ok {
			return 1
		}
		return 0
	})
}
