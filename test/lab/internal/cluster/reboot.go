package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/cgroup"
	"spiderpool.dev/spiderpool/test/lab/internal/daemon"
	"spiderpool.dev/spiderpool/test/lab/internal/netfilter"
	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// reboot is the verb that restarts a node.
const reboot = "reboot"

// groupPatience bounds the wait for the end of a node's control groups.
const groupPatience = 30 * time.Second

// reboot restarts a node like a power failure: its processes and pods end, and with them everything in memory, which is
// /run, control groups with their eBPF programs, eBPF maps, the rules of nftables and iptables, and tracked connections.
// The node's disk stays. Its links, addresses, routes and sysctls stay, too, unlike on a real machine.
func (c *Cluster) reboot(ctx context.Context, node topology.Host) error {
	c.mu.Lock()
	process := c.nodes[node.Name]
	c.mu.Unlock()
	if process == nil {
		return fmt.Errorf("node %s is not running", node.Name)
	}
	return action.Do(ctx, []action.Action{
		{Name: "cut the node off", Do: func(ctx context.Context) error { return cutOff(ctx, node) }},
		{Name: "stop the daemons", Do: func(ctx context.Context) error { return c.daemons.Stop(ctx, c.daemonsOf(node)...) }},
		{Name: "end all processes", Do: func(context.Context) error {
			// With the first process, the kernel ends the others, and then the mounts.
			if err := process.Kill(); err != nil {
				return err
			}
			if _, err := process.Wait(); err != nil {
				return err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.nodes, node.Name)
			return nil
		}},
		{Name: "remove the control groups", Do: func(context.Context) error { return cgroup.Remove(c.group(node), groupPatience) }},
		{Name: "remove rules and connections", Do: func(ctx context.Context) error { return forget(ctx, node.Namespace()) }},
		{Name: "start the node", Do: c.startNodes},
		c.daemons.Action("start containerd", of(node, c.containerd)),
		{Name: "containerd is ready", Do: c.waitContainerd},
		c.daemons.Action("start kubelet and kube-proxy", of(node, c.nodeAgents)),
	})
}

// daemonsOf returns the names of the daemons on a node.
func (c *Cluster) daemonsOf(node topology.Host) []string {
	var names []string
	for _, d := range c.daemons.Status() {
		if strings.HasPrefix(d.Name, node.Name+"/") {
			names = append(names, d.Name)
		}
	}
	return names
}

// of returns only the daemons on a node.
func of(node topology.Host, specs func() ([]daemon.Spec, error)) func() ([]daemon.Spec, error) {
	return func() ([]daemon.Spec, error) {
		list, err := specs()
		return slices.DeleteFunc(list, func(s daemon.Spec) bool { return !strings.HasPrefix(s.Name, node.Name+"/") }), err
	}
}

// cutOff drops all packets that arrive at the node's links, until forget. While the kernel removes the network namespace of a
// pod, it removes the rules of nftables first, and then would answer packets, which no machine without power does.
func cutOff(ctx context.Context, node topology.Host) error {
	rules := "add table netdev reboot\n"
	for _, link := range node.Interfaces {
		rules += fmt.Sprintf("add chain netdev reboot %s { type filter hook ingress device %q priority -500; policy drop; }\n", link.Name, link.Name)
	}
	_, err := netns.Run(ctx, node.Namespace(), rules, "nft", "-f", "-")
	return err
}

// forget removes all rules and tracked connections of a network namespace.
func forget(ctx context.Context, namespace string) error {
	for _, family := range netfilter.Families {
		if err := netfilter.Clear(ctx, namespace, family); err != nil {
			return err
		}
	}
	for _, command := range [][]string{{"nft", "flush", "ruleset"}, {"conntrack", "-F"}} {
		if _, err := netns.Run(ctx, namespace, "", command...); err != nil {
			return err
		}
	}
	return nil
}
