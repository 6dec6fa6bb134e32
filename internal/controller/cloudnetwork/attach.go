package cloudnetwork

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/observe"
)

// furtherTags are the tags of new interfaces besides those of package cloud. The Amazon VPC CNI leaves an interface with
// this one alone (https://github.com/aws/amazon-vpc-cni-k8s#eni-tags-related-to-allocation).
var furtherTags = map[v2beta1.CloudProvider]map[string]string{
	v2beta1.CloudAWS: {"node.k8s.amazonaws.com/no_manage": "true"},
}

// attachInterfaces creates and attaches the interfaces that nodes lack, and deletes those that no node needs. The finalizer stays as
// long as one of ours may be without an instance. The plan has the nodes to ask about; busy gets those with a lost answer.
func (r *Reconciler) attachInterfaces(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, in *input, busy map[string]bool, asked time.Time) (cloud.AttachPlan, []cloud.Issue, error) {
	held := controllerutil.ContainsFinalizer(network, v2beta1.Finalizer)
	attaches := attachesOf(network)
	if len(attaches) == 0 && !held {
		s.own = newOwned()
		return cloud.AttachPlan{}, nil, nil
	}
	owner, err := r.ownerTags(ctx, network)
	if err != nil {
		return cloud.AttachPlan{}, nil, err
	}
	faults := s.survey(ctx, asked, owner, attaches)
	a := s.attaching(network, in, attaches, asked)
	a.Owner, a.Busy = owner, busy
	plan := cloud.Attach(a)
	s.own.follow(plan)
	if len(plan.Create)+len(plan.Attach)+len(plan.Unneeded) > 0 && !held {
		if err := r.setFinalizer(ctx, network, controllerutil.AddFinalizer); err != nil {
			return plan, nil, err
		}
	}
	refused, err := r.changeInterfaces(ctx, network, s, busy, &plan)
	if err != nil {
		return plan, nil, err
	}
	if len(attaches) == 0 && plan.Clean && len(s.doubts) == 0 {
		return plan, nil, r.setFinalizer(ctx, network, controllerutil.RemoveFinalizer)
	}
	return plan, slices.Concat(degrading(faults, plan.Issues), refused, plan.Issues), nil
}

// attachesOf returns the interfaces of each node that the controller attaches.
func attachesOf(network *v2beta1.SpiderCloudNetwork) (attaches []v2beta1.CloudInterface) {
	if !manages(network) || network.DeletionTimestamp != nil {
		return nil
	}
	for _, i := range network.Spec.Interfaces {
		if i.Attach != nil {
			attaches = append(attaches, i)
		}
	}
	return attaches
}

// ownerTags returns the tags of all interfaces that the controller creates for the network.
func (r *Reconciler) ownerTags(ctx context.Context, network *v2beta1.SpiderCloudNetwork) (map[string]string, error) {
	if r.cluster == "" {
		uid, err := r.Cluster(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the UID of the cluster: %w", err)
		}
		r.cluster = uid
	}
	return map[string]string{cloud.TagCluster: r.cluster, cloud.TagNetwork: network.Name}, nil
}

// setFinalizer adds or removes our finalizer, unless another process has changed the object.
func (r *Reconciler) setFinalizer(ctx context.Context, network *v2beta1.SpiderCloudNetwork, change func(client.Object, string) bool) error {
	before := network.DeepCopy()
	change(network, v2beta1.Finalizer)
	err := behind(r.client.Patch(ctx, network, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})))
	if err != nil {
		return fmt.Errorf("change the finalizer of SpiderCloudNetwork %s: %w", network.Name, err)
	}
	return nil
}

// attaching returns the input of cloud.Attach.
func (s *session) attaching(network *v2beta1.SpiderCloudNetwork, in *input, attaches []v2beta1.CloudInterface, now time.Time) cloud.Attaching {
	a := cloud.Attaching{
		Now: now, Network: network.Name, Tags: furtherTags[network.Spec.Provider], Pools: map[string]bool{}, Limits: s.limits,
		Found: s.own.found, Made: map[string]bool{}, Described: s.own.described, Stops: map[string]cloud.Stop{}, Unneeded: s.own.unneeded, Attempts: s.own.attempts,
	}
	for _, i := range attaches {
		tags := textOf(i.Attach.SubnetTags)
		if _, known := s.own.subnets[tags]; !known {
			a.Described = time.Time{} // the tags are new
		}
		a.Wanted = append(a.Wanted, cloud.Wanted{Device: int(i.Device), SecurityGroups: i.Attach.SecurityGroups, Subnets: s.own.subnets[tags], SubnetTags: tags})
	}
	for _, m := range in.nodes {
		a.Members = append(a.Members, cloud.Member{Node: m.node, Instance: m.instance, Answers: s.histories[m.instance]})
	}
	for name := range in.pools {
		a.Pools[name] = true
	}
	for id, known := range s.own.results {
		a.Made[id] = !known.gone && known.Attached == ""
	}
	for place, stop := range s.own.stops {
		a.Stops[place] = cloud.Stop{Issue: stop.Issue, Due: !now.Before(stop.until)}
	}
	return a
}

