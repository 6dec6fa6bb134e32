// Package agent is the program spiderpool-agent, which runs on every node: it connects
// the use cases of package ipam to the API server, the plugins' socket, the disk and
// the metrics.
//
// The agent serves the socket at once, even without an API server. Until it has read
// pools and leases, ADD fails with "try again later", and DEL succeeds and stays on
// disk until the API server accepts the release. The program ends when its context
// ends or an essential part fails; then all its goroutines have ended.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"spiderpool.dev/spiderpool/internal/agent/bandwidth"
	"spiderpool.dev/spiderpool/internal/agent/cloudnews"
	"spiderpool.dev/spiderpool/internal/agent/criclient"
	"spiderpool.dev/spiderpool/internal/agent/datapath"
	"spiderpool.dev/spiderpool/internal/agent/flowpods"
	"spiderpool.dev/spiderpool/internal/agent/nodeguard"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/journal"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/bpf"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/rpc/rpcserver"
	"spiderpool.dev/spiderpool/internal/wire"
)

const (
	// grace is the time for requests in progress to finish when the agent stops.
	grace = 10 * time.Second
	// replayInterval is the time between two attempts to commit the releases on disk.
	replayInterval = 2 * time.Second
	// repairInterval is the time between two comparisons of the SpiderEndpoints with the
	// leases. It restores one that a user deleted while no controller led. Each costs one
	// read per pod of the node.
	repairInterval = 10 * time.Minute
	// podNamespaces is where containerd and CRI-O mount the network namespaces of pods.
	podNamespaces = "/run/netns"
)

// agent holds the parts of the process.
type agent struct {
	cfg       config.Agent
	options   options
	log       *slog.Logger
	metrics   *metrics
	journal   journal.Journal
	cluster   *agentclient.Cluster
	ended     *endedPods
	pools     *agentclient.PoolSync
	endpoints *agentclient.Endpoints
	events    *agentclient.Events
	service   *ipam.Service
	server    *rpcserver.Server
	node      *nodeguard.Maintainer
	bandwidth *bandwidth.Follower
	runtime   *runtimeHealth
	services  *datapath.Services
	names     datapath.Names
	policies  *policies
	flows     *flows
	// flowPods is nil if connections are not observed.
	flowPods *flowpods.Follower
	// knowsAddrs is true once the catalog has the addresses of the node.
	knowsAddrs  atomic.Bool
	definitions *definitions
	// addrsChanged has a value if they changed since node read them.
	addrsChanged chan struct{}
}

// newAgent makes the parts. Each part refers to earlier parts only.
func newAgent(ctx context.Context, cfg config.Agent, o options, client *agentclient.Client, log *slog.Logger) (*agent, error) {
	releases := journal.In(cfg.StateDir)
	if err := releases.Create(); err != nil {
		return nil, err
	}
	a := &agent{
		cfg: cfg, options: o, log: log, journal: releases,
		cluster: agentclient.NewCluster(client, cfg.NodeName, log), ended: &endedPods{}, addrsChanged: make(chan struct{}, 1),
		endpoints: agentclient.NewEndpoints(client, log), events: agentclient.NewEvents(ctx, client, cfg.NodeName),
	}
	a.runtime = &runtimeHealth{now: time.Now, log: log, warn: func(fault string) { a.events.AboutNode(observe.RuntimeUnavailable(fault)) }}
	a.metrics = newMetrics(releases, a.runtime)
	a.definitions = newDefinitions(o.definitions, cfg.StateDir)
	a.cluster.OnPodEnd(a.ended.add)
	a.service = a.newIPAM(client)
	a.pools = agentclient.NewPoolSync(client, cfg.NodeName, poolSink{a.service.Allocator, a.service.Catalog}, log)
	a.policies = a.newPolicies(client)
	a.service.Admit = a.policies.admit
	var err error
	if a.flows, err = a.newFlows(client, a.newFlowSource()); err != nil {
		return nil, err
	}
	coordinator := newCoordinator(client, a.cluster, a.policies, cfg)
	a.server = a.newServer(coordinator)
	a.node = a.newNode(coordinator)
	a.bandwidth = a.newBandwidth(coordinator)
	a.services = a.newServices(client)
	return a, nil
}

