package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

const (
	httpPort    = 80
	dialTimeout = 5 * time.Second
)

// network opens listeners and connections in the load balancer's namespace.
type network interface {
	Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error)
	Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
}

// service is the current task of a listener: HTTP if it has rules. Otherwise it relays each connection to one of the
// targets, as a network load balancer does for clients of the other address family.
type service struct {
	*balancer
	targets []netip.AddrPort
}

func (s service) isHTTP() bool { return len(s.forwards) == 0 }

// services returns the listeners required by the load balancers.
func (f fabric) services(all []placed) map[netip.AddrPort]service {
	wanted := map[netip.AddrPort]service{}
	for _, p := range all {
		for _, addr := range f.served(p) {
			if len(p.ingresses) > 0 {
				wanted[netip.AddrPortFrom(addr, httpPort)] = service{balancer: p.balancer}
			}
			for _, forward := range p.forwards {
				if forward.protocol == "tcp" && len(forward.targetsOf(addr)) == 0 && len(forward.targets) > 0 {
					wanted[netip.AddrPortFrom(addr, forward.port)] = service{p.balancer, forward.targets}
				}
			}
		}
	}
	return wanted
}

// listeners serves any number of addresses, each with its latest service.
type listeners struct {
	network network
	log     *slog.Logger
	open    map[netip.AddrPort]*listener
	running sync.WaitGroup
}

type listener struct {
	net.Listener
	http    bool
	service atomic.Pointer[service]
	stop    context.CancelFunc
}

// set replaces the listeners. Connections of remaining listeners continue.
func (l *listeners) set(ctx context.Context, wanted map[netip.AddrPort]service) error {
	for addr, open := range l.open {
		if service, keep := wanted[addr]; !keep || service.isHTTP() != open.http {
			open.stop()
			delete(l.open, addr)
		}
	}
	var errs []error
	for addr, service := range wanted {
		open, found := l.open[addr]
		if !found {
			var err error
			if open, err = l.start(ctx, addr, service.isHTTP()); err != nil {
				errs = append(errs, err)
				continue
			}
			l.open[addr] = open
		}
		open.service.Store(&service)
	}
	return errors.Join(errs...)
}

func (l *listeners) close() {
	for _, open := range l.open {
		open.stop()
	}
	l.running.Wait()
}

func (l *listeners) start(ctx context.Context, addr netip.AddrPort, isHTTP bool) (*listener, error) {
	socket, err := l.network.Listen(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	open := &listener{Listener: socket, http: isHTTP}
	if isHTTP {
		server := &http.Server{Handler: l.proxy(open), ReadHeaderTimeout: dialTimeout}
		open.stop = func() { cancel(); _ = server.Close() }
		l.running.Go(func() {
			if err := server.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
				l.log.Error("listener ended", "address", addr, "error", err)
			}
		})
		return open, nil
	}
	open.stop = func() { cancel(); _ = socket.Close() }
	l.running.Go(func() { l.accept(ctx, open) })
	return open, nil
}

// proxy serves HTTP by the listener's rules. It keeps the client's Host header and sends X-Forwarded-For, -Host and
// -Proto.
func (l *listeners) proxy(open *listener) http.Handler {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			target, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, err
			}
			return l.network.Dial(ctx, target)
		},
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     time.Minute,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, target := open.service.Load().route(r)
		if status != http.StatusOK {
			http.Error(w, http.StatusText(status), status)
			return
		}
		reverse := httputil.ReverseProxy{
			Transport: transport,
			Rewrite: func(p *httputil.ProxyRequest) {
				p.SetURL(&url.URL{Scheme: "http", Host: target.String()})
				p.Out.Host = p.In.Host
				p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
				p.SetXForwarded()
			},
			ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
				l.log.Warn("target does not answer", "target", target, "path", r.URL.Path, "error", err)
				http.Error(w, http.StatusText(http.StatusBadGateway), http.StatusBadGateway)
			},
		}
		reverse.ServeHTTP(w, r)
	})
}

// route selects a target for the request, or an error status.
func (s *service) route(r *http.Request) (int, netip.AddrPort) {
	client, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !s.admits(client.Addr()) {
		return http.StatusForbidden, netip.AddrPort{}
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	for _, rule := range s.rules {
		if rule.matches(host, r.URL.Path) {
			if len(rule.targets) == 0 {
				return http.StatusServiceUnavailable, netip.AddrPort{}
			}
			return http.StatusOK, pick(rule.targets)
		}
	}
	return http.StatusNotFound, netip.AddrPort{}
}

func pick(targets []netip.AddrPort) netip.AddrPort { return targets[rand.IntN(len(targets))] }

// accept relays connections until the listener is closed.
func (l *listeners) accept(ctx context.Context, open *listener) {
	for {
		client, err := open.Accept()
		if err != nil {
			if ctx.Err() == nil {
				l.log.Error("listener ended", "address", open.Addr(), "error", err)
			}
			return
		}
		l.running.Go(func() {
			if err := l.relay(ctx, client, open.service.Load()); err != nil {
				l.log.Warn("connection not relayed", "client", client.RemoteAddr(), "error", err)
			}
		})
	}
}

// relay copies both ways between client and target until both have closed their side or ctx ends.
func (l *listeners) relay(ctx context.Context, client net.Conn, s *service) error {
	defer func() { _ = client.Close() }()
	if from, err := netip.ParseAddrPort(client.RemoteAddr().String()); err != nil || !s.admits(from.Addr()) {
		return fmt.Errorf("the client is not in a source range")
	}
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	target, err := l.network.Dial(dialing, pick(s.targets))
	if err != nil {
		return err
	}
	defer func() { _ = target.Close() }()
	ended := context.AfterFunc(ctx, func() { _, _ = client.Close(), target.Close() })
	defer ended()
	var copying sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, target}, {target, client}} {
		copying.Go(func() {
			_, _ = io.Copy(way[1], way[0]) // either side can reset at any time
			if half, ok := way[1].(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
			}
		})
	}
	copying.Wait()
	return nil
}
