//go:build kernel

package enforcer

import (
	"fmt"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
)

// applied is a filter that tells when the kernel has a change.
type applied struct {
	Filter
	done chan<- struct{}
}

func (a *applied) Apply(w packetfilter.Wanted) error {
	err := a.Filter.Apply(w)
	a.done <- struct{}{}
	return err
}

// BenchmarkHundredPodsFollowPolicy measures the time from the arrival of a policy at the agent until the kernel enforces
// it in all 100 pods of the node: for pods without any policy before ("first"), and for isolated ones ("next").
func BenchmarkHundredPodsFollowPolicy(b *testing.B) {
	const pods = 100
	l := newLAN(b)
	done := make(chan struct{}, pods)
	open := l.Open
	l.Open = func(path string) (Filter, error) {
		f, err := open(path)
		return &applied{f, done}, err
	}
	l.run()
	var all []ipam.Pod
	for i := range pods {
		_, pod, at := l.sandbox(fmt.Sprint("pod", i))
		l.admit(pod, at)
		all = append(all, pod)
	}
	follow := func(b *testing.B, peer string) {
		l.view.set(peer, nil, all...)
		l.ChangedAll(time.Now())
		for range pods {
			<-done
		}
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			follow(b, friendAddr)
			b.StopTimer()
			follow(b, "")
			b.StartTimer()
		}
	})
	b.Run("next", func(b *testing.B) {
		follow(b, friendAddr)
		peers := []string{strangerAddr, friendAddr}
		for i := 0; b.Loop(); i++ {
			follow(b, peers[i%2])
		}
	})
}
