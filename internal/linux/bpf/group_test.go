package bpf

import "testing"

func TestBestGroupOfPodsComesFirst(t *testing.T) {
	for _, c := range []struct {
		name, self  string
		hybrid      bool
		first, last string
	}{
		{"systemd", "0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-1.scope\n", false, "/kubepods.slice", "/kubepods"},
		{"cgroupfs", "0::/kubepods/burstable/pod1/2\n", false, "/kubepods", "/kubepods"},
		{"cgroupRoot of the kubelet", "0::/lab/worker1/kubepods/besteffort/pod1/2\n", false, "/lab/worker1/kubepods", "/kubepods"},
		{"kind", "0::/kubelet.slice/kubelet-kubepods.slice/x.scope\n", false, "/kubelet.slice/kubelet-kubepods.slice", "/kubepods"},
		{"unknown", "0::/\n", false, "/kubepods.slice", "/kubepods"},
		{"v1 with systemd", "12:cpu:/kubepods/1\n0::/kubepods.slice/x.scope\n", true, "/kubepods.slice", "/kubepods.slice/x.scope"},
		{"v1 with cgroupfs", "12:cpu:/kubepods/1\n0::/system.slice/containerd.service\n", true, "/kubepods.slice", "/system.slice/containerd.service"},
		{"v1 only", "12:cpu:/kubepods/1\n", true, "/kubepods.slice", "/kubepods"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := groupCandidates(unifiedPath(c.self), c.hybrid)
			if got[0] != c.first || got[len(got)-1] != c.last {
				t.Errorf("got %q, want %s first and %s last", got, c.first, c.last)
			}
		})
	}
}
