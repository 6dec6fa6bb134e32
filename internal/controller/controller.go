// Package controller is the cluster-wide process. It creates network attachments,
// writes views of leases, reclaims addresses, finds the cluster's networks and
// validates custom resources.
//
// The package is wiring: features lists the reconcilers, each in a directory below,
// and package admission has the webhooks. Several replicas run. Every replica serves
// webhooks; only the leader runs reconcilers. A replica gives up the lead when it
// ends, so that another one takes over at once.
package controller

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/admission"
	"spiderpool.dev/spiderpool/internal/admission/certificate"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/controller/cloudnetwork"
	"spiderpool.dev/spiderpool/internal/controller/clustercidr"
	"spiderpool.dev/spiderpool/internal/controller/disabled"
	"spiderpool.dev/spiderpool/internal/controller/endpoint"
	"spiderpool.dev/spiderpool/internal/controller/leasereclaim"
	"spiderpool.dev/spiderpool/internal/controller/multusconfig"
	"spiderpool.dev/spiderpool/internal/controller/nodeaddress"
	"spiderpool.dev/spiderpool/internal/controller/peergroup"
	"spiderpool.dev/spiderpool/internal/controller/policyfault"
	"spiderpool.dev/spiderpool/internal/controller/poolstatus"
	"spiderpool.dev/spiderpool/internal/controller/reservedip"
	"spiderpool.dev/spiderpool/internal/controller/startuptaint"
	"spiderpool.dev/spiderpool/internal/controller/subnet"
	"spiderpool.dev/spiderpool/internal/controller/takenaddress"
	"spiderpool.dev/spiderpool/internal/controller/withheld"
	"spiderpool.dev/spiderpool/internal/ipam/withhold"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/liveblocks"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

const (
	// stopTimeout is how long reconcilers may take to finish at the end of the process.
	stopTimeout = 4 * time.Second
	// Limits for requests to the API server, per second and in a burst. The first start
	// in a cluster with thousands of pools writes thousands of labels.
	requestsPerSecond = 500
	requestBurst      = 1000
)

// Options are the inputs of Run besides the configuration.
type Options struct {
	// RestConfig is the address of the API server with the credentials.
	RestConfig *rest.Config
	// BindAddress is the address for webhooks, health and metrics; empty means all
	// addresses.
	BindAddress string
	// Log is the logger of the process.
	Log *slog.Logger
}

// Run runs the controller until the context ends or a part of it fails for good.
func Run(ctx context.Context, cfg config.Controller, o Options) error {
	log := o.Log
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	restConfig := rest.CopyConfig(o.RestConfig)
	restConfig.QPS, restConfig.Burst = requestsPerSecond, requestBurst
	// The API server warns about the name of our finalizer at every write, but users
	// know the name, so it cannot change.
	restConfig.WarningHandler = rest.NoWarnings{}
	restConfig.UserAgent = "spiderpool-controller/" + config.Version

	rotator := certificate.New(certificateOptions(cfg), log)
	serving := certificateOf(cfg.Webhook.TLS, rotator.GetCertificate)
	webhooks := newWebhookServer(hostPort(o.BindAddress, cfg.Webhook.Port), serving, log)
	mgr, err := ctrl.NewManager(restConfig, managerOptions(cfg, webhooks))
	if err != nil {
		return fmt.Errorf("set up the controller: %w", err)
	}
	ready := map[string]healthz.Checker{}
	if cfg.Webhook.TLS.Method == config.TLSAuto {
		if err := rotator.Register(mgr); err != nil {
			return err
		}
		ready["certificate"] = rotator.Check
	}
	own := newMetrics(mgr.GetCache(), cfg.Metrics.Debug, serving)
	// Tests run several replicas in one process; the first one registers its metrics.
	if err := ctrlmetrics.Registry.Register(own); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		return fmt.Errorf("register the metrics: %w", err)
	}
	defer ctrlmetrics.Registry.Unregister(own)
	if err := addIssuers(mgr, cfg, log); err != nil {
		return err
	}
	index := poolindex.New()
	if err := register(ctx, mgr, cfg, index, own, log); err != nil {
		return err
	}
	addChecks(ready, mgr, index)
	if err := addServers(ctx, mgr, cfg, o.BindAddress, ready, serving, log); err != nil {
		return err
	}
	log.InfoContext(ctx, "controller starts", "version", config.Version, "pod", cfg.PodName)
	if err := start(ctx, mgr); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	return nil
}

