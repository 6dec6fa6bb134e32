// Package datapath translates service addresses on the node: it decides between eBPF
// and kube-proxy, and keeps the entries of the programs in sync with the cluster.
package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/linux/bpf"
	"spiderpool.dev/spiderpool/internal/service"
)

// groups is the node's mount of its control groups in the agent's container, and
// groupsOutside the one for an agent without a container.
const (
	groups        = "/host/sys/fs/cgroup"
	groupsOutside = "/sys/fs/cgroup"
)

// podNamespaces has the network namespaces of the node's pods.
const podNamespaces = "/run/netns"

// LoadPrograms loads the programs for the pods of this node. The error is the reason why
// kube-proxy has to translate.
func LoadPrograms(cfg config.Service) (*bpf.Programs, error) {
	group, err := podGroup(cfg)
	if err != nil {
		return nil, err
	}
	return bpf.Load(bpf.Directory, group)
}

func podGroup(cfg config.Service) (string, error) {
	root := groups
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		root = groupsOutside
	}
	return bpf.PodGroup(root, cfg.Cgroup)
}

// Check returns why this node cannot translate services with eBPF, and changes nothing.
func Check(cfg config.Service) error {
	group, err := podGroup(cfg)
	if err != nil {
		return err
	}
	return bpf.Check(bpf.Directory, group)
}

// Programs is a *bpf.Programs.
type Programs interface {
	Known() (map[service.FrontendKey]service.ID, error)
	Replace(service.Diff) error
	Change(service.Diff) error
	Attach() error
	Others() error
	EndLostFlows(namespaces string) (ended int, err error)
	Entries() bpf.Entries
	Limits() bpf.Entries
	Close() error
}

// SyncFunc passes the entries of all services to the sink until ctx ends. known are the
// sets in the maps.
type SyncFunc func(ctx context.Context, known map[service.FrontendKey]service.ID, sink agentclient.ServiceSink)

// SyncWith returns the SyncFunc with the cluster's services, for clients on the node. tell writes an event about an
// object with invalid parts. names learns the services.
func SyncWith(client *agentclient.Client, node string, cfg config.Service, names *Names, tell agentclient.TellFault, log *slog.Logger) SyncFunc {
	return func(ctx context.Context, known map[service.FrontendKey]service.ID, sink agentclient.ServiceSink) {
		s := agentclient.NewServiceSync(client, node, known, sink, tell, log)
		s.ExternalIPs = cfg.ExternalIPs
		names.last.Store(s)
		s.Run(ctx)
	}
}

// Names knows the services by their frontends, since the first SyncFunc. Its method is safe for concurrent use.
type Names struct {
	last atomic.Pointer[agentclient.ServiceSync]
}

// Owner returns the service that a frontend belongs to.
func (n *Names) Owner(key service.FrontendKey) (service.Name, bool) {
	s := n.last.Load()
	if s == nil {
		return service.Name{}, false
	}
	return s.Owner(key)
}

// Services translates the services of one node.
type Services struct {
	Mode config.ServiceMode
	// Load loads the programs; see LoadPrograms.
	Load func() (Programs, error)
	// Remove removes the programs that an earlier agent left.
	Remove func() error
	Sync   SyncFunc
	// Warn tells the administrator why kube-proxy translates against the configuration.
	Warn    func(reason string)
	Metrics *Metrics
	Now     func() time.Time
	Log     *slog.Logger

	// translates is whether the programs are attached, and left otherwise the reason that was told.
	translates bool
	left       string
}

// checkInterval is the time between two looks at the node: whether another load balancer has been attached, and, while
// kube-proxy translates, whether the node can run the programs now.
const checkInterval = 30 * time.Second

// checkAgain is the time between the two looks that find another load balancer.
const checkAgain = time.Second

