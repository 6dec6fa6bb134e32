package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

// task is one ADD or CHECK.
type task struct {
	conf       *conf
	args       *skel.CmdArgs
	attachment wire.Attachment
	previous   *types100.Result
	mode       string // underlay, overlay or disabled
	macPrefix  string
	settings   netplan.Settings
	// interfaces are those that the pod asks for, nil where that is not known;
	// ownWish says that the pod itself names the one with the default route.
	interfaces []string
	ownWish    bool
	host, pod  *linux.Namespace
	veth       netplan.VethPair
	plan       netplan.Plan
	changes    struct{ node, host, pod netplan.Changes }
}

// open asks the agent, opens both namespaces and decides the mode.
func open(c *conf, args *skel.CmdArgs, previous *types100.Result) (*task, error) {
	attachment, err := attachmentOf(args)
	if err != nil {
		return nil, err
	}
	reply, err := c.agent().Coordinator(context.Background(), wire.CoordinatorRequest{Attachment: attachment})
	if err != nil {
		return nil, err
	}
	t := &task{conf: c, args: args, attachment: attachment, previous: previous, veth: netplan.VethPairOf(args.ContainerID),
		interfaces: reply.PodInterfaces, ownWish: reply.PodDefaultRouteNIC != ""}
	if t.mode, t.macPrefix, t.settings, err = c.settings(reply); err != nil {
		return nil, err
	}
	if t.mode != modeDisabled && len(t.settings.ServiceCIDR) == 0 {
		return nil, types.NewError(wire.CodeTryAgainLater, "the service network of the cluster is not known yet",
			"see the status of SpiderCoordinator default, or set serviceCIDR in the coordinator's configuration")
	}
	if t.host, err = linux.Current(); err != nil {
		return nil, err
	}
	if t.pod, err = linux.Open(args.Netns); err != nil {
		t.host.Close()
		return nil, types.NewError(wire.CodeInvalidEnvironment, "CNI_NETNS is no network namespace", err.Error())
	}
	if err := t.decideMode(); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *task) close() {
	t.pod.Close()
	t.host.Close()
}

// decideMode resolves auto: a pod whose first interface is ours is on the
// underlay, and so are its further ones; where the first is another network's,
// the further ones are arranged around it.
func (t *task) decideMode() error {
	if t.mode != modeAuto {
		return nil
	}
	if t.args.IfName == t.conf.PodDefaultCNINIC {
		t.mode = modeUnderlay
		return nil
	}
	_, hasVeth, err := t.pod.HasLink(netplan.PodVeth)
	if err != nil {
		return err
	}
	t.mode = modeOverlay
	if hasVeth {
		t.mode = modeUnderlay
	}
	return nil
}

// arrange plans and applies. What all pods of the node share is made first and
// stays if the rest fails, because other pods may rely on it by then.
func (t *task) arrange() error {
	if err := t.compare(); err != nil {
		return err
	}
	if err := t.host.ApplyEach(t.changes.node); err != nil {
		return fmt.Errorf("prepare the node: %w", err)
	}
	if err := t.host.Apply(t.changes.host, t.pod); err != nil {
		return fmt.Errorf("on the node: %w", err)
	}
	if err := t.pod.Apply(t.changes.pod, nil); err != nil {
		err = fmt.Errorf("in the pod: %w", err)
		if back := t.host.Apply(t.changes.host.Inverse(), t.pod); back != nil {
			err = errors.Join(err, fmt.Errorf("taking back what was made on the node: %w", back))
		}
		return err
	}
	return nil
}

// differences is what a CHECK finds, "" for nothing. Attachments that came later
// may have moved the default route, so there has to be one, wherever.
func (t *task) differences() (string, error) {
	t.settings.DefaultNIC = ""
	if err := t.compare(); err != nil {
		return "", err
	}
	return t.log(), nil
}

