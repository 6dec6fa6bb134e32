package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
	"spiderpool.dev/spiderpool/api/names"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/readcache"
	"spiderpool.dev/spiderpool/internal/wire"
)

// coordinatorTTL is how long a SpiderCoordinator is used before the next read.
const coordinatorTTL = 2 * time.Second

// coordinator answers the coordinator plugin with the settings of the cluster's
// SpiderCoordinator and the pod's annotations.
type coordinator struct {
	client   *agentclient.Client
	cluster  *agentclient.Cluster
	policies *policies
	cfg      config.Agent
	// objects has one key, the name in cfg, and only usable objects.
	objects readcache.Cache[string, *v2beta1.SpiderCoordinator]
}

func newCoordinator(client *agentclient.Client, cluster *agentclient.Cluster, policies *policies, cfg config.Agent) *coordinator {
	c := &coordinator{client: client, cluster: cluster, policies: policies, cfg: cfg}
	c.objects.TTL, c.objects.Now = coordinatorTTL, time.Now
	return c
}

func (c *coordinator) plan(ctx context.Context, req wire.CoordinatorRequest) (wire.CoordinatorReply, error) {
	pod, err := c.cluster.Pod(ctx, lease.PodKey{Namespace: req.PodNamespace, Name: req.PodName}, req.PodUID)
	if err != nil {
		return wire.CoordinatorReply{}, podFailure(req.Attachment, err)
	}
	if err := c.policies.admit(ctx, req.Attachment, pod); err != nil {
		return wire.CoordinatorReply{}, err
	}
	reply := wire.CoordinatorReply{PodDefaultRouteNIC: pod.Annotations[names.AnnotationPodDefaultRouteNIC]}
	reply.PodInterfaces = c.interfaces(pod)
	if reply.Rates, err = c.rates(pod); err != nil {
		reply.RatesFault = err.Error()
	} else if reply.PodRates, err = compile.PodBandwidth(pod.Annotations); err != nil {
		reply.RatesFault = err.Error()
	}
	if err := c.addSources(ctx, pod, &reply); err != nil {
		return wire.CoordinatorReply{}, podFailure(req.Attachment, err)
	}
	object, err := c.object(ctx)
	if err != nil {
		return wire.CoordinatorReply{}, err
	}
	reply.Config, err = settingsOf(object)
	return reply, err
}

// interfaces returns the names of a pod's interfaces, or nil if they are unknown. Multus
// reports annotations that are invalid.
func (c *coordinator) interfaces(pod ipam.Pod) (out []string) {
	interfaces, _ := pool.Interfaces(pod.Namespace, pod.Annotations, ipamOptions(c.cfg).ClusterNetwork)
	for _, i := range interfaces {
		out = append(out, i.Name)
	}
	return out
}

// rates returns the rates in a pod's annotations by interface.
func (c *coordinator) rates(pod ipam.Pod) (map[string]netplan.Rates, error) {
	return compile.Bandwidth(pod.Annotations, c.interfaces(pod))
}

// addSources adds the networks that the pod may send from besides its addresses.
func (c *coordinator) addSources(ctx context.Context, pod ipam.Pod, reply *wire.CoordinatorReply) error {
	if _, ok := pod.Annotations[names.AnnotationPodSources]; !ok {
		return nil
	}
	namespace, err := c.cluster.Namespace(ctx, pod.Namespace)
	if err != nil {
		return err
	}
	if reply.Sources, err = compile.Sources(pod.Annotations, namespace.Labels); err != nil {
		reply.SourcesFault = err.Error()
	}
	return nil
}

// object returns the SpiderCoordinator, or one with mode disabled if the
// coordinator is switched off.
func (c *coordinator) object(ctx context.Context) (*v2beta1.SpiderCoordinator, error) {
	if c.cfg.CoordinatorName == "" {
		return &v2beta1.SpiderCoordinator{Spec: v2beta1.CoordinatorSpec{Mode: new(v2beta1.ModeDisabled)}}, nil
	}
	return c.current(ctx)
}