// poolSink receives the blocks and pools that concern this node (agentclient.PoolSink).
type poolSink struct {
	*alloc.Allocator
	*ipam.PoolCatalog
}

func (a *agent) minLeaseAge() time.Duration {
	return cmp.Or(a.options.minLeaseAge, reclaim.DefaultMinAge)
}

// newIPAM returns the use cases of this node.
func (a *agent) newIPAM(client *agentclient.Client) *ipam.Service {
	blocks := agentclient.NewBlockStore(client)
	allocator := alloc.New(alloc.Config{
		Node: a.cfg.NodeName, Blocks: blocks, Older: blocks.Older, Now: time.Now, Log: a.log, Observer: a.metrics,
	})
	return &ipam.Service{
		Node:      a.cfg.NodeName,
		Options:   ipamOptions(a.cfg),
		Catalog:   ipam.NewPoolCatalog(agentclient.Pools{Client: client}, time.Now, allocator.SetUsable),
		Allocator: allocator,
		Cluster:   a.cluster,
		Owners:    client,
		Links:     links{},
		Endpoints: a.endpoints,
		Events:    a.events,
		Journal:   a.journal,
		Runtime: &criclient.Runtime{
			Sockets: a.cfg.CRISockets, Trusted: filepath.Join(a.cfg.StateDir, "runtime"), Reported: a.cluster.Runtime,
			Held: func(age time.Duration) map[string]bool {
				held := map[string]bool{}
				for _, l := range allocator.HeldFor(age) {
					held[l.ContainerID] = true
				}
				return held
			},
			Asked: a.runtime.observe,
		},
		Observer:    a.metrics,
		Placements:  agentclient.Placements{Client: client, Log: a.log},
		Now:         time.Now,
		Log:         a.log,
		MinLeaseAge: a.minLeaseAge(),
	}
}

// newServer returns the server of the CNI plugins.
func (a *agent) newServer(coordinator *coordinator) *rpcserver.Server {
	return &rpcserver.Server{Log: a.log, Service: &service{
		ipam:        a.service,
		ready:       a.ready,
		runtime:     a.runtime,
		metrics:     a.metrics,
		coordinator: coordinator,
		policies:    a.policies,
		flowPods:    a.flowPods,
		detect:      wire.Detection{IPConflict: a.cfg.IPAM.EnableIPConflictDetection, Gateway: a.cfg.IPAM.EnableGatewayDetection},
	}}
}

// newNode returns the maintainer of the node's network.
func (a *agent) newNode(coordinator *coordinator) *nodeguard.Maintainer {
	return &nodeguard.Maintainer{
		HostRuleTable: coordinator.hostRuleTable,
		Sandboxes:     a.service.Runtime.Sandboxes,
		Unleased:      a.unleased,
		Masters:       a.masters,
		AntiSpoof:     coordinator.antiSpoof,
		Warn:          func(findings string) { a.events.AboutNode(observe.NodeNotPrepared(findings)) },
		Open:          func() (*linux.Namespace, error) { return linux.CurrentWith(a.cfg.SysctlDir) },
		PodNamespaces: podNamespaces,
		AddrsChanged:  a.addrsChanged,
		Tune:          a.cfg.TuneSysctl,
		IPv6:          a.cfg.IPAM.EnableIPv6,
		MinAge:        a.minLeaseAge(),
		Now:           time.Now,
		Log:           a.log,
	}
}

// newBandwidth returns the follower of the annotations for the bandwidth.
func (a *agent) newBandwidth(coordinator *coordinator) *bandwidth.Follower {
	changed := make(chan struct{}, 1)
	a.cluster.OnPodAnnotation(func() {
		select {
		case changed <- struct{}{}:
		default: // the follower has not looked since the last change
		}
	})
	return &bandwidth.Follower{
		Ready:  a.ready,
		Pods:   a.cluster.Pods,
		Rates:  coordinator.rates,
		Leases: func() []lease.Lease { return a.service.Allocator.HeldFor(0) },
		Enabled: func(ctx context.Context) bool {
			_, ok := coordinator.hostRuleTable(ctx)
			return ok
		},
		Open:          linux.Current,
		PodNamespaces: podNamespaces,
		Changed:       changed,
		Warn:          a.events.BandwidthNotChanged,
		Now:           time.Now,
		Log:           a.log,
	}
}

