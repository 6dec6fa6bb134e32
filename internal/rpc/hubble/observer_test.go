package hubble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// request returns the flow number n: the pod default/client opens a connection to default/nginx at second n.
func request(n int) flow.Flow {
	return flow.Flow{
		Event: flow.Event{
			Time: noon.Add(time.Duration(n) * time.Second), Interface: "eth0", Direction: policy.Egress, Protocol: service.TCP, Flags: 2,
			Source:      netip.AddrPortFrom(netip.MustParseAddr("10.6.0.2"), uint16(40000+n)),
			Destination: netip.MustParseAddrPort("10.6.0.9:80"),
			Service:     netip.MustParseAddrPort("10.96.0.9:8080"),
		},
		Opener:   &flow.End{Pod: lease.PodKey{Namespace: "default", Name: "client"}, Labels: map[string]string{"app": "client"}},
		Target:   &flow.End{Pod: lease.PodKey{Namespace: "default", Name: "nginx"}, Labels: map[string]string{"app": "nginx"}, Workload: flow.Workload{Kind: "Deployment", Name: "nginx"}},
		Frontend: service.Name{Namespace: "default", Name: "web"},
	}
}

// denied returns a packet from outside that a policy of default/nginx drops.
func denied(n int) flow.Flow {
	f := request(n)
	f.Kind, f.Reason, f.Direction, f.Policies = flow.Denied, flow.ByPolicy, policy.Ingress, []policy.Name{{Namespace: "default", Name: "only-client"}}
	f.Source, f.Opener, f.Service, f.Frontend = netip.MustParseAddrPort("[2001:db8::5]:5000"), nil, netip.AddrPort{}, service.Name{}
	f.Destination = netip.MustParseAddrPort("[fd00:6::9]:80")
	return f
}

// serve serves a ring and returns a client of it.
func serve(t *testing.T, ring *flow.Ring, complete Completer) observerpb.ObserverClient {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "hubble.sock")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &Server{Observer: NewObserver(ring, complete, About{Node: "n1", Version: "v1", Domain: "cluster.local"})}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener, nil) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return observerpb.NewObserverClient(conn)
}

func complete(context.Context, *flow.Flow) {}

