package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

// coordinatorTTL is how long a SpiderCoordinator that was read is used.
const coordinatorTTL = 2 * time.Second

// coordinator answers the coordinator plugin: the cluster's SpiderCoordinator,
// completed with the defaults of its documentation, and what the pod asks for.
type coordinator struct {
	client  *agentclient.Client
	cluster *agentclient.Cluster
	cfg     config.Agent

	mu   sync.Mutex
	last *v2beta1.SpiderCoordinator
	read time.Time
}

func (c *coordinator) plan(ctx context.Context, req wire.CoordinatorRequest) (wire.CoordinatorReply, error) {
	pod, err := c.cluster.Pod(ctx, req.PodNamespace, req.PodName, req.PodUID)
	if err != nil {
		return wire.CoordinatorReply{}, podFailure(req.Attachment, err)
	}
	reply := wire.CoordinatorReply{PodDefaultRouteNIC: pod.Annotations[names.AnnotationPodDefaultRouteNIC]}
	// Annotations that cannot be read are Multus's to complain about.
	interfaces, _ := pool.Interfaces(req.PodNamespace, pod.Annotations, ipamOptions(c.cfg).ClusterNetwork)
	for _, i := range interfaces {
		reply.PodInterfaces = append(reply.PodInterfaces, i.Name)
	}
	object, err := c.object(ctx)
	if err != nil {
		return wire.CoordinatorReply{}, err
	}
	reply.Config, err = coordinatorConfig(object)
	return reply, err
}

// object returns the SpiderCoordinator or, where the coordinator is switched off,
// one that says so.
func (c *coordinator) object(ctx context.Context) (*v2beta1.SpiderCoordinator, error) {
	if c.cfg.CoordinatorName == "" {
		return &v2beta1.SpiderCoordinator{Spec: v2beta1.CoordinatorSpec{Mode: new(v2beta1.ModeDisabled)}}, nil
	}
	return c.current(ctx)
}

func podFailure(at wire.Attachment, err error) *wire.Error {
	failure := &wire.Error{Code: wire.CodeTryAgainLater, Details: err.Error(), Cause: err,
		Msg: fmt.Sprintf("spiderpool-agent cannot find pod %s/%s", at.PodNamespace, at.PodName)}
	if errors.Is(err, ipam.ErrNotFound) || errors.Is(err, ipam.ErrElsewhere) {
		failure.Code = wire.CodeRefused
	}
	return failure
}

// current reads the SpiderCoordinator, at most once in coordinatorTTL. While the API
// server is away the last one serves.
func (c *coordinator) current(ctx context.Context) (*v2beta1.SpiderCoordinator, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && time.Since(c.read) < coordinatorTTL {
		return c.last, nil
	}
	object, err := c.client.Coordinator(ctx, c.cfg.CoordinatorName)
	switch {
	case err == nil:
	case errors.Is(err, ipam.ErrNotFound):
		c.last = nil
		return nil, &wire.Error{Code: wire.CodeTryAgainLater, Cause: err, Details: err.Error(),
			Msg: fmt.Sprintf("there is no SpiderCoordinator %s; the installation creates it", c.cfg.CoordinatorName)}
	case c.last != nil:
		return c.last, nil
	default:
		return nil, &wire.Error{Code: wire.CodeTryAgainLater, Cause: err, Details: err.Error(),
			Msg: fmt.Sprintf("spiderpool-agent cannot read SpiderCoordinator %s", c.cfg.CoordinatorName)}
	}
	if object.Status.Phase != v2beta1.CoordinatorSynced && !isMode(object, v2beta1.ModeDisabled) {
		return nil, &wire.Error{Code: wire.CodeTryAgainLater, Details: object.Status.Reason,
			Msg: fmt.Sprintf("SpiderCoordinator %s does not know the networks of services and pods yet (phase %q)", object.Name, object.Status.Phase)}
	}
	c.last, c.read = object, time.Now()
	return object, nil
}

func isMode(object *v2beta1.SpiderCoordinator, mode v2beta1.CoordinatorMode) bool {
	return object.Spec.Mode != nil && *object.Spec.Mode == mode
}

// Defaults of the fields of CoordinatorSpec.
const (
	defaultHostRuleTable = 500
	defaultVethMTU       = 1500
)

// hostRuleTable returns the table with the routes to the node's pods; ok is false
// where the coordinator is switched off or its configuration is not known.
func (c *coordinator) hostRuleTable(ctx context.Context) (table int, ok bool) {
	object, err := c.object(ctx)
	if err != nil || isMode(object, v2beta1.ModeDisabled) {
		return 0, false
	}
	return or(object.Spec.HostRuleTable, defaultHostRuleTable), true
}

func coordinatorConfig(object *v2beta1.SpiderCoordinator) (wire.CoordinatorConfig, error) {
	spec, name := object.Spec, object.Name
	out := wire.CoordinatorConfig{
		Mode:               string(or(spec.Mode, v2beta1.ModeAuto)),
		PodMACPrefix:       or(spec.PodMACPrefix, ""),
		TunePodRoutes:      or(spec.TunePodRoutes, true),
		PodDefaultRouteNIC: or(spec.PodDefaultRouteNIC, ""),
		HostRuleTable:      or(spec.HostRuleTable, defaultHostRuleTable),
		PodRPFilter:        or(spec.PodRPFilter, 0),
		TxQueueLen:         or(spec.TxQueueLen, 0),
		VethMTU:            or(spec.VethMTU, defaultVethMTU),
	}
	var errs []error
	prefixes := func(field string, texts []string) (parsed []netip.Prefix) {
		for _, text := range texts {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %q is not a network in CIDR notation", field, text))
				continue
			}
			parsed = append(parsed, prefix.Masked())
		}
		return parsed
	}
	out.HijackCIDR = prefixes("spec.hijackCIDR", spec.HijackCIDR)
	out.OverlayPodCIDR = prefixes("status.overlayPodCIDR", object.Status.OverlayPodCIDR)
	out.ServiceCIDR = prefixes("status.serviceCIDR", object.Status.ServiceCIDR)
	for i, r := range spec.PolicyRoutes {
		dst, dstErr := netip.ParsePrefix(r.Dst)
		gw, gwErr := netip.ParseAddr(r.Gw)
		if err := errors.Join(dstErr, gwErr); err != nil {
			errs = append(errs, fmt.Errorf("spec.policyRoutes[%d]: %w", i, err))
			continue
		}
		out.PolicyRoutes = append(out.PolicyRoutes, inet.Route{Dst: dst.Masked(), Via: gw})
	}
	if text := or(spec.VethLinkAddress, ""); text != "" {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("spec.vethLinkAddress: %q is not an address", text))
		}
		out.VethLinkAddress = addr
	}
	if len(errs) > 0 {
		return wire.CoordinatorConfig{}, &wire.Error{Code: wire.CodeInvalidConfig,
			Msg: fmt.Sprintf("SpiderCoordinator %s cannot be used as it is written", name), Details: errors.Join(errs...).Error()}
	}
	return out, nil
}

// or returns what the pointer points to, or the default where it is nil.
func or[T any](value *T, byDefault T) T {
	if value == nil {
		return byDefault
	}
	return *value
}
