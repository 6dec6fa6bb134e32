package lb

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

// loopback is a network on this machine's loopback. It maps every address to a free port.
type loopback struct {
	bound map[netip.AddrPort]net.Listener
}

func (l loopback) Listen(_ context.Context, addr netip.AddrPort) (net.Listener, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	l.bound[addr] = listener
	return listener, err
}

func (l loopback) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr.String())
}

func newListeners(t *testing.T) (*listeners, loopback) {
	network := loopback{bound: map[netip.AddrPort]net.Listener{}}
	l := &listeners{network: network, log: slog.New(slog.DiscardHandler), open: map[netip.AddrPort]*listener{}}
	t.Cleanup(l.close)
	return l, network
}

// target is an HTTP server that answers with its name and the request.
func target(t *testing.T, name string) netip.AddrPort {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s host=%s for=%s", name, r.URL.Path, r.Host, r.Header.Get("X-Forwarded-For"))
	}))
	t.Cleanup(server.Close)
	return netip.MustParseAddrPort(server.Listener.Addr().String())
}

func get(t *testing.T, at net.Listener, path string, header http.Header) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at.Addr().String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = "shop.example.org"
	for key, values := range header {
		request.Header[key] = values
	}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestApplicationLoadBalancerRoutesByPath(t *testing.T) {
	l, network := newListeners(t)
	at := addrPorts("172.31.0.100:80")[0]
	b := &balancer{rules: []rule{
		{path: "/", exact: true, targets: []netip.AddrPort{target(t, "nginx")}},
		{path: "/echo", exact: true, targets: []netip.AddrPort{target(t, "echo")}},
		{path: "/empty", exact: true},
		{path: "/dead", exact: true, targets: addrPorts("127.0.0.1:1")},
	}}
	if err := l.set(t.Context(), map[netip.AddrPort]service{at: {balancer: b}}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path, forwarded string
		status          int
		want            string
	}{
		{"/", "", 200, "nginx / host=shop.example.org for=127.0.0.1"},
		{"/echo", "192.0.2.7", 200, "echo /echo host=shop.example.org for=192.0.2.7, 127.0.0.1"},
		{"/other", "", 404, "Not Found\n"},
		{"/empty", "", 503, "Service Unavailable\n"},
		{"/dead", "", 502, "Bad Gateway\n"},
	} {
		t.Run(test.path, func(t *testing.T) {
			header := http.Header{}
			if test.forwarded != "" {
				header.Set("X-Forwarded-For", test.forwarded)
			}
			if status, body := get(t, network.bound[at], test.path, header); status != test.status || body != test.want {
				t.Errorf("got %d %q, want %d %q", status, body, test.status, test.want)
			}
		})
	}
	refusing := &balancer{rules: b.rules, sourceRanges: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	if err := l.set(t.Context(), map[netip.AddrPort]service{at: {balancer: refusing}}); err != nil {
		t.Fatal(err)
	}
	if status, _ := get(t, network.bound[at], "/", nil); status != http.StatusForbidden {
		t.Errorf("a client outside the source ranges got %d", status)
	}
}

func TestRelayCopiesBothWays(t *testing.T) {
	l, network := newListeners(t)
	upstream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = upstream.Close() })
	go func() {
		connection, err := upstream.Accept()
		if err != nil {
			return
		}
		text, _ := bufio.NewReader(connection).ReadString('\n')
		_, _ = io.WriteString(connection, "echo "+text)
		_ = connection.Close()
	}()
	at := addrPorts("[2001:db8::1]:80")[0]
	relayed := service{&balancer{forwards: []forward{{}}}, addrPorts(upstream.Addr().String())}
	if err := l.set(t.Context(), map[netip.AddrPort]service{at: relayed}); err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp", network.bound[at].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if _, err := io.WriteString(client, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(client); err != nil || string(got) != "echo hello\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := l.set(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if client, err := net.Dial("tcp", network.bound[at].Addr().String()); err == nil {
		_ = client.Close()
		t.Error("the listener still accepts after its service has gone")
	}
}