// ask returns the source ports of the flows of an answer, less 40000, and "lost N" for lost ones.
func ask(t *testing.T, client observerpb.ObserverClient, request *observerpb.GetFlowsRequest) []string {
	t.Helper()
	stream, err := client.GetFlows(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return receive(t, stream, -1)
}

func receive(t *testing.T, stream grpc.ServerStreamingClient[observerpb.GetFlowsResponse], number int) (got []string) {
	t.Helper()
	for len(got) != number {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if lost := answer.GetLostEvents(); lost != nil {
			got = append(got, fmt.Sprint("lost ", lost.GetNumEventsLost()))
			continue
		}
		got = append(got, fmt.Sprint(answer.GetFlow().GetL4().GetTCP().GetSourcePort()-40000))
	}
	return got
}

func TestRequestSelectsPlaceAndNumber(t *testing.T) {
	ring := flow.NewRing(8)
	for n := range 12 { // 0 to 3 are overwritten
		ring.Add(request(n))
	}
	client := serve(t, ring, complete)
	even := []*flowpb.FlowFilter{{SourcePort: []string{"40000", "40002", "40004", "40006", "40008", "40010"}}}
	at := func(n int) *timestamppb.Timestamp { return timestamppb.New(noon.Add(time.Duration(n) * time.Second)) }
	for name, c := range map[string]struct {
		request *observerpb.GetFlowsRequest
		want    []string
	}{
		"all":                    {&observerpb.GetFlowsRequest{}, []string{"4", "5", "6", "7", "8", "9", "10", "11"}},
		"last three":             {&observerpb.GetFlowsRequest{Number: 3}, []string{"9", "10", "11"}},
		"more than there are":    {&observerpb.GetFlowsRequest{Number: 99}, []string{"4", "5", "6", "7", "8", "9", "10", "11"}},
		"first three":            {&observerpb.GetFlowsRequest{Number: 3, First: true}, []string{"4", "5", "6"}},
		"last two that match":    {&observerpb.GetFlowsRequest{Number: 2, Whitelist: even}, []string{"8", "10"}},
		"first two that match":   {&observerpb.GetFlowsRequest{Number: 2, First: true, Blacklist: even}, []string{"5", "7"}},
		"since":                  {&observerpb.GetFlowsRequest{Since: at(9)}, []string{"9", "10", "11"}},
		"until":                  {&observerpb.GetFlowsRequest{Until: at(5)}, []string{"4", "5"}},
		"since and until":        {&observerpb.GetFlowsRequest{Since: at(6), Until: at(7)}, []string{"6", "7"}},
		"since the future":       {&observerpb.GetFlowsRequest{Since: at(99)}, nil},
		"none matches":           {&observerpb.GetFlowsRequest{Number: 2, Whitelist: []*flowpb.FlowFilter{{Verdict: []flowpb.Verdict{flowpb.Verdict_DROPPED}}}}, nil},
		"excluded by one of two": {&observerpb.GetFlowsRequest{Number: 9, Whitelist: even, Blacklist: []*flowpb.FlowFilter{{SourcePort: []string{"40004"}}, {SourcePort: []string{"40010"}}}}, []string{"6", "8"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ask(t, client, c.request); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestOlderFlowsHideNoNewerOnes has flows out of the order of their times, such as the ends of silent connections.
func TestOlderFlowsHideNoNewerOnes(t *testing.T) {
	ring := flow.NewRing(8)
	ring.Add(request(2), request(9), request(3), request(10), request(1))
	client := serve(t, ring, complete)
	at := func(n int) *timestamppb.Timestamp { return timestamppb.New(noon.Add(time.Duration(n) * time.Second)) }
	if got := ask(t, client, &observerpb.GetFlowsRequest{Since: at(8)}); !slices.Equal(got, []string{"9", "10"}) {
		t.Errorf("since: %v", got)
	}
	if got := ask(t, client, &observerpb.GetFlowsRequest{Until: at(5)}); !slices.Equal(got, []string{"2", "3", "1"}) {
		t.Errorf("until: %v", got)
	}
}

func TestFollowerGetsNewFlows(t *testing.T) {
	ring := flow.NewRing(8)
	ring.Add(request(0), request(1))
	client := serve(t, ring, complete)
	stream, err := client.GetFlows(t.Context(), &observerpb.GetFlowsRequest{Number: 1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	got := receive(t, stream, 1)
	ring.Add(request(2), request(3))
	if got = append(got, receive(t, stream, 2)...); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("got %v", got)
	}
}

// A client that does not read loses flows, and is told how many. The ring takes new flows meanwhile.
func TestSlowFollowerIsToldOfLoss(t *testing.T) {
	ring := flow.NewRing(4)
	entered, leave := make(chan struct{}), make(chan struct{})
	first := true
	client := serve(t, ring, func(context.Context, *flow.Flow) { // one reader calls it
		if first {
			first = false
			close(entered)
			<-leave
		}
	})
	ring.Add(request(0))
	stream, err := client.GetFlows(t.Context(), &observerpb.GetFlowsRequest{Follow: true, Since: timestamppb.New(noon)})
	if err != nil {
		t.Fatal(err)
	}
	<-entered
	for n := 1; n <= 10; n++ {
		ring.Add(request(n))
	}
	close(leave)
	got := receive(t, stream, 6)
	// Flow 0 has been copied before the others came.
	want := []string{"0", "lost 6", "7", "8", "9", "10"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The collector's own losses are in the answer, too.
func TestLostEventsAreReported(t *testing.T) {
	ring := flow.NewRing(8)
	ring.Add(request(0), flow.Flow{Event: flow.Event{Time: noon.Add(time.Second)}, Lost: 17}, request(2))
	client := serve(t, ring, complete)
	if got := ask(t, client, &observerpb.GetFlowsRequest{Number: 9}); !slices.Equal(got, []string{"0", "lost 17", "2"}) {
		t.Errorf("got %v", got)
	}
}

func TestBadRequestNamesField(t *testing.T) {
	client := serve(t, flow.NewRing(1), complete)
	for name, c := range map[string]struct {
		request *observerpb.GetFlowsRequest
		want    string
	}{
		"address":          {&observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{{}, {SourceIp: []string{"x"}}}}, `whitelist[1]: source_ip: "x": write an address or a network, e.g. 10.6.0.2 or 10.6.0.0/16`},
		"port":             {&observerpb.GetFlowsRequest{Blacklist: []*flowpb.FlowFilter{{DestinationPort: []string{"80-70"}}}}, `blacklist[0]: destination_port: "80-70": write a port or a range, e.g. 80 or 8000-8080`},
		"pod":              {&observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{{SourcePod: []string{""}}}}, `whitelist[0]: source_pod: an empty name: write a namespace, a prefix of the name, or both, e.g. shop/web-`},
		"first and follow": {&observerpb.GetFlowsRequest{First: true, Follow: true}, "first and follow exclude each other: the first flows end before new ones come"},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := client.GetFlows(t.Context(), c.request)
			if err == nil {
				_, err = stream.Recv()
			}
			if status.Code(err) != codes.InvalidArgument || status.Convert(err).Message() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestReadersAreLimited(t *testing.T) {
	ring := flow.NewRing(4)
	ring.Add(request(0))
	client := serve(t, ring, complete)
	follow := &observerpb.GetFlowsRequest{Number: 1, Follow: true}
	for range maxReaders {
		stream, err := client.GetFlows(t.Context(), follow)
		if err != nil {
			t.Fatal(err)
		}
		receive(t, stream, 1)
	}
	stream, err := client.GetFlows(t.Context(), follow)
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one client more: %v", err)
	}
}

func TestStatusCountsFlows(t *testing.T) {
	ring := flow.NewRing(4)
	for n := range 6 {
		ring.Add(request(n))
	}
	ring.Add(denied(6))
	client := serve(t, ring, complete)
	got, err := client.ServerStatus(t.Context(), &observerpb.ServerStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got.GetNumFlows() != 4 || got.GetMaxFlows() != 4 || got.GetSeenFlows() != 7 || got.GetVersion() != "spiderpool-agent v1" || got.GetUptimeNs() == 0 {
		t.Errorf("status %v", got)
	}
	nodes, err := client.GetNodes(t.Context(), &observerpb.GetNodesRequest{})
	if err != nil || len(nodes.GetNodes()) != 1 || nodes.GetNodes()[0].GetName() != "n1" {
		t.Errorf("nodes %v, %v", nodes, err)
	}
	namespaces, err := client.GetNamespaces(t.Context(), &observerpb.GetNamespacesRequest{})
	if err != nil || len(namespaces.GetNamespaces()) != 1 || namespaces.GetNamespaces()[0].GetNamespace() != "default" {
		t.Errorf("namespaces %v, %v", namespaces, err)
	}
	stream, err := client.GetDebugEvents(t.Context(), &observerpb.GetDebugEventsRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("debug events: %v", err)
	}
}