// step is a call about an interface.
type step struct {
	*call
	lacks bool                            // its node has no interface there yet
	place string                          // where a refusal holds, unless its kind says otherwise
	done  func()                          // remembers a success
	fails func(cloud.Kind) (place string) // remembers a refusal, and returns another place for it, or ""
}

// changeInterfaces makes the calls of the plan. It returns refusals that the plan does not know yet.
func (r *Reconciler) changeInterfaces(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, busy map[string]bool, plan *cloud.AttachPlan) ([]cloud.Issue, error) {
	steps := r.steps(s, plan)
	if most := max(0, maxChanges-len(s.doubts)); len(steps) > most {
		steps, s.own.more = steps[:most], most > 0
	}
	if len(steps) == 0 {
		return nil, nil
	}
	var calls []*call
	for _, one := range steps {
		calls = append(calls, one.call)
	}
	if err := r.run(ctx, network, s, calls); err != nil {
		s.own.listAt = time.Time{} // another process may have created an interface
		return nil, err
	}
	s.own.more = true // e.g. the interface that was created is to be attached
	var faults []cloud.Issue
	var changes []string
	now, failed := r.clock.Now(), map[string]bool{}
	for _, one := range steps {
		log := r.log.With("node", one.Node, "interface", one.Interface, "action", one.Action)
		if one.err == nil {
			one.done()
			changes = append(changes, one.said())
			log.InfoContext(ctx, "changed a network interface")
			continue
		}
		log.WarnContext(ctx, "the cloud did not change a network interface", "err", one.err)
		kind := cloud.KindOf(one.err)
		busy[one.Node] = busy[one.Node] || kind == cloud.Unknown
		place := one.fails(kind)
		if failed[place] {
			continue // a batch counts as one attempt
		}
		failed[place] = true
		former := s.own.stops[place]
		issue := interfaceRefusal(one)
		issue.Degrades = !one.lacks
		s.own.stops[place] = s.newStop(now, former, issue)
		if former == nil {
			faults = append(faults, s.own.stops[place].Issue)
		}
	}
	if len(changes) > 0 {
		r.status.Recorder.Record(network, nil, observe.InterfacesChanged(changes))
	}
	return faults, nil
}

// said tells what a call has done, e.g. "attached eni-1 to node worker1".
func (one step) said() string {
	switch {
	case one.Action == v2beta1.CloudCreate:
		return "created an interface for node " + one.Node
	case one.Action == v2beta1.CloudDelete:
		return "deleted " + one.Interface
	case one.Node == "":
		return "attached " + one.Interface + " to an instance that is not a node"
	}
	return "attached " + one.Interface + " to node " + one.Node
}

// interfaceRefusal explains why the cloud has not changed an interface.
func interfaceRefusal(one step) cloud.Issue {
	switch kind := cloud.KindOf(one.err); {
	case kind == cloud.NoCapacity:
		return cloud.Issue{Reason: "NoCapacity", Text: fmt.Sprintf("subnet %s has no free address for a network interface of node %s; tag a further subnet in its zone", one.place, one.Node) + said(one.err)}
	case kind == cloud.Quota && one.Action == v2beta1.CloudCreate:
		return cloud.Issue{Reason: "NoCapacity", Text: "the account has all network interfaces that its quota allows; raise the quota" + said(one.err)}
	case kind == cloud.Quota:
		return cloud.Issue{Reason: cloud.TypeLimit, Text: fmt.Sprintf("the instance of node %s has all network interfaces that its type allows; use a larger type", one.Node) + said(one.err)}
	}
	return faultOf(one.err)
}

