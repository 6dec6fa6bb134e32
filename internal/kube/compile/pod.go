package compile

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// PodUID returns the UID that runtimes and CNI plugins use for a pod with this UID
// and these annotations. They differ for a static pod: the API server holds only its
// mirror, and the kubelet writes the UID of the static pod into an annotation.
func PodUID(uid types.UID, annotations map[string]string) string {
	if static := annotations[corev1.MirrorPodAnnotationKey]; static != "" {
		return static
	}
	return string(uid)
}
