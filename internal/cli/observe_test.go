package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/rpc/hubble"
	"spiderpool.dev/spiderpool/internal/service"
)

// flowServer serves five flows of a node on a unix socket, and returns its URL. The last one is at noon.
func flowServer(t *testing.T) string {
	t.Helper()
	at := func(minutes int) time.Time { return noonOfFlows.Add(time.Duration(minutes) * time.Minute) }
	client := &flow.End{Pod: lease.PodKey{Namespace: "shop", Name: "client"}}
	web := &flow.End{Pod: lease.PodKey{Namespace: "shop", Name: "web-0"}, Labels: map[string]string{"app": "web"}, Workload: flow.Workload{Kind: "StatefulSet", Name: "web"}}
	opened := flow.Flow{
		Event: flow.Event{
			Time: at(-4), Interface: "eth0", Direction: policy.Egress, Protocol: service.TCP, Flags: 2,
			Source: netip.MustParseAddrPort("10.6.0.2:40000"), Destination: netip.MustParseAddrPort("10.6.0.9:8080"),
		},
		Opener: client, Target: web, Frontend: service.Name{Namespace: "shop", Name: "web"},
	}
	closed, dropped, ping := opened, opened, opened
	closed.Kind, closed.Time, closed.Flags = flow.Closed, at(-3), 17
	closed.Ended = flow.Counters{Sent: flow.Traffic{Packets: 5, Bytes: 480}, Received: flow.Traffic{Packets: 4, Bytes: 1520}, Duration: time.Second}
	dropped.Kind, dropped.Time, dropped.Reason, dropped.Direction = flow.Denied, at(-2), flow.ByPolicy, policy.Ingress
	dropped.Policies = []policy.Name{{Namespace: "shop", Name: "only-client"}}
	dropped.Source, dropped.Opener, dropped.Frontend = netip.MustParseAddrPort("[2001:db8::5]:5000"), nil, service.Name{}
	ping.Time, ping.Protocol, ping.Flags, ping.ICMPType, ping.Target, ping.Frontend = at(0), flow.ICMPv4, 0, 8, nil, service.Name{}
	ring := flow.NewRing(8)
	ring.Add(opened, closed, dropped, flow.Flow{Event: flow.Event{Time: at(-1)}, Lost: 7}, ping)

	socket := filepath.Join(t.TempDir(), "hubble.sock")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &hubble.Server{Observer: hubble.NewObserver(ring, func(context.Context, *flow.Flow) {}, hubble.About{Node: "n1", Domain: "cluster.local"})}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener, nil) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "unix://" + socket
}

var noonOfFlows = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// observe runs the command and returns its output, or its error.
func observe(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := newRootAt(func() time.Time { return noonOfFlows })
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(append([]string{"observe"}, args...))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestObservePrintsLines(t *testing.T) {
	server := flowServer(t)
	lines := []string{
		"n1 shop/client:40000 -> shop/web-0:8080 (service shop/web) egress eth0 FORWARDED TCP Flags: SYN",
		"n1 shop/client:40000 -> shop/web-0:8080 (service shop/web) egress eth0 FORWARDED TCP Flags: FIN, ACK; closed after 1s, sent 5 packets with 480 bytes, received 4 with 1520",
		"n1 [2001:db8::5]:5000 -> shop/web-0:8080 ingress eth0 DROPPED (POLICY_DENIED) by NetworkPolicy shop/only-client TCP Flags: SYN",
		"n1 lost 7 events",
		"n1 shop/client -> 10.6.0.9 egress eth0 FORWARDED ICMPV4",
	}
	for name, c := range map[string]struct {
		args []string
		want []int
	}{
		"default":      {nil, []int{0, 1, 2, 3, 4}},
		"either end":   {[]string{"--pod", "shop/web-", "--protocol", "tcp", "--port", "8080"}, []int{0, 1, 2, 3}},
		"same end":     {[]string{"--pod", "shop/client", "--port", "8080"}, []int{3}},
		"one end":      {[]string{"--from-pod", "shop/web-0"}, []int{3}},
		"dropped":      {[]string{"--verdict", "dropped"}, []int{2, 3}},
		"reason":       {[]string{"--drop-reason-desc", "INVALID_SOURCE_IP"}, []int{3}},
		"service":      {[]string{"--service", "shop/web", "--tcp-flags", "FIN,ACK"}, []int{1, 3}},
		"namespaces":   {[]string{"--from-namespace", "shop", "--to-namespace", "shop"}, []int{0, 1, 3}},
		"workload":     {[]string{"--to-workload", "StatefulSet/web", "--to-label", "app in (web, x)", "--traffic-direction", "ingress"}, []int{2, 3}},
		"networks":     {[]string{"--from-ip", "2001:db8::/32", "--interface", "eth0"}, []int{2, 3}},
		"names":        {[]string{"--to-fqdn", "web.*", "--node-name", "n*"}, []int{0, 1, 3}},
		"last":         {[]string{"--last", "1"}, []int{4}},
		"first":        {[]string{"--first", "2"}, []int{0, 1}},
		"since, until": {[]string{"--since", "3m30s", "--until", noonOfFlows.Add(-2 * time.Minute).Format(time.RFC3339)}, []int{1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := observe(t, append([]string{"--server", server}, c.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, n := range c.want {
				want = append(want, lines[n])
			}
			var found []string
			for line := range strings.Lines(got) {
				found = append(found, strings.TrimSpace(line[len(time.StampMilli)+1:]))
			}
			if strings.Join(found, "\n") != strings.Join(want, "\n") {
				t.Errorf("printed\n%s\nwant\n%s", strings.Join(found, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestObservePrintsJSON(t *testing.T) {
	got, err := observe(t, "--server", flowServer(t), "--verdict", "DROPPED", "--last", "1", "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	var line struct {
		Flow struct {
			Verdict     string `json:"verdict"`
			Destination struct {
				Pod string `json:"pod_name"`
			} `json:"destination"`
		} `json:"flow"`
		Node string `json:"node_name"`
	}
	if err := json.Unmarshal([]byte(strings.SplitN(got, "\n", 2)[0]), &line); err != nil || line.Flow.Verdict != "DROPPED" || line.Flow.Destination.Pod != "web-0" || line.Node != "n1" {
		t.Errorf("printed %s: %v", got, err)
	}
}

func TestObserveErrorsNameWayOut(t *testing.T) {
	server := flowServer(t)
	missing := filepath.Join(t.TempDir(), "hubble.sock")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no agent":       {[]string{"--server", "unix://" + missing}, "no agent serves flows at " + missing},
		"no certificate": {[]string{"--server", "node-1:5712"}, "agents and hubble-relay ask for a client certificate; give its directory with --tls-dir"},
		"empty tls dir":  {[]string{"--server", "node-1:5712", "--tls-dir", t.TempDir()}, "tls.crt: no such file"},
		"verdict":        {[]string{"--server", server, "--verdict", "x"}, `--verdict "x": unknown`},
		"flags":          {[]string{"--server", server, "--tcp-flags", "SYN,X"}, `--tcp-flags "SYN,X": write names of flags, e.g. SYN,ACK`},
		"time":           {[]string{"--server", server, "--since", "yesterday"}, `--since "yesterday": write a time such as 2026-11-29T12:00:00Z, or a duration such as 5m`},
		"filter":         {[]string{"--server", server, "--from-ip", "x"}, `source_ip: "x": write an address or a network, e.g. 10.6.0.2 or 10.6.0.0/16`},
		"output":         {[]string{"--server", server, "--output", "table"}, `--output "table": write line or json`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := observe(t, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
		})
	}
}
