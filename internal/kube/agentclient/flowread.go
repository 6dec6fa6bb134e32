package agentclient

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/service"
)

// PodFacts reads a pod of any node. If there is none of the name, it returns ipam.ErrNotFound.
func (c *Cluster) PodFacts(ctx context.Context, name lease.PodKey) (ipam.Pod, error) {
	object, err := c.client.metadata.Resource(podResource).Namespace(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return ipam.Pod{}, fmt.Errorf("pod %s: %w", name, ipam.ErrNotFound)
	}
	if err != nil {
		return ipam.Pod{}, fmt.Errorf("read pod %s: %w", name, err)
	}
	return podOf(object), nil
}

// FollowNodes calls changed with each node and its first address for internal traffic, and after each change, until ctx ends. The
// address is the zero value for a node that is gone. Calls are serialized.
func (c *Client) FollowNodes(ctx context.Context, changed func(node string, addr netip.Addr), log *slog.Logger) {
	store := &mirror[service.Node]{
		convert: func(object any) *service.Node {
			node := compile.ServiceNode(object.(*corev1.Node))
			if len(node.Addrs) == 0 {
				return nil
			}
			return &node
		},
		set:    func(node *service.Node, _ origin) { changed(node.Name, node.Addrs[0]) },
		remove: func(node key, _ origin) { changed(node.name, netip.Addr{}) },
		synced: func() {},
	}
	watchObjects(ctx, log, c.core, nodesKind, metav1.ListOptions{}, &corev1.Node{}, store)
}