// Run translates until ctx ends. While the node cannot, Run tells the reason and removes the programs, because their
// entries would become stale. kube-proxy then translates for the pods, too.
func (s *Services) Run(ctx context.Context) {
	if s.Mode == config.ServiceKubeProxy {
		return
	}
	for {
		err := s.translate(ctx)
		if ctx.Err() != nil {
			return // the programs go on without the agent
		}
		s.leave(err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(checkInterval):
		}
	}
}

// translate translates until ctx ends or the node cannot any more; the error is the reason.
func (s *Services) translate(ctx context.Context) error {
	programs, known, err := s.load()
	if err != nil {
		return err
	}
	defer programs.Close()
	setEach(s.Metrics.limits, programs.Limits())
	to := &sink{Services: s, programs: programs, lost: make(chan struct{}, 1)}
	ctx, stop := context.WithCancelCause(ctx)
	var parts sync.WaitGroup
	parts.Go(func() { to.endLostFlows(ctx) })
	parts.Go(func() {
		if err := awaitOthers(ctx, programs); err != nil {
			stop(err)
		}
	})
	s.Sync(ctx, known, to)
	stop(nil)
	parts.Wait()
	return context.Cause(ctx)
}

// awaitOthers returns an error once another load balancer is attached, and nil if ctx ends before. It looks twice: a
// program of ours looks foreign for a moment while the sync attaches or replaces it.
func awaitOthers(ctx context.Context, programs Programs) error {
	pause := checkInterval
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		err := programs.Others()
		switch {
		case err == nil:
			pause = checkInterval
		case pause == checkAgain:
			return err
		default:
			pause = checkAgain
		}
	}
}

func (s *Services) load() (Programs, map[service.FrontendKey]service.ID, error) {
	programs, err := s.Load()
	if err != nil {
		return nil, nil, err
	}
	known, err := programs.Known()
	if err != nil {
		return nil, nil, errors.Join(err, programs.Close())
	}
	return programs, known, nil
}

// leave leaves the services to kube-proxy, and tells each reason once.
func (s *Services) leave(reason error) {
	if err := s.Remove(); err != nil {
		reason = errors.Join(reason, fmt.Errorf("remove the eBPF programs of an earlier agent: %w", err))
	}
	if reason.Error() == s.left {
		return
	}
	translated := s.translates
	s.left, s.translates = reason.Error(), false
	s.Metrics.active.Set(0)
	setEach(s.Metrics.entries, bpf.Entries{})
	setEach(s.Metrics.limits, bpf.Entries{})
	if s.Mode == config.ServiceAuto && !translated {
		s.Log.Info("kube-proxy translates the services of this node", "service.mode", s.Mode, "reason", reason)
		return
	}
	if s.Mode == config.ServiceEBPF {
		s.Metrics.failures.Inc()
	}
	s.Log.Error("kube-proxy translates the services of this node", "service.mode", s.Mode, "err", reason)
	s.Warn(reason.Error())
}

// sink writes entries into the maps (agentclient.ServiceSink).
type sink struct {
	*Services
	programs Programs
	attached bool
	// lost has a value if a backend may have left a service.
	lost chan struct{}
	// full is the last error of a full map, "" if all entries have room.
	full string
}

// Replace writes all entries, and attaches the programs once they have entries.
func (s *sink) Replace(all service.Diff) error {
	if err := s.write(func() error { return s.programs.Replace(all) }); err != nil {
		return err
	}
	s.backendsLeft()
	if s.attached {
		return nil
	}
	if err := s.programs.Attach(); err != nil {
		s.Metrics.failures.Inc()
		return err
	}
	s.attached, s.translates, s.left = true, true, ""
	s.Metrics.active.Set(1)
	debug.FreeOSMemory() // the garbage of the first lists, once
	s.Log.Info("eBPF translates the services of this node", "service.mode", s.Mode, "frontends", s.programs.Entries().Frontends)
	return nil
}

// Change writes the changes.
func (s *sink) Change(changes service.Diff) error {
	if err := s.write(func() error { return s.programs.Change(changes) }); err != nil {
		return err
	}
	if len(changes.DeleteMembers) > 0 {
		s.backendsLeft()
	}
	return nil
}

