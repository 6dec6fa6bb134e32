package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

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
		{Name: "cut the node off", Do: func(ctx context.Context) error {
			_, err := netns.Run(ctx, node.Namespace(), cut(node), "nft", "-f", "-")
			return err
		}},
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
		{Name: "remove rules and connections", Do: func(ctx context.Context) error { return forget(ctx, node) }},
		{Name: "connect the node", Do: func(ctx context.Context) error { return c.connect(ctx, node) }},
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

// cut are nftables rules that drop all packets that arrive at the node's links. While the kernel removes the network namespace
// of a pod, it removes the rules of nftables first, and then would answer packets, which no machine without power does.
func cut(node topology.Host) string {
	rules := "add table netdev reboot\n"
	for _, link := range node.Interfaces {
		rules += fmt.Sprintf("add chain netdev reboot %s { type filter hook ingress device %q priority -500; policy drop; }\n", link.Name, link.Name)
	}
	return rules
}

// podsGone returns an error until the links to pods have gone. The kernel removes their namespaces a moment after their processes.
func podsGone(node topology.Host) error {
	return netns.Netlink(node.Namespace(), func(handle *netlink.Handle) error {
		links, err := handle.LinkList()
		for _, link := range links {
			// The node's own links are ens5, ens6 and so on.
			if name := link.Attrs().Name; link.Type() == "veth" && !strings.HasPrefix(name, "ens") {
				return fmt.Errorf("link %s of node %s is still there", name, node.Name)
			}
		}
		return err
	})
}

// connect ends the cut once the pods have gone.
func (c *Cluster) connect(ctx context.Context, node topology.Host) error {
	if err := c.daemons.Await(ctx, func(context.Context) error { return podsGone(node) }); err != nil {
		return err
	}
	_, err := netns.Run(ctx, node.Namespace(), "", "nft", "delete", "table", "netdev", "reboot")
	return err
}

// forget removes all rules, but for the cut, and all tracked connections of a node.
func forget(ctx context.Context, node topology.Host) error {
	namespace := node.Namespace()
	for _, family := range netfilter.Families {
		if err := netfilter.Clear(ctx, namespace, family); err != nil {
			return err
		}
	}
	if _, err := netns.Run(ctx, namespace, "flush ruleset\n"+cut(node), "nft", "-f", "-"); err != nil { // in one transaction
		return err
	}
	_, err := netns.Run(ctx, namespace, "", "conntrack", "-F")
	return err
}
