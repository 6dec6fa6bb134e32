package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/test/history"
	"spiderpool.dev/spiderpool/test/sim"
)

const (
	// retryAfter is how long a runtime or a client waits after a failure.
	retryAfter = 100 * time.Millisecond
	// requestLimit bounds one request to the API server, callLimit one call of the
	// plugin: then the runtime kills it, as kubelet's timeout makes it.
	requestLimit = 5 * time.Second
	callLimit    = 20 * time.Second
	// agentStart is what an agent may take to listen after its start.
	agentStart = 5 * time.Second
	// holdLimit bounds for how long a pod runs.
	holdLimit = 400 * time.Millisecond
)

// problems collects errors of many goroutines.
type problems struct {
	mu   sync.Mutex
	list []error
}

func (p *problems) add(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, err)
}

func (p *problems) all() []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list
}

// sandbox is one of a pod's, on a node.
type sandbox struct {
	node int
	sim.Attachment
	result []byte
}

// workAll lets every worker of every node run one pod after the other until
// starting ends, and bring the last to its end before working ends.
func (c *chaos) workAll(starting, working context.Context, done *sync.WaitGroup) *problems {
	found := &problems{}
	for node := range c.nodes {
		for w := range c.workers {
			random := c.random(uint64(1000 + node*1000 + w))
			done.Go(func() {
				for i := 0; starting.Err() == nil; i++ {
					name := fmt.Sprintf("pod-%d-%d-%d", node, w, i)
					if err := c.life(working, node, name, random); err != nil {
						found.add(fmt.Errorf("%s: %w", name, err))
						return
					}
				}
			})
		}
	}
	return found
}

// life is a pod from its creation to its end, in one of several ways.
func (c *chaos) life(ctx context.Context, node int, name string, random *rand.Rand) error {
	s, err := c.begin(ctx, node, name)
	if err != nil {
		return err
	}
	if random.IntN(5) == 0 {
		c.count.repeated.Add(1)
		c.add(ctx, s) // it may fail; package history compares the answer
	}
	sleep(ctx, upTo(random, holdLimit))
	switch chance := random.Float64(); {
	case chance < c.lost:
		return c.vanish(ctx, s)
	case chance < 0.20:
		return c.replace(ctx, s, random)
	case chance < 0.50:
		// The pod's object goes first, as when it is deleted by force.
		return errors.Join(c.deletePod(ctx, s), c.end(ctx, s))
	default:
		if err := c.end(ctx, s); err != nil {
			return err
		}
		return c.deletePod(ctx, s)
	}
}

// begin makes the pod and, as often as it takes, a sandbox for it.
func (c *chaos) begin(ctx context.Context, node int, name string) (*sandbox, error) {
	uid, err := c.createPod(ctx, node, name)
	if err != nil {
		return nil, err
	}
	c.count.pods.Add(1)
	for attempt := 0; ; attempt++ {
		s := &sandbox{node: node, Attachment: sim.Attachment{
			ContainerID: fmt.Sprintf("%s-%s-%d", name, uid[:8], attempt), NetNS: c.netns, Interface: "eth0",
			Namespace: namespace, Pod: name, UID: uid,
		}}
		c.runtimes[node].Add(s.Attachment)
		err := c.add(ctx, s)
		if err == nil {
			return s, nil
		}
		if !sleep(ctx, retryAfter) {
			return nil, fmt.Errorf("%s has no address: %w", name, errors.Join(context.Cause(ctx), err))
		}
		if err := c.end(ctx, s); err != nil {
			return nil, err
		}
	}
}

// end takes the sandbox down. The runtime calls DEL when it stops a sandbox, and
// again when it removes it.
func (c *chaos) end(ctx context.Context, s *sandbox) error {
	for range 2 {
		if err := c.delUntilDone(ctx, s); err != nil {
			return err
		}
	}
	c.runtimes[s.node].Remove(s.ContainerID)
	return nil
}

// delUntilDone makes DEL as often as it takes, as kubelet does.
func (c *chaos) delUntilDone(ctx context.Context, s *sandbox) error {
	for {
		err := c.del(ctx, s)
		if err == nil {
			return nil
		}
		if !sleep(ctx, retryAfter) {
			return fmt.Errorf("DEL of %s on %s: %w", s.ContainerID, c.cluster.Nodes[s.node].Name, errors.Join(context.Cause(ctx), err))
		}
	}
}

