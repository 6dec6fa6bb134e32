package cli

import (
	"fmt"
	"slices"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// flowFilters are the filters of observe. Each flag sets fields of both results: source is the filter for flags about either
// end at the source, destination the one at the destination.
type flowFilters struct {
	ip, label, pod, namespace, port, service, workload                     []string
	fromIP, fromLabel, fromPod, fromNamespace, fromPort, fromWorkload      []string
	toIP, toLabel, toPod, toNamespace, toPort, toService, toWorkload       []string
	toFQDN, verdicts, reasons, protocols, tcpFlags, directions, nodes, nic []string
}

func (o *flowFilters) flags(cmd *cobra.Command) {
	list := func(to *[]string, name, usage string) { cmd.Flags().StringSliceVar(to, name, nil, usage) }
	for _, end := range []struct {
		prefix, where                             string
		ip, label, pod, namespace, port, workload *[]string
	}{
		{"", "at either end", &o.ip, &o.label, &o.pod, &o.namespace, &o.port, &o.workload},
		{"from-", "at the source", &o.fromIP, &o.fromLabel, &o.fromPod, &o.fromNamespace, &o.fromPort, &o.fromWorkload},
		{"to-", "at the destination", &o.toIP, &o.toLabel, &o.toPod, &o.toNamespace, &o.toPort, &o.toWorkload},
	} {
		list(end.pod, end.prefix+"pod", "pod "+end.where+", NAMESPACE/PREFIX of its name; without a namespace, that is default")
		list(end.namespace, end.prefix+"namespace", "namespace of the pod "+end.where)
		list(end.ip, end.prefix+"ip", "address or network "+end.where+", e.g. 10.6.0.0/16")
		cmd.Flags().StringArrayVar(end.label, end.prefix+"label", nil, "label selector of the pod "+end.where+", e.g. app=web")
		list(end.port, end.prefix+"port", "port or range "+end.where+", e.g. 80 or 8000-8080")
		list(end.workload, end.prefix+"workload", "controller of the pod "+end.where+", as KIND/NAME or NAME, e.g. Deployment/web")
	}
	list(&o.toService, "to-service", "Service that the client connected to, written like a pod")
	list(&o.service, "service", "the same as --to-service")
	list(&o.toFQDN, "to-fqdn", `DNS name of that Service, with "*" for any letters, e.g. *.shop.svc.cluster.local`)
	list(&o.verdicts, "verdict", "FORWARDED or DROPPED")
	list(&o.reasons, "drop-reason-desc", "reason of a drop: POLICY_DENIED, or INVALID_SOURCE_IP for anti-spoofing")
	list(&o.protocols, "protocol", "tcp, udp, sctp, icmp, icmpv4 or icmpv6")
	cmd.Flags().StringArrayVar(&o.tcpFlags, "tcp-flags", nil, "TCP flags, all of them, e.g. SYN,ACK")
	list(&o.directions, "traffic-direction", "ingress or egress, as the pod of the node sees the connection")
	list(&o.nodes, "node-name", `node, with "*" for any letters`)
	list(&o.nic, "interface", "interface of the pod, e.g. net1")
}

// build returns the filters of a request: none selects all flows.
func (o *flowFilters) build() ([]*flowpb.FlowFilter, error) {
	common := &flowpb.FlowFilter{
		SourceIp: o.fromIP, SourceLabel: o.fromLabel, SourcePod: podsIn(o.fromPod, o.fromNamespace), SourcePort: o.fromPort, SourceWorkload: workloadsOf(o.fromWorkload),
		DestinationIp: o.toIP, DestinationLabel: o.toLabel, DestinationPod: podsIn(o.toPod, o.toNamespace), DestinationPort: o.toPort, DestinationWorkload: workloadsOf(o.toWorkload),
		DestinationService: slices.Concat(o.service, o.toService), DestinationFqdn: o.toFQDN, Protocol: o.protocols, NodeName: o.nodes,
	}
	for _, name := range o.nic {
		common.Interface = append(common.Interface, &flowpb.NetworkInterface{Name: name})
	}
	var err error
	if common.Verdict, err = values[flowpb.Verdict]("verdict", o.verdicts, flowpb.Verdict_value); err != nil {
		return nil, err
	}
	if common.DropReasonDesc, err = values[flowpb.DropReason]("drop-reason-desc", o.reasons, flowpb.DropReason_value); err != nil {
		return nil, err
	}
	if common.TrafficDirection, err = values[flowpb.TrafficDirection]("traffic-direction", o.directions, flowpb.TrafficDirection_value); err != nil {
		return nil, err
	}
	if common.TcpFlags, err = tcpFlagsOf(o.tcpFlags); err != nil {
		return nil, err
	}
	return o.atEitherEnd(common), nil
}

// atEitherEnd returns the filter for the flags about either end: one with them at the source, and one at the destination.
func (o *flowFilters) atEitherEnd(common *flowpb.FlowFilter) []*flowpb.FlowFilter {
	pods := podsIn(o.pod, o.namespace)
	if len(o.ip)+len(o.label)+len(pods)+len(o.port)+len(o.workload) == 0 {
		return []*flowpb.FlowFilter{common}
	}
	source, destination := proto.CloneOf(common), proto.CloneOf(common)
	source.SourceIp, destination.DestinationIp = append(source.SourceIp, o.ip...), append(destination.DestinationIp, o.ip...)
	source.SourceLabel, destination.DestinationLabel = append(source.SourceLabel, o.label...), append(destination.DestinationLabel, o.label...)
	source.SourcePod, destination.DestinationPod = append(source.SourcePod, pods...), append(destination.DestinationPod, pods...)
	source.SourcePort, destination.DestinationPort = append(source.SourcePort, o.port...), append(destination.DestinationPort, o.port...)
	source.SourceWorkload = append(source.SourceWorkload, workloadsOf(o.workload)...)
	destination.DestinationWorkload = append(destination.DestinationWorkload, workloadsOf(o.workload)...)
	return []*flowpb.FlowFilter{source, destination}
}

// podsIn returns the pods, and all pods of the namespaces.
func podsIn(pods, namespaces []string) []string {
	all := slices.Clone(pods)
	for _, namespace := range namespaces {
		all = append(all, namespace+"/")
	}
	return all
}

func workloadsOf(texts []string) (all []*flowpb.Workload) {
	for _, text := range texts {
		kind, name, found := strings.Cut(text, "/")
		if !found {
			kind, name = "", text
		}
		all = append(all, &flowpb.Workload{Kind: kind, Name: name})
	}
	return all
}

// values returns the numbers of the names of an enumeration.
func values[T ~int32](flag string, names []string, known map[string]int32) (all []T, err error) {
	for _, name := range names {
		number, ok := known[strings.ToUpper(name)]
		if !ok {
			return nil, fmt.Errorf("--%s %q: unknown; see spiderpoolctl observe --help", flag, name)
		}
		all = append(all, T(number))
	}
	return all, nil
}

func tcpFlagsOf(sets []string) (all []*flowpb.TCPFlags, err error) {
	for _, set := range sets {
		flags := &flowpb.TCPFlags{}
		fields := flags.ProtoReflect().Descriptor().Fields()
		for _, name := range strings.Split(set, ",") {
			field := fields.ByTextName(strings.ToUpper(strings.TrimSpace(name)))
			if field == nil {
				return nil, fmt.Errorf("--tcp-flags %q: write names of flags, e.g. SYN,ACK", set)
			}
			flags.ProtoReflect().Set(field, protoreflect.ValueOfBool(true))
		}
		all = append(all, flags)
	}
	return all, nil
}
