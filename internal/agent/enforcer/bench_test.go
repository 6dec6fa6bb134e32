package enforcer

import "testing"

// The ADD and DEL of a pod that no policy selects, without the requests that carry them.
func BenchmarkOpenPod(b *testing.B) {
	n := newNode(b)
	pod, at := n.pod("web")
	for b.Loop() {
		for range 2 { // of the IPAM plugin, and of the coordinator
			if err := n.Admit(b.Context(), at, pod); err != nil {
				b.Fatal(err)
			}
		}
		n.Forget(at)
	}
	if n.kernel.opened > 0 {
		b.Errorf("%d filters", n.kernel.opened)
	}
}