// Applied counts the age of an event whose entries are in the kernel.
func (s *sink) Applied(age agentclient.EventAge) {
	s.Metrics.lag.WithLabelValues("event").Observe(age.Received.Seconds())
	if age.Caused > 0 {
		s.Metrics.lag.WithLabelValues("cause").Observe(age.Caused.Seconds())
	}
}

func (s *sink) backendsLeft() {
	select {
	case s.lost <- struct{}{}:
	default: // endLostFlows has not begun with the last value
	}
}

// endLostFlows ends the UDP flows to backends that left, until ctx ends.
func (s *sink) endLostFlows(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.lost:
		}
		ended, err := s.programs.EndLostFlows(podNamespaces)
		if errors.Is(err, errors.ErrUnsupported) {
			s.Log.Info("this kernel cannot end UDP flows to backends that left a service (CONFIG_INET_DIAG_DESTROY)")
			return
		}
		if err != nil {
			s.Log.Warn("cannot end all UDP flows to backends that left a service", "err", err)
		}
		if ended > 0 {
			s.Log.Info("ended UDP flows to backends that left a service", "flows", ended)
		}
	}
}

// write measures f. A full map is no error to the caller: to write all entries again
// would not help, and the next change tries the missing ones.
func (s *sink) write(f func() error) error {
	start := s.Now()
	err := f()
	s.Metrics.duration.Observe(s.Now().Sub(start).Seconds())
	setEach(s.Metrics.entries, s.programs.Entries())
	if err == nil {
		s.full = ""
		return nil
	}
	s.Metrics.failures.Inc()
	var full *bpf.FullError
	if !errors.As(err, &full) {
		return err
	}
	if text := full.Error(); text != s.full {
		s.full = text
		s.Log.Warn("a map of the service translation is full", "err", err)
		s.Warn(text)
	}
	return nil
}

// Metrics are the metrics of Services.
type Metrics struct {
	active   prometheus.Gauge
	entries  *prometheus.GaugeVec
	limits   *prometheus.GaugeVec
	failures prometheus.Counter
	duration prometheus.Histogram
	lag      *prometheus.HistogramVec
}

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		active: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "spiderpool_service_ebpf_active", Help: "1 if eBPF translates the services of this node's pods, 0 if kube-proxy does.",
		}),
		entries: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "spiderpool_service_entries", Help: "Entries of the eBPF maps for services.",
		}, []string{"map"}),
		limits: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "spiderpool_service_entries_limit", Help: "Maximum number of entries of the eBPF maps for services; 0 without eBPF.",
		}, []string{"map"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spiderpool_service_failure_counts_total", Help: "Failed attempts to load, attach or update the eBPF programs for services.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "spiderpool_service_update_duration_seconds",
			Help:    "Duration of an update of the eBPF maps for services, in seconds.",
			Buckets: []float64{.00001, .0001, .001, .01, .1, 1, 3, 10},
		}),
		lag: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "spiderpool_service_sync_lag_seconds",
			Help: "Time until a change of a Service or an EndpointSlice is in the eBPF maps, in seconds: since the API server's " +
				`event arrived (since="event"), and since the change of the pod behind it, by the control plane's clock (since="cause").`,
			Buckets: []float64{.0001, .001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"since"}),
	}
	for _, since := range []string{"event", "cause"} {
		m.lag.WithLabelValues(since)
	}
	setEach(m.entries, bpf.Entries{})
	setEach(m.limits, bpf.Entries{})
	registry.MustRegister(m.active, m.entries, m.limits, m.failures, m.duration, m.lag)
	return m
}

func setEach(gauges *prometheus.GaugeVec, e bpf.Entries) {
	gauges.WithLabelValues("frontends").Set(float64(e.Frontends))
	gauges.WithLabelValues("backends").Set(float64(e.Backends))
	gauges.WithLabelValues("members").Set(float64(e.Members))
}
