package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"spiderpool.dev/spiderpool/test/lab/internal/controlplane"
	"spiderpool.dev/spiderpool/test/lab/internal/machine"
)

// serveAPI forwards connections to the API server's port on the first node to the
// control plane.
func (c *Cluster) serveAPI(ctx context.Context) error {
	target, err := c.target(c.control().Name)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.api != nil {
		return nil
	}
	listener, err := target.Listen(ctx, "tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), controlplane.Port).String())
	if err != nil {
		return err
	}
	c.api = listener
	// The goroutine ends with the machine.
	go func() { _ = machine.Relay(context.WithoutCancel(ctx), listener, c.dialAPI) }()
	return nil
}

// dialAPI connects to the API server.
func (c *Cluster) dialAPI(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", c.ControlPlane.String())
}

// clientConfig is an administrator's client configuration.
func (c *Cluster) clientConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Dir.InnerKubeconfig())
	if err != nil {
		return nil, err
	}
	config.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dialAPI(ctx) }
	return config, nil
}

// waitNodes waits until every node has registered.
func (c *Cluster) waitNodes(ctx context.Context) error {
	config, err := c.clientConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	return c.daemons.Await(ctx, func(ctx context.Context) error {
		nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err == nil && len(nodes.Items) < len(c.Topology.Nodes) {
			err = fmt.Errorf("%d of %d nodes have registered", len(nodes.Items), len(c.Topology.Nodes))
		}
		return err
	})
}