// start runs the manager until ctx ends. If the caches are not filled by then, the
// manager would keep waiting for them (controller-runtime 0.25, pull request 3440).
// start then returns without it: it does not lead and does no work, and the process
// ends anyway.
func start(ctx context.Context, mgr ctrl.Manager) error {
	filled, ended := make(cachesFilled), make(chan error, 1)
	if err := mgr.Add(filled); err != nil {
		return err
	}
	go func() { ended <- mgr.Start(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case <-filled:
		return <-ended
	default:
		return nil
	}
}

// cachesFilled is closed once the caches are filled, on every replica.
type cachesFilled chan struct{}

func (f cachesFilled) Start(context.Context) error {
	close(f)
	return nil
}

func (cachesFilled) NeedLeaderElection() bool { return false }

// syncTimeout is the longest wait for the first lists. With controller-runtime's two minutes, a controller of a large cluster with a busy API
// server would end, start again, and read the same lists again.
const syncTimeout = 15 * time.Minute

func managerOptions(cfg config.Controller, webhooks webhook.Server) ctrl.Options {
	timeout, yes := stopTimeout, true
	return ctrl.Options{
		// Warmup fills the caches of every replica: webhooks need them, and the replica
		// can take over at once. The names of controllers are not validated, because
		// tests run several replicas in one process.
		Controller:                    ctrlconfig.Controller{EnableWarmup: &yes, SkipNameValidation: &yes, CacheSyncTimeout: syncTimeout},
		Scheme:                        scheme.New(),
		Cache:                         cacheOptions(cfg),
		HealthProbeBindAddress:        "0", // see addServers
		Metrics:                       metricsserver.Options{BindAddress: "0"},
		WebhookServer:                 webhooks,
		LeaderElection:                true,
		LeaderElectionID:              cfg.LeaderElection.LeaseName,
		LeaderElectionNamespace:       cfg.PodNamespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &cfg.LeaderElection.LeaseDuration.Duration,
		RenewDeadline:                 &cfg.LeaderElection.RenewDeadline.Duration,
		RetryPeriod:                   &cfg.LeaderElection.RetryPeriod.Duration,
		GracefulShutdownTimeout:       &timeout,
	}
}

func hostPort(address string, port int) string { return net.JoinHostPort(address, strconv.Itoa(port)) }

func certificateOptions(cfg config.Controller) certificate.Options {
	subject := subjectOf(cfg, cfg.Webhook.ServiceName)
	subject.DNSNames = append(subject.DNSNames, cfg.Webhook.TLS.ExtraDNSNames...)
	for _, ip := range cfg.Webhook.TLS.ExtraIPs {
		subject.IPs = append(subject.IPs, net.ParseIP(ip))
	}
	return certificate.Options{
		Secret:   client.ObjectKey{Namespace: cfg.PodNamespace, Name: cfg.Webhook.TLS.SecretName},
		Subject:  subject,
		Mutating: cfg.Webhook.MutatingName, Validating: cfg.Webhook.ValidatingName,
	}
}

// addIssuers adds the issuers of the certificates of agents and console to the manager.
func addIssuers(mgr ctrl.Manager, cfg config.Controller, log *slog.Logger) error {
	add := func(wanted ...certificate.Wanted) error {
		return mgr.Add(certificate.NewIssuer(mgr.GetClient(), mgr.GetAPIReader(), log, wanted...))
	}
	of := func(secret, name string) certificate.Wanted {
		return certificate.Wanted{Secret: client.ObjectKey{Namespace: cfg.PodNamespace, Name: secret}, Subject: subjectOf(cfg, name)}
	}
	if t := cfg.AgentTLS; t != nil {
		if err := add(of(t.SecretName, t.ServiceName)); err != nil {
			return err
		}
	}
	if t := cfg.ConsoleTLS; t != nil {
		if err := add(of(t.SecretName, t.ServiceName)); err != nil {
			return err
		}
	}
	if t := cfg.FlowTLS; t != nil {
		agents, relay, users := of(t.SecretName, t.ServerName), of(t.RelaySecretName, t.RelayName), of(t.ClientSecretName, "spiderpool-flows-client")
		agents.Subject.DNSNames = append(agents.Subject.DNSNames, relayPeerName)
		relay.Subject.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		users.Subject.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		return add(agents, relay, users)
	}
	return nil
}

// relayPeerName is the name that hubble-relay expects in the certificate of the agent that tells it the nodes
// (Cilium's pkg/hubble/relay/server, for the cluster name "default").
const relayPeerName = "hubble-peer.default.hubble-grpc.cilium.io"

// subjectOf returns the subject of the certificate of a Service.
func subjectOf(cfg config.Controller, service string) certificate.Subject {
	host := service + "." + cfg.PodNamespace + ".svc"
	return certificate.Subject{
		DNSNames:     []string{host, host + "." + cfg.ClusterDNSDomain},
		CALifetime:   cfg.Webhook.TLS.CALifetime.Duration,
		CertLifetime: cfg.Webhook.TLS.CertLifetime.Duration,
	}
}

// reconciler is the shape of every controller. Each package below this one has a
// New, whose result has these methods.
type reconciler interface {
	Name() string
	Register(mgr ctrl.Manager) error
}

// feature is a reconciler with the Helm value that enables it.
type feature struct {
	reconciler
	helmValue string // empty: always enabled
	enabled   bool
	kind      client.Object // objects of this kind have no effect while the feature is disabled; nil for none
}

// features lists every reconciler of custom resources.
func features(mgr ctrl.Manager, cfg config.Controller, index *poolindex.Index, own *metrics, log *slog.Logger) []feature {
	w, live := status.NewWriter(mgr), mgr.GetAPIReader()
	always := func(r reconciler) feature { return feature{reconciler: r, enabled: true} }
	holds := withhold.New(liveblocks.New(w.Client, live), time.Now, log)
	list := []feature{
		always(poolstatus.New(w, live, index, log)),
		always(reservedip.New(w)),
		always(takenaddress.New(w.Client, index, log)),
		always(endpoint.New(w.Client, live, log)),
		always(endpoint.NewRestorer(w.Client, live, log)),
		always(leasereclaim.New(w, live, reclaimOptions(cfg, own), log)),
		always(withheld.New(w.Client, live, holds, log)),
		{startuptaint.New(w.Client, live, taintOptions(cfg), log), "startupTaint.enabled", cfg.StartupTaint.Enabled, nil},
		{nodeaddress.New(w.Client, cfg.IPAM.Families(), log), "addressResource.enabled", cfg.AddressResource.Enabled, nil},
		{peergroup.New(w, live, log), "policy.enabled", cfg.Policy.Enabled, nil},
		{peergroup.NewRemover(w.Client, live, log), "policy.enabled", !cfg.Policy.Enabled, nil},
		{subnet.New(w), "ipam.spiderSubnet.enable", cfg.IPAM.SpiderSubnet.Enable, &v2beta1.SpiderSubnet{}},
		{multusconfig.New(w, log), "multus.enableMultusConfig", cfg.Multus.EnableMultusConfig, &v2beta1.SpiderMultusConfig{}},
		{cloudnetwork.New(w, clouds(cfg.IaaS, live, own.clouds), cloudOptions(holds, live, cfg), log), "cloud.enabled", cfg.Cloud.Enabled, &v2beta1.SpiderCloudNetwork{}},
		{clustercidr.New(w, live, coordinatorOptions(cfg)), "coordinator.enabled", cfg.CoordinatorName != "", &v2beta1.SpiderCoordinator{}},
	}
	for _, r := range policyfault.All(w, live) {
		list = append(list, feature{r, "policy.enabled", cfg.Policy.Enabled, nil})
	}
	return list
}

// register adds the reconcilers and the webhooks to the manager.
func register(ctx context.Context, mgr ctrl.Manager, cfg config.Controller, index *poolindex.Index, own *metrics, log *slog.Logger) error {
	indexes := errors.Join(blockindex.IndexBlocksByPool(ctx, mgr.GetFieldIndexer()), blockindex.IndexBlocksByHolder(ctx, mgr.GetFieldIndexer()))
	if indexes != nil {
		return indexes
	}
	for _, f := range features(mgr, cfg, index, own, log) {
		r := f.reconciler
		if !f.enabled && f.kind == nil {
			continue
		}
		if !f.enabled {
			r = disabled.New(status.NewWriter(mgr), f.Name(), f.kind, f.helmValue)
		}
		if err := r.Register(mgr); err != nil {
			return fmt.Errorf("register the reconciler %s: %w", r.Name(), err)
		}
	}
	// The reconciler of pools must subscribe first, so this follows its Register.
	if err := index.Watch(ctx, mgr.GetCache()); err != nil {
		return err
	}
	if cfg.PodResources.Enabled {
		if err := admission.RegisterPods(mgr); err != nil {
			return err
		}
	}
	cluster := cfg.Multus.ClusterNetwork(cfg.PodNamespace)
	if cfg.AddressResource.Enabled {
		if err := admission.RegisterPodAddresses(ctx, mgr, cluster, log); err != nil {
			return err
		}
	}
	if cfg.Cloud.Enabled {
		if err := admission.RegisterPodZones(mgr, log); err != nil {
			return err
		}
	}
	return admission.Register(mgr, admission.Options{Pools: index, CoordinatorName: cfg.CoordinatorName, Cluster: cluster})
}

func coordinatorOptions(cfg config.Controller) clustercidr.Options {
	return clustercidr.Options{
		Name:            cfg.CoordinatorName,
		CiliumConfigMap: client.ObjectKey{Namespace: cfg.CiliumConfigMap.Namespace, Name: cfg.CiliumConfigMap.Name},
	}
}

func taintOptions(cfg config.Controller) startuptaint.Options {
	return startuptaint.Options{Namespace: cfg.PodNamespace, DaemonSet: cfg.StartupTaint.DaemonSet, Clouds: cfg.Cloud.Enabled}
}

func reclaimOptions(cfg config.Controller, observer leasereclaim.Observer) leasereclaim.Options {
	return leasereclaim.Options{
		Policy:   cfg.IPAM.ReclaimPolicy(),
		Interval: time.Duration(cfg.IPAM.GC.GCAll.IntervalInSecond) * time.Second,
		Observer: observer,
	}
}
