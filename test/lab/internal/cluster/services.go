package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/daemon"
	"spiderpool.dev/spiderpool/test/lab/internal/ns"
	"spiderpool.dev/spiderpool/test/lab/internal/registry"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
	"spiderpool.dev/spiderpool/test/lab/internal/vpc"
)

// network builds the topology's network, and starts its ARP and NDP responders and the API that changes it.
func (c *Cluster) network() []action.Action {
	return append(vpc.Actions(c.Topology),
		c.daemons.Action("network: neighbour service", c.neighbours),
		c.daemons.Action("network: API of the cloud", c.cloudAPI),
		action.Action{Name: "network: nodes forward", Do: c.forward})
}

// neighbours starts the ARP and NDP responders of a VPC.
func (c *Cluster) neighbours() ([]daemon.Spec, error) {
	if c.Topology.Kind != topology.KindAWS {
		return nil, nil
	}
	return []daemon.Spec{c.self("neighbours")}, nil
}

// cloudAPI starts the API of the cloud, if the topology has one.
func (c *Cluster) cloudAPI() ([]daemon.Spec, error) {
	if _, ok := c.Topology.CloudAddress(); !ok {
		return nil, nil
	}
	return []daemon.Spec{c.self("cloud-api")}, nil
}

// self returns a daemon that runs a subcommand of the lab's program.
func (c *Cluster) self(command string) daemon.Spec {
	return daemon.Spec{Name: "lab/" + command, Args: []string{c.Dir.Program(), command}, Env: append(os.Environ(), c.environment()...)}
}

// forward enables IP forwarding on every node, a requirement of Kubernetes.
func (c *Cluster) forward(context.Context) error {
	return c.eachNode(func(node topology.Host) error {
		target := ns.Target{Net: filepath.Join("/run/netns", node.Namespace())}
		return target.Do(func() error {
			for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
				if err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte("1"), 0); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// serveRegistry serves the lab's images on the topology's registry host.
func (c *Cluster) serveRegistry(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.registry != nil {
		return nil
	}
	log, err := os.OpenFile(filepath.Join(c.Dir.Logs(), "registry.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	pushed := filepath.Join(c.Dir.Volatile(), "registry")
	if err := os.MkdirAll(pushed, 0o755); err != nil {
		return err
	}
	images := registry.New(pushed, log)
	for _, archive := range c.Archives {
		if err := images.Offer(archive); err != nil {
			return err
		}
	}
	target := ns.Target{Net: filepath.Join("/run/netns", topology.HostNamespace(c.Topology.Registry.Host))}
	listener, err := target.Listen(ctx, "tcp", c.Topology.RegistryAddress().String())
	if err != nil {
		return err
	}
	c.registry = listener
	server := &http.Server{Handler: images, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer log.Close()
		if err := server.Serve(listener); !errors.Is(err, net.ErrClosed) {
			fmt.Fprintln(log, "serve:", err)
		}
	}()
	return nil
}

// loadBalancer starts the load balancers of Services and Ingresses.
func (c *Cluster) loadBalancer() ([]daemon.Spec, error) {
	return []daemon.Spec{c.self("load-balancer")}, nil
}
