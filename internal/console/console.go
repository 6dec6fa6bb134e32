// Package console is the program spiderpool-console, a web page that shows pools, nodes, pods, events and flows.
//
// It reads the cluster with its own rights, by one watch for each kind, and draws the answers of package view.
// A user signs in with a Kubernetes token. The API server tells whose token it is (TokenReview), and which
// objects the user may list (SubjectAccessReview), and the pages show these alone. So the number of open pages
// makes no difference to the API server.
//
// The pages change nothing in the cluster, and load nothing from other hosts:
// docs/adr/0033-the-console-filters.md.
package console

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/tokenauth"
	"spiderpool.dev/spiderpool/internal/process"
	"spiderpool.dev/spiderpool/internal/process/httpserver"
	"spiderpool.dev/spiderpool/internal/process/setup"
)

// Command is the program spiderpool-console.
func Command(env *process.Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "spiderpool-console",
		Short:   "Serve the web page with pools, nodes, pods, events and flows",
		Version: config.Version,
		Example: `  # outside the cluster, without TLS, on this machine only
  SPIDERPOOL_POD_NAMESPACE=kube-system spiderpool-console --config config.yaml --kubeconfig ~/.kube/config --bind-address 127.0.0.1`,
		Args: cobra.NoArgs,
	}
	flags := setup.AddFlags(cmd, "IP address for pages and health checks; empty for all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var cfg config.Console
		server, err := flags.Load(env, func(file *config.File) (_ slog.Level, err error) {
			cfg, err = file.Console(env.Getenv)
			return cfg.LogLevel, err
		})
		if err != nil {
			return err
		}
		p, err := newProgram(cfg, server, env.Log)
		if err != nil {
			return err
		}
		return p.run(cmd.Context(), flags.BindAddress)
	}
	return cmd
}

// connections is the number of connections at a time. A page has two: one for changes, and one for a moment.
const connections = 4096

// program are the parts of the process.
type program struct {
	cfg     config.Console
	watches *watches
	site    *site
	log     *slog.Logger
}

func newProgram(cfg config.Console, server *rest.Config, log *slog.Logger) (*program, error) {
	ctrllog.SetLogger(logr.FromSlogHandler(log.Handler()))
	server = rest.CopyConfig(server)
	server.UserAgent = "spiderpool-console/" + config.Version
	names := ipamNames{namespace: cfg.PodNamespace, agents: cfg.AgentName}
	w, err := newWatches(server, names, log)
	if err != nil {
		return nil, err
	}
	access, err := tokenauth.NewAccess(server)
	if err != nil {
		return nil, err
	}
	objects := w.objects()
	take := func(ctx context.Context, now time.Time) (*snapshot, error) { return objects.take(ctx, names, now) }
	return &program{cfg, w, newSite(options{
		Board: newBoard(take, time.Now, log), Objects: objects, Access: access, Flows: newFlowWatch(cfg.Flows, log),
		Config: cfg.File, Namespace: cfg.PodNamespace, Now: time.Now, Log: log,
	}), log}, nil
}

// run serves until ctx ends. address comes before those of the configuration.
func (p *program) run(ctx context.Context, address string) error {
	address, healthAddress := cmp.Or(address, p.cfg.Address), cmp.Or(address, p.cfg.HealthAddress)
	p.site.Secure = p.cfg.TLS.Enabled || !isLoopback(address)
	pages := httpserver.Server{Handler: p.site, Log: p.log, Connections: connections, Idle: time.Minute}
	if p.cfg.TLS.Enabled {
		pages.Certificate = httpserver.NewKeyPair(p.cfg.TLS.CertDir).Certificate
	} else {
		p.log.WarnContext(ctx, "the pages are served without TLS: every host on the way can read the tokens of users; set console.tls.enabled, or put a proxy with TLS in front: browsers keep a session only with TLS")
	}
	health := httpserver.Server{Handler: checks(p.watches, pages.Certificate), Log: p.log}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.watches.run(ctx, p.site.Board.changed) })
	group.Go(func() error {
		if !p.watches.wait(ctx) { // snapshots before that would show pools without pods
			return nil
		}
		return p.site.Board.run(ctx)
	})
	group.Go(func() error { return p.site.Flows.run(ctx) })
	group.Go(func() error { return pages.Run(ctx, hostPort(address, p.cfg.Port)) })
	group.Go(func() error { return health.Run(ctx, hostPort(healthAddress, p.cfg.HealthPort)) })
	p.log.InfoContext(ctx, "console starts", "version", config.Version, "port", p.cfg.Port, "tls", p.cfg.TLS.Enabled)
	return group.Wait()
}

// isLoopback reports whether only programs of this machine reach an address to listen on. The empty address is all addresses.
func isLoopback(address string) bool {
	addr, err := netip.ParseAddr(address)
	return err == nil && addr.Unmap().IsLoopback()
}

func hostPort(address string, port int) string { return net.JoinHostPort(address, strconv.Itoa(port)) }

// checks serves /healthz and /readyz. The console is ready once it has read all objects and has a certificate.
func checks(w *watches, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(answer http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(answer, "ok") })
	mux.HandleFunc("GET /readyz", func(answer http.ResponseWriter, r *http.Request) {
		err := errors.New("the objects of the cluster are not read yet")
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if w.wait(ctx) {
			err = nil
		}
		if certificate != nil {
			_, fault := certificate(nil)
			err = errors.Join(err, fault)
		}
		if err != nil {
			http.Error(answer, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(answer, "ok")
	})
	return mux
}