func podFailure(at wire.Attachment, err error) *ipam.Error {
	failure := &ipam.Error{Kind: ipam.Unavailable, Details: err.Error(), Err: err,
		Msg: fmt.Sprintf("spiderpool-agent cannot find pod %s/%s", at.PodNamespace, at.PodName)}
	if errors.Is(err, ipam.ErrNotFound) || errors.Is(err, ipam.ErrElsewhere) {
		failure.Kind = ipam.Refused
	}
	return failure
}

// current reads the SpiderCoordinator, at most once in coordinatorTTL. During an
// outage of the API server, it returns the last one.
func (c *coordinator) current(ctx context.Context) (*v2beta1.SpiderCoordinator, error) {
	name := c.cfg.CoordinatorName
	last, err := c.objects.Get(ctx, name, c.usable)
	var failure *ipam.Error
	switch {
	case err == nil:
	case errors.Is(err, ipam.ErrNotFound):
		c.objects.Forget(name)
		return nil, &ipam.Error{Kind: ipam.Unavailable, Err: err, Details: err.Error(),
			Msg: fmt.Sprintf("there is no SpiderCoordinator %s; the installation creates it", name)}
	case errors.As(err, &failure):
		return nil, failure
	case last == nil:
		return nil, &ipam.Error{Kind: ipam.Unavailable, Err: err, Details: err.Error(),
			Msg: fmt.Sprintf("spiderpool-agent cannot read SpiderCoordinator %s", name)}
	}
	return last, nil
}

// usable reads the SpiderCoordinator. It returns an *ipam.Error if the controller has
// not found the cluster's networks yet.
func (c *coordinator) usable(ctx context.Context) (*v2beta1.SpiderCoordinator, error) {
	object, err := c.client.Coordinator(ctx, c.cfg.CoordinatorName)
	if err != nil {
		return nil, err
	}
	if object.Status.Phase != v2beta1.CoordinatorSynced && !isMode(object, v2beta1.ModeDisabled) {
		return nil, &ipam.Error{Kind: ipam.Unavailable, Details: object.Status.Reason,
			Msg: fmt.Sprintf("SpiderCoordinator %s does not know the networks of services and pods yet (phase %q)", object.Name, object.Status.Phase)}
	}
	return object, nil
}

func isMode(object *v2beta1.SpiderCoordinator, mode v2beta1.CoordinatorMode) bool {
	return object.Spec.Mode != nil && *object.Spec.Mode == mode
}

// hostRuleTable returns the table with the routes to the node's pods. ok is
// false if the coordinator is disabled or its configuration is unknown.
func (c *coordinator) hostRuleTable(ctx context.Context) (table int, ok bool) {
	object, err := c.object(ctx)
	if err != nil || isMode(object, v2beta1.ModeDisabled) {
		return 0, false
	}
	return ptr.Deref(object.Spec.HostRuleTable, netplan.Default().HostRuleTable), true
}

// antiSpoof reports whether the cluster's pods may send from their own addresses only.
func (c *coordinator) antiSpoof(ctx context.Context) bool {
	object, err := c.object(ctx)
	return err == nil && ptr.Deref(object.Spec.AntiSpoof, false)
}

// settingsOf compiles a SpiderCoordinator. Its error is an ipam.Error of kind Invalid.
func settingsOf(object *v2beta1.SpiderCoordinator) (netplan.Settings, error) {
	settings, errs := compile.Coordinator(field.NewPath("spec"), &object.Spec, &object.Status)
	if len(errs) > 0 {
		return netplan.Settings{}, &ipam.Error{Kind: ipam.Invalid,
			Msg: fmt.Sprintf("SpiderCoordinator %s is invalid", object.Name), Details: errs.ToAggregate().Error()}
	}
	return settings, nil
}