// compare reads both namespaces, makes the plan and finds the changes.
func (t *task) compare() error {
	inPod, err := t.pod.ReadAll()
	if err != nil {
		return err
	}
	pod := netplan.PodOf(inPod, t.conf.PodDefaultCNINIC)
	pod.Attached = t.args.IfName
	if err := t.completeFromResult(&pod); err != nil {
		return err
	}
	node, err := t.readNode()
	if err != nil {
		return err
	}
	if t.plan, err = t.makePlan(pod, node); err != nil {
		return err
	}
	sysctls, err := t.pod.ReadNamed(t.plan.Pod)
	if err != nil {
		return err
	}
	t.changes.pod = netplan.Diff(append(inPod, sysctls...), t.plan.Pod, t.plan.Removable)
	onHost, err := t.host.ReadRelated(t.plan.Host)
	if err != nil {
		return err
	}
	t.changes.host = netplan.Diff(onHost, t.plan.Host, t.staleHostRoute(pod))
	if err := t.refuseForeignPair(inPod, onHost); err != nil {
		return err
	}
	t.changes.node, err = t.host.CompareNode(t.settings.HostRuleTable, pod.Families())
	return err
}

// refuseForeignPair reports a pair of this name that ends in another namespace.
func (t *task) refuseForeignPair(inPod, onHost netplan.State) error {
	has := func(st netplan.State, name string) bool {
		return slices.ContainsFunc(st, func(it netplan.Item) bool { return it.Key() == netplan.Link{Name: name}.Key() })
	}
	if !has(onHost, t.veth.Host) || has(inPod, netplan.PodVeth) {
		return nil
	}
	return types.NewError(wire.CodeConflict, fmt.Sprintf("the node's interface %s is there and does not lead to this pod", t.veth.Host),
		"it is named after the first digits of the container ID "+t.args.ContainerID+"; delete it if no pod uses it")
}

func (t *task) readNode() (netplan.Node, error) {
	addrs, err := t.host.NodeAddrs()
	return netplan.Node{Addrs: addrs, IPv6: t.host.HasIPv6()}, err
}

func (t *task) makePlan(pod netplan.Pod, node netplan.Node) (netplan.Plan, error) {
	if len(pod.NICs) == 0 {
		return netplan.Plan{Removable: func(netplan.Item) bool { return false }}, nil // attachments without addresses need no routes
	}
	if err := t.unknownNIC(pod); err != nil {
		return netplan.Plan{}, err
	}
	if t.mode == modeUnderlay {
		return netplan.Underlay(pod, node, t.settings, t.veth)
	}
	hostDev, err := t.pod.HostEnd(pod.NICs[0].Name, t.host)
	if err != nil {
		return netplan.Plan{}, err
	}
	return netplan.Overlay(pod, node, t.settings, hostDev)
}

// staleHostRoute returns what tells the node's routes to addresses that the pod had.
func (t *task) staleHostRoute(pod netplan.Pod) func(netplan.Item) bool {
	has := map[netip.Addr]bool{}
	for _, nic := range pod.NICs {
		for _, a := range nic.Addrs {
			has[a.Addr()] = true
		}
	}
	return func(it netplan.Item) bool {
		r, ok := it.(netplan.Route)
		return ok && netplan.Owned(it) && r.Dev == t.veth.Host && !has[r.Dst.Addr()]
	}
}

// completeFromResult adds the gateways of the main plugin's result, which may have
// made no default route of them.
func (t *task) completeFromResult(pod *netplan.Pod) error {
	for i := range pod.NICs {
		if pod.NICs[i].Name != t.args.IfName {
			continue
		}
		for _, gw := range gatewaysOf(t.previous, t.args.IfName) {
			pod.NICs[i].AddGateway(gw)
		}
		return nil
	}
	if len(t.previous.IPs) == 0 {
		return nil
	}
	return types.NewError(wire.CodeInvalidConfig,
		fmt.Sprintf("prevResult has addresses, but the pod's interface %s has none", t.args.IfName),
		"coordinator must be chained directly behind the main plugin")
}

// log is what was to change, for the log file and for CHECK.
func (t *task) log() string {
	var b strings.Builder
	for _, part := range []struct {
		where   string
		changes netplan.Changes
	}{{"node", t.changes.node}, {"host", t.changes.host}, {"pod", t.changes.pod}} {
		for _, c := range part.changes {
			b.WriteString(part.where + ": " + c.String() + "\n")
		}
	}
	return b.String()
}
