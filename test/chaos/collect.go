package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"spiderpool.dev/spiderpool/test/sim"
)

// second is the network attachment of pods with two interfaces.
const second = namespace + "/second"

// createNetwork creates the network attachment of second interfaces.
func (c *chaos) createNetwork(ctx context.Context) error {
	return c.objects.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{"namespace": namespace, "name": "second"},
		"spec":     map[string]any{"config": string(c.cluster.Nodes[0].Plugin.Conf)},
	}})
}

// attached are the interfaces created, completely or not, by a node's runtime.
type attached struct {
	// calls is read-locked by ADD, CHECK and DEL. A runtime makes no GC call for a network
	// during other calls for it (CNI specification 1.1.0, GC).
	calls sync.RWMutex
	mu    sync.Mutex
	list  []sim.Attachment
}

func (a *attached) add(attachment sim.Attachment) {
	a.remove(attachment)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, attachment)
}

func (a *attached) remove(attachment sim.Attachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = slices.DeleteFunc(a.list, func(other sim.Attachment) bool { return other == attachment })
}

func (a *attached) all() []sim.Attachment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.list)
}

// collectAll makes GC calls on every node until the end of ctx.
func (c *chaos) collectAll(ctx context.Context, done *sync.WaitGroup) {
	for node := range c.nodes {
		random := c.random(uint64(500 + node))
		done.Go(func() {
			for sleep(ctx, upTo(random, 4*time.Second)) {
				c.collect(ctx, node, random)
			}
		})
	}
}

// collect makes one GC call at a moment without other calls, if one comes soon.
func (c *chaos) collect(ctx context.Context, node int, random *rand.Rand) {
	a := c.attached[node]
	for !a.calls.TryLock() {
		if !sleep(ctx, upTo(random, 50*time.Millisecond)) {
			return
		}
	}
	defer a.calls.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	name, start := c.cluster.Nodes[node].Name, time.Now()
	o := c.cluster.Nodes[node].Plugin.GC(ctx, a.all())
	switch {
	case o.Err == nil:
		c.count.gcs.Add(1)
	case ctx.Err() == nil && !c.outages.downSince(name, start.Add(-agentStart)) && !c.outages.downSince(apiServer, start.Add(-agentStart)):
		c.refused.add(fmt.Errorf("GC on %s failed although its agent and the API server were up: %w", name, o.Err))
	}
}
