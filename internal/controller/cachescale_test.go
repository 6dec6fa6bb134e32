//go:build scale

package controller

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	cachedPods   = 100_000
	cachedMemory = 200 << 20
)

// TestCachedPodsFit measures the memory of the cached pods of a large cluster, as podStripper leaves them.
//
//	go test -tags scale -run CachedPodsFit -v ./internal/controller
func TestCachedPodsFit(t *testing.T) {
	before := heap()
	pods := make([]any, cachedPods)
	var strip podStripper
	for i := range pods {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: fmt.Sprint("n", i%100), Name: fmt.Sprintf("app%d-5b8d34ac1a-%d", i/20, i), UID: types.UID(fmt.Sprintf("3f2c51cb-0f5b-4d34-ac1a-%012d", i)), ResourceVersion: fmt.Sprint(i),
				Labels:          map[string]string{"app": fmt.Sprint("app", i/20), "pod-template-hash": "5b8d34ac1a", "app.kubernetes.io/managed-by": "Helm", "tier": "x"},
				Annotations:     map[string]string{"kubernetes.io/config.seen": "x", "k8s.v1.cni.cncf.io/networks": "kube-system/ipvlan-ens5"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: fmt.Sprintf("app%d-5b8d34ac1a", i/20), UID: types.UID(fmt.Sprintf("4f2c51cb-0f5b-4d34-ac1a-%012d", i/20))}},
			},
			Spec: corev1.PodSpec{NodeName: fmt.Sprint("node-", i%5000), Containers: []corev1.Container{
				{Name: "app", Image: "registry.example/app:1", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "metrics", ContainerPort: 9090}}},
			}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)},
		}
		pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
		stripped, err := strip.strip(pod)
		if err != nil {
			t.Fatal(err)
		}
		pods[i] = stripped
	}
	size := heap() - before
	t.Logf("%d pods: %d MiB", cachedPods, size>>20)
	if size > cachedMemory {
		t.Errorf("want at most %d MiB", cachedMemory>>20)
	}
	runtime.KeepAlive(pods)
}

func heap() int {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}