// steps returns the calls of a plan. Interfaces that exist come first.
func (r *Reconciler) steps(s *session, plan *cloud.AttachPlan) (steps []step) {
	for _, a := range plan.Attach {
		steps = append(steps, s.attachStep(r.clock.Now, a))
	}
	for _, c := range plan.Create {
		steps = append(steps, s.createStep(r.clock.Now, c))
	}
	for _, i := range plan.Delete {
		one := step{place: cloud.Deletion, call: s.newCall("", i.ID, v2beta1.CloudDelete, func(ctx context.Context) error { return s.provider.Delete(ctx, i.ID) })}
		one.done = func() {
			s.own.remember(result{Interface: i, gone: true, at: r.clock.Now()})
			delete(s.own.stops, cloud.Deletion)
		}
		one.fails = func(cloud.Kind) string { s.own.relist(); return cloud.Deletion }
		steps = append(steps, one)
	}
	return steps
}

func (s *session) createStep(now func() time.Time, c cloud.Creation) step {
	var made cloud.Interface
	one := step{lacks: true, place: c.Subnet, call: s.newCall(c.Node, "", v2beta1.CloudCreate, func(ctx context.Context) (err error) {
		made, err = s.provider.Create(ctx, c.NewInterface)
		return err
	})}
	one.done = func() {
		made.Tags = c.Tags
		s.own.remember(result{Interface: made, at: now()})
		s.own.take(c.Subnet)
		s.own.allow(cloud.Everywhere, c.Subnet, c.Position.String())
	}
	one.fails = func(kind cloud.Kind) string {
		switch kind {
		case cloud.Throttled, cloud.Permission, cloud.Credentials, cloud.Quota:
			return cloud.Everywhere
		case cloud.Gone: // also an interface of the same token
			s.own.attempts[c.Position]++
			return c.Subnet
		case cloud.NoCapacity, cloud.Fragmented, cloud.Invalid:
			return c.Subnet
		}
		return c.Position.String()
	}
	return one
}

func (s *session) attachStep(now func() time.Time, a cloud.Attachment) step {
	i, _ := s.own.found.Interface(a.Interface) // another step of the batch may forget the listings
	one := step{lacks: i.Attached == "", call: s.newCall(a.Node, a.Interface, v2beta1.CloudAttach, func(ctx context.Context) error {
		return s.provider.Attach(ctx, a.Interface, a.Instance, a.Device)
	})}
	one.done = func() {
		i.Attached, i.Device, i.Survives = a.Instance, a.Device, false
		s.own.remember(result{Interface: i, at: now()})
		s.own.allow(cloud.Everywhere, a.Position.String())
		if h, known := s.histories[a.Instance]; known {
			s.histories[a.Instance] = h.Attached(i)
		}
	}
	one.fails = func(kind cloud.Kind) string {
		delete(s.own.results, a.Interface) // it may be attached, or have gone
		s.own.relist()
		switch kind {
		case cloud.Throttled, cloud.Permission, cloud.Credentials:
			return cloud.Everywhere
		case cloud.Gone:
			s.own.attempts[a.Position]++
		}
		return a.Position.String()
	}
	return one
}

// end deletes the interfaces of a deleted SpiderCloudNetwork that no instance has, and then lets the object go. The instances end
// with the others.
func (r *Reconciler) end(ctx context.Context, network *v2beta1.SpiderCloudNetwork) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(network, v2beta1.Finalizer) {
		return ctrl.Result{}, nil
	}
	s, fault := r.session(ctx, network)
	if fault != nil {
		return ctrl.Result{RequeueAfter: countTime}, r.report(ctx, network, nil, []cloud.Issue{*fault})
	}
	now := r.clock.Now()
	busy, _ := s.doubt(now, network, nil)
	if err := r.record(ctx, network, s, nil); err != nil {
		return ctrl.Result{}, fmt.Errorf("remove ended calls from the status: %w", err)
	}
	plan, faults, err := r.attachInterfaces(ctx, network, s, &input{}, busy, now)
	if err != nil || !controllerutil.ContainsFinalizer(network, v2beta1.Finalizer) {
		return ctrl.Result{}, err
	}
	if n := len(plan.Unneeded); n > 0 {
		faults = append(faults, cloud.Issue{Reason: "Deleting", Text: fmt.Sprintf("%d network interfaces without an instance are deleted %s after they were seen: %v", n, cloud.Grace, slices.Sorted(maps.Keys(plan.Unneeded)))})
	}
	if len(faults) == 0 {
		faults = []cloud.Issue{{Reason: "Deleting", Text: "the finalizer stays until the outcome of all calls is known, and two listings show no network interface that would be left without its instance"}}
	}
	for i := range faults {
		faults[i].Degrades = false // the pools go with the object
	}
	s.more = false
	return ctrl.Result{RequeueAfter: s.next(now, cloud.Plan{})}, r.report(ctx, network, nil, faults)
}
