package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

// operation is one ADD or CHECK.
type operation struct {
	conf       *conf
	call       *plugin.Call
	attachment wire.Attachment
	previous   *types100.Result
	settings   netplan.Settings // after open, the mode is not auto
	// interfaces are the interfaces in the pod's annotations, nil if unknown.
	// podChoseNIC is true if an annotation of the pod names the default-route
	// interface.
	interfaces  []string
	podChoseNIC bool
	// limit is the bandwidth of the interface. keepLimit means that it is unknown,
	// because an annotation is invalid: ADD fails, and CHECK accepts any limit.
	limit     netplan.Limit
	keepLimit string
	// sources are the networks that the pod may send from besides its addresses.
	sources   []netip.Prefix
	host, pod *linux.Namespace
	veth      netplan.VethPair
	plan      netplan.Plan
	changes   struct{ node, host, pod netplan.Changes }
}

// open gets the settings from the agent, opens both namespaces and decides the
// mode.
func open(c *conf, call *plugin.Call) (*operation, error) {
	previous, err := call.Previous()
	if err != nil {
		return nil, err
	}
	attachment, err := call.Attachment()
	if err != nil {
		return nil, err
	}
	reply, err := call.Agent().Coordinator(context.Background(), wire.CoordinatorRequest{Attachment: attachment})
	if err != nil {
		return nil, err
	}
	o := &operation{conf: c, call: call, attachment: attachment, previous: previous, veth: netplan.VethPairOf(call.ContainerID),
		interfaces: reply.PodInterfaces, podChoseNIC: reply.PodDefaultRouteNIC != "", keepLimit: reply.RatesFault}
	o.limit = netplan.Limit{Dev: call.IfName, Rates: reply.Rates[call.IfName], Fixed: c.rates}
	// Without a request for this interface, Multus passes the rates of the pod.
	if call.IfName != c.PodDefaultCNINIC && c.rates == reply.PodRates {
		o.limit.Fixed = netplan.Rates{}
	}
	if o.settings, err = c.settings(reply); err != nil {
		return nil, err
	}
	if o.sources = reply.Sources; o.settings.AntiSpoof && reply.SourcesFault != "" {
		return nil, types.NewError(wire.CodeRefused, "the pod may not send from other addresses than its own", reply.SourcesFault)
	}
	if o.settings.Mode != netplan.ModeDisabled && len(o.settings.ServiceCIDR) == 0 {
		return nil, types.NewError(wire.CodeTryAgainLater, "the cluster's service network is unknown",
			"see the status of SpiderCoordinator default, or set serviceCIDR in the coordinator's configuration")
	}
	if o.host, err = linux.Current(); err != nil {
		return nil, err
	}
	if o.pod, err = linux.Open(call.Netns); err != nil {
		o.host.Close()
		return nil, types.NewError(wire.CodeInvalidEnvironment, "CNI_NETNS is not a network namespace", err.Error())
	}
	if err := o.decideMode(); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

func (o *operation) close() {
	o.pod.Close()
	o.host.Close()
}

// decideMode resolves the mode auto. A pod is on the underlay if its first
// interface is ours. Otherwise the first interface belongs to another network,
// and the further ones are added to an overlay.
func (o *operation) decideMode() error {
	if o.settings.Mode != netplan.ModeAuto {
		return nil
	}
	if o.call.IfName == o.conf.PodDefaultCNINIC {
		o.settings.Mode = netplan.ModeUnderlay
		return nil
	}
	_, hasVeth, err := o.pod.HasLink(netplan.PodVeth)
	if err != nil {
		return err
	}
	o.settings.Mode = netplan.ModeOverlay
	if hasVeth {
		o.settings.Mode = netplan.ModeUnderlay
	}
	return nil
}

// arrange makes and applies the plan. State that all pods of the node share
// comes first and stays if the rest fails, because other pods may use it by
// then.
func (o *operation) arrange() error {
	if err := o.compare(); err != nil {
		return err
	}
	if err := o.host.ApplyEach(o.changes.node); err != nil {
		return fmt.Errorf("prepare the node: %w", err)
	}
	if err := o.host.Apply(o.changes.host, o.pod); err != nil {
		return fmt.Errorf("on the node: %w", err)
	}
	if err := o.pod.Apply(o.changes.pod, nil); err != nil {
		err = fmt.Errorf("in the pod: %w", err)
		if back := o.host.Apply(o.changes.host.Inverse(), o.pod); back != nil {
			err = errors.Join(err, fmt.Errorf("undo the changes on the node: %w", back))
		}
		return err
	}
	return nil
}

// differences returns the findings of CHECK, "" for none. A later attachment may
// have moved the default route, so any interface may have it.
func (o *operation) differences() (string, error) {
	o.settings.DefaultNIC = ""
	if err := o.compare(); err != nil {
		return "", err
	}
	return o.log(), nil
}

// compare reads both namespaces, makes the plan and finds the changes.
func (o *operation) compare() error {
	inPod, err := o.pod.ReadAll()
	if err != nil {
		return err
	}
	pod := netplan.PodOf(inPod, o.conf.PodDefaultCNINIC)
	pod.Attached = o.call.IfName
	group, exists, err := o.host.LinkGroup(o.veth.Host)
	if err != nil {
		return err
	}
	pod.Masqueraded = exists && group != netplan.ReplyGroup
	if err := o.completeFromResult(&pod); err != nil {
		return err
	}
	node, err := o.readNode()
	if err != nil {
		return err
	}
	if o.plan, err = o.makePlan(pod, node); err != nil {
		return err
	}
	o.planLimit(inPod)
	guards, err := o.planGuards(inPod)
	if err != nil {
		return err
	}
	named, err := o.pod.ReadNamed(slices.DeleteFunc(slices.Clone(o.plan.Pod), func(it netplan.Item) bool {
		mark, is := it.(netplan.ReplyMark)
		return is && !has(inPod, mark.Dev) // a new pod has none
	}))
	if err != nil {
		return err
	}
	o.changes.pod = netplan.Diff(slices.Concat(inPod, named, guards), o.plan.Pod, o.plan.Removable)
	onHost, err := o.host.ReadRelated(o.plan.Host)
	if err != nil {
		return err
	}
	o.changes.host = netplan.Diff(onHost, o.plan.Host, o.staleHostRoute(pod))
	if err := o.refuseForeignPair(inPod, onHost); err != nil {
		return err
	}
	o.changes.node, err = o.host.CompareNode(o.settings.HostRuleTable, pod.Families())
	return err
}

// planLimit adds the limits of the interface to the plan. They include the veth pair's
// packets if the interface is the pod's first: the pair belongs to it.
func (o *operation) planLimit(inPod netplan.State) {
	o.limit.WithVeth = o.call.IfName == o.conf.PodDefaultCNINIC && has(o.plan.Pod, netplan.PodVeth)
	if o.keepLimit != "" {
		return
	}
	o.plan.Pod = append(o.plan.Pod, o.limit.Shape(slices.Concat(inPod, o.plan.Pod))...)
	arranges := o.plan.Removable
	o.plan.Removable = func(it netplan.Item) bool { return arranges(it) || o.limit.Removable(it) }
}

// planGuards adds the guards of the interface to the plan, and returns the present ones.
func (o *operation) planGuards(inPod netplan.State) (netplan.State, error) {
	guards, err := o.pod.Guards()
	if err != nil {
		return nil, err
	}
	g := netplan.Guarding{
		Dev: o.call.IfName, On: o.settings.AntiSpoof, WithVeth: o.limit.WithVeth, Addrs: plugin.Addresses(o.previous),
		VethMAC: o.veth.PodMAC, VethAddr: o.settings.VethLinkAddr, Exceptions: o.sources,
	}
	if g.On {
		if g.LinkLocal, err = o.pod.LinkLocal(g.Dev); err != nil {
			return nil, err
		}
	}
	o.plan.Pod = append(o.plan.Pod, g.Plan(append(slices.Clone(inPod), guards...))...)
	arranges := o.plan.Removable
	o.plan.Removable = func(it netplan.Item) bool { return arranges(it) || g.Removable(it) }
	return guards, nil
}

// has reports whether a state has a link of the name.
func has(st netplan.State, name string) bool {
	return slices.ContainsFunc(st, func(it netplan.Item) bool { return it.Key() == netplan.Link{Name: name}.Key() })
}

// refuseForeignPair returns an error if a pair with this name leads to another
// namespace.
func (o *operation) refuseForeignPair(inPod, onHost netplan.State) error {
	if !has(onHost, o.veth.Host) || has(inPod, netplan.PodVeth) {
		return nil
	}
	return types.NewError(wire.CodeConflict, fmt.Sprintf("the node's interface %s exists and does not lead to this pod", o.veth.Host),
		"it is named after the first digits of the container ID "+o.call.ContainerID+"; delete it if no pod uses it")
}

func (o *operation) readNode() (netplan.Node, error) {
	addrs, err := o.host.NodeAddrs()
	return netplan.Node{Addrs: addrs, IPv6: o.host.HasIPv6()}, err
}

func (o *operation) makePlan(pod netplan.Pod, node netplan.Node) (netplan.Plan, error) {
	if len(pod.NICs) == 0 {
		return netplan.Plan{Removable: func(netplan.Item) bool { return false }}, nil // attachments without addresses need no routes
	}
	if err := o.checkNIC(pod); err != nil {
		return netplan.Plan{}, err
	}
	if o.settings.Mode == netplan.ModeUnderlay {
		return netplan.Underlay(pod, node, o.settings, o.veth)
	}
	hostDev, err := o.pod.HostEnd(pod.NICs[0].Name, o.host)
	if err != nil {
		return netplan.Plan{}, err
	}
	return netplan.Overlay(pod, node, o.settings, hostDev)
}

// staleHostRoute returns a filter for the node's routes to addresses that the
// pod no longer has.
func (o *operation) staleHostRoute(pod netplan.Pod) func(netplan.Item) bool {
	has := map[netip.Addr]bool{}
	for _, nic := range pod.NICs {
		for _, a := range nic.Addrs {
			has[a.Addr()] = true
		}
	}
	return func(it netplan.Item) bool {
		r, ok := it.(netplan.Route)
		return ok && netplan.Owned(it) && r.Dev == o.veth.Host && !has[r.Dst.Addr()]
	}
}

// completeFromResult adds the gateways of the main plugin's result. The main
// plugin may have made no default routes for them.
func (o *operation) completeFromResult(pod *netplan.Pod) error {
	for i := range pod.NICs {
		if pod.NICs[i].Name != o.call.IfName {
			continue
		}
		for _, gw := range gatewaysOf(o.previous, o.call.IfName) {
			pod.NICs[i].AddGateway(gw)
		}
		return nil
	}
	if len(o.previous.IPs) == 0 {
		return nil
	}
	return types.NewError(wire.CodeInvalidConfig,
		fmt.Sprintf("prevResult has addresses, but the pod's interface %s has none", o.call.IfName),
		"coordinator must be chained directly behind the main plugin")
}

// log returns the changes of the plan as text, for the log file and for CHECK.
func (o *operation) log() string {
	var b strings.Builder
	for _, part := range []struct {
		where   string
		changes netplan.Changes
	}{{"node", o.changes.node}, {"host", o.changes.host}, {"pod", o.changes.pod}} {
		for _, c := range part.changes {
			b.WriteString(part.where + ": " + c.String() + "\n")
		}
	}
	return b.String()
}