// newServices returns the translator of service addresses.
func (a *agent) newServices(client *agentclient.Client) *datapath.Services {
	return &datapath.Services{
		Mode:    a.cfg.Service.Mode,
		Load:    func() (datapath.Programs, error) { return datapath.LoadPrograms(a.cfg.Service) },
		Remove:  bpf.Remove,
		Sync:    datapath.SyncWith(client, a.cfg.NodeName, a.cfg.Service, &a.names, a.events.Once, a.log),
		Warn:    func(reason string) { a.events.AboutNode(observe.ServicesLeftToKubeProxy(reason)) },
		Metrics: a.metrics.services,
		Now:     time.Now,
		Log:     a.log,
	}
}

func ipamOptions(cfg config.Agent) ipam.Options {
	return ipam.Options{
		EnableIPv4: cfg.IPAM.EnableIPv4, EnableIPv6: cfg.IPAM.EnableIPv6,
		FixStatefulSet: cfg.IPAM.EnableStatefulSet, FixVirtualMachine: cfg.IPAM.EnableKubevirtStaticIP,
		ClusterNetwork: cfg.Multus.ClusterNetwork(cfg.PodNamespace),
	}
}

// unleased returns the addresses that belong to a pool but to no holder of this node.
// Addresses outside our pools may belong to another IPAM plugin.
func (a *agent) unleased(addrs []netip.Addr) ([]netip.Addr, error) {
	if err := a.ready(); err != nil {
		return nil, err
	}
	held := map[netip.Addr]bool{}
	for _, l := range a.service.Allocator.HeldFor(0) {
		held[l.Addr] = true
	}
	return slices.DeleteFunc(slices.Clone(addrs), func(addr netip.Addr) bool {
		return held[addr] || !a.service.Catalog.HandsOut(addr)
	}), nil
}

// parents returns the master interfaces in the attachments of this node's pools.
func (a *agent) masters(ctx context.Context) ([]netplan.Master, error) {
	if err := a.ready(); err != nil {
		return nil, err
	}
	self, err := a.cluster.Node(ctx)
	if err != nil {
		return nil, err
	}
	var out []netplan.Master
	for _, attachment := range a.service.Catalog.Attachments(self) {
		network, err := a.cluster.Network(ctx, attachment)
		if errors.Is(err, ipam.ErrNotFound) {
			continue // an ADD that needs it reports the error
		}
		if err != nil {
			return nil, err
		}
		for _, name := range network.Parents {
			out = append(out, netplan.Master{Attachment: attachment.String(), Name: name, MTU: network.MTU})
		}
	}
	return out, nil
}

// followAddrs keeps the node's own addresses out of the pools until ctx ends.
func (a *agent) followAddrs(ctx context.Context) {
	a.retry(ctx, "follow the addresses of this node", func(ctx context.Context) error {
		node, err := linux.Current()
		if err != nil {
			return err
		}
		defer node.Close()
		return node.FollowAddrs(ctx, func(addrs []netip.Prefix) {
			own := make([]netip.Addr, len(addrs))
			for i, a := range addrs {
				own[i] = a.Addr()
			}
			a.service.Catalog.SetNodeAddrs(inet.OfAddrs(own...))
			a.policies.setNodeAddrs(own)
			a.knowsAddrs.Store(true)
			select {
			case a.addrsChanged <- struct{}{}:
			default: // the maintainer has not read them since the last change
			}
		})
	})
}

// watchCloud tells the controller about changed addresses of the node's interfaces until
// ctx ends. Events reach it without a further right of the agent.
func (a *agent) watchCloud(ctx context.Context) {
	if !a.cfg.Cloud.Enabled {
		return
	}
	w := &cloudnews.Watcher{
		URL: cloudnews.URL, Interval: cloudnews.Interval, Log: a.log,
		Tell: func(text string) { a.events.AboutNode(observe.CloudAddressesChanged(text)) },
	}
	w.Run(ctx)
}

// ready returns an error while the agent cannot serve ADD.
func (a *agent) ready() error {
	if err := a.definitions.ready(); err != nil {
		return err
	}
	if !a.knowsAddrs.Load() {
		return fmt.Errorf("%w: the agent has not read the addresses of node %s yet", ipam.ErrNotReady, a.cfg.NodeName)
	}
	return errors.Join(a.service.Allocator.Ready(), a.cluster.Ready(), a.pools.Ready())
}