// vanish lets the sandbox cease to exist without a DEL, and its pod too.
func (c *chaos) vanish(ctx context.Context, s *sandbox) error {
	c.count.lost.Add(1)
	now := time.Now()
	c.history.Record(history.Event{Kind: history.Lost, Interface: history.Interface{ContainerID: s.ContainerID, Name: s.Interface},
		Pod: s.Pod, Node: c.cluster.Nodes[s.node].Name, Start: now, End: now})
	c.runtimes[s.node].Remove(s.ContainerID)
	return c.deletePod(ctx, s)
}

// replace deletes the pod by force, makes one of the same name on any node, and
// only then takes the old sandbox down. The new one must keep its address.
func (c *chaos) replace(ctx context.Context, old *sandbox, random *rand.Rand) error {
	if err := c.deletePod(ctx, old); err != nil {
		return err
	}
	s, err := c.begin(ctx, random.IntN(c.nodes), old.Pod)
	if err != nil {
		return errors.Join(err, c.end(ctx, old))
	}
	c.count.lateDels.Add(1)
	if err := c.end(ctx, old); err != nil {
		return err
	}
	sleep(ctx, upTo(random, holdLimit))
	if err := c.end(ctx, s); err != nil {
		return err
	}
	return c.deletePod(ctx, s)
}

func (c *chaos) add(ctx context.Context, s *sandbox) error {
	o := c.call(ctx, "ADD", s, nil)
	if o.Err != nil {
		c.count.failedAdds.Add(1)
		return o.Err
	}
	c.count.adds.Add(1)
	s.result = o.Result
	return nil
}

// del makes one DEL and judges it: it may fail only where its agent was away.
func (c *chaos) del(ctx context.Context, s *sandbox) error {
	node := c.cluster.Nodes[s.node].Name
	withoutAPI := c.outages.isDown(apiServer)
	o := c.call(ctx, "DEL", s, s.result)
	withoutAPI = withoutAPI && c.outages.isDown(apiServer)
	if o.Err == nil {
		c.count.dels.Add(1)
		if withoutAPI {
			c.count.delsWithoutAPI.Add(1)
		}
		return nil
	}
	c.count.failedDels.Add(1)
	if ctx.Err() == nil && !c.outages.downSince(node, o.Start.Add(-agentStart)) {
		c.refused.add(fmt.Errorf("DEL of %s on %s failed although its agent was there (%s to %s): %w",
			s.ContainerID, node, o.Start.Format(time.TimeOnly), o.End.Format(time.TimeOnly), o.Err))
	}
	return o.Err
}

// call makes one call and records it.
func (c *chaos) call(ctx context.Context, command string, s *sandbox, previous []byte) sim.Outcome {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	node := c.cluster.Nodes[s.node]
	o := node.Plugin.Call(ctx, command, s.Attachment, previous)
	e := history.Event{
		Kind: history.Kind(command), Interface: history.Interface{ContainerID: s.ContainerID, Name: s.Interface},
		Pod: s.Pod, Node: node.Name, Start: o.Start, End: o.End,
	}
	if o.Err != nil {
		e.Error = o.Err.Error()
	}
	for _, a := range o.Addresses {
		e.Addresses = append(e.Addresses, a.Addr())
	}
	c.history.Record(e)
	return o
}

// createPod makes the pod's object, as often as it takes, and returns its UID.
func (c *chaos) createPod(ctx context.Context, node int, name string) (uid string, err error) {
	pods := c.cluster.Kube.CoreV1().Pods(namespace)
	err = c.request(ctx, func(ctx context.Context) error {
		created, err := pods.Create(ctx, sim.NewPod(namespace, name, sim.NodeName(node)), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			// The answer to an earlier attempt was lost.
			created, err = pods.Get(ctx, name, metav1.GetOptions{})
		}
		if err == nil {
			uid = string(created.UID)
		}
		return err
	})
	return uid, err
}

// deletePod deletes the pod's object, as often as it takes, unless it has another UID by now.
func (c *chaos) deletePod(ctx context.Context, s *sandbox) error {
	options := metav1.NewDeleteOptions(0)
	options.Preconditions = metav1.NewUIDPreconditions(s.UID)
	return c.request(ctx, func(ctx context.Context) error {
		err := c.cluster.Kube.CoreV1().Pods(namespace).Delete(ctx, s.Pod, *options)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	})
}

// request repeats a request to the API server until it succeeds.
func (c *chaos) request(ctx context.Context, do func(context.Context) error) error {
	for {
		limited, cancel := context.WithTimeout(ctx, requestLimit)
		err := do(limited)
		cancel()
		if err == nil {
			return nil
		}
		if !sleep(ctx, retryAfter) {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}