// run runs every part until ctx ends or an essential part fails.
func (a *agent) run(ctx context.Context) error {
	listener, err := rpcserver.Listen(a.cfg.SocketPath)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The other parts outlive the servers, so that requests in progress can finish.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()

	var parts sync.WaitGroup
	writeEndpoints := func(ctx context.Context) { a.endpoints.Run(ctx, a.service.Endpoint) }
	for _, part := range []func(context.Context){a.cluster.Run, a.pools.Run, writeEndpoints, a.maintain, a.node.Run, a.bandwidth.Run, a.followAddrs, a.askRuntime, a.services.Run, a.followPolicies, a.enforcePolicies, a.flows.run, a.flowPods.Run, a.watchCloud} {
		parts.Go(func() { part(background) })
	}
	parts.Go(func() {
		if err := a.definitions.run(background, a.retry); err != nil {
			cancel(err)
		}
	})
	var servers sync.WaitGroup
	servers.Go(func() {
		if err := a.server.Serve(ctx, listener, grace); err != nil {
			cancel(fmt.Errorf("serve the CNI plugins: %w", err))
		}
	})
	servers.Go(func() {
		if err := a.serveHTTP(ctx); err != nil {
			cancel(err)
		}
	})
	a.log.Info("spiderpool-agent started", "version", config.Version, "node", a.cfg.NodeName, "socket", a.cfg.SocketPath)
	servers.Wait()
	stop()
	parts.Wait()
	a.service.Allocator.Close()
	a.events.Close()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// maintain reads the leases of the node. Then it commits the releases on disk, reclaims
// addresses and repairs the endpoints of the node's pods until ctx ends.
func (a *agent) maintain(ctx context.Context) {
	a.retry(ctx, "read the blocks of this node", a.service.Allocator.Load)
	a.retry(ctx, "read pods and pools", func(context.Context) error { return a.ready() })
	a.service.Repair()
	debug.FreeOSMemory() // the garbage of the first lists, once: later, an agent rarely lists
	policy := a.cfg.IPAM.ReclaimPolicy()
	policy.MinAge = a.minLeaseAge()
	replay := time.NewTicker(replayInterval)
	defer replay.Stop()
	scan := time.NewTicker(max(time.Second, time.Duration(a.cfg.IPAM.GC.GCAll.IntervalInSecond)*time.Second))
	defer scan.Stop()
	ended := time.NewTicker(endedInterval)
	defer ended.Stop()
	repair := time.NewTicker(repairInterval)
	defer repair.Stop()
	for {
		a.heal(ctx)
		a.replay(ctx)
		select {
		case <-ctx.Done():
			return
		case <-replay.C:
		case <-ended.C:
			a.reclaimEnded(ctx, policy)
		case <-scan.C:
			if err := a.service.Reclaim(ctx, policy); err != nil && ctx.Err() == nil {
				a.log.Warn("cannot reclaim addresses", "err", err)
			}
		case <-repair.C:
			a.service.Repair()
		}
	}
}

// retry calls f until it succeeds or ctx ends.
func (a *agent) retry(ctx context.Context, what string, f func(context.Context) error) {
	pauses := wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Cap: 5 * time.Second, Steps: math.MaxInt}
	_ = pauses.DelayFunc().Until(ctx, true, false, func(ctx context.Context) (bool, error) {
		err := f(ctx)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("will retry", "what", what, "err", err)
		}
		return err == nil, nil
	})
}

// heal reads the blocks whose content is in doubt, and restores the leases that another
// client has removed.
func (a *agent) heal(ctx context.Context) {
	if err := errors.Join(a.service.Allocator.ReadUnread(ctx), a.service.RestoreLost(ctx)); err != nil && ctx.Err() == nil {
		a.log.Warn("cannot bring leases and SpiderIPBlocks into agreement", "err", err)
	}
}

// replay commits the releases on disk.
func (a *agent) replay(ctx context.Context) {
	if a.journal.Len() == 0 {
		return
	}
	if left, err := a.service.Replay(ctx); err != nil && ctx.Err() == nil {
		a.log.Warn("cannot commit all releases on disk", "left", left, "err", err)
	}
}
