//go:build apiserver

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/agent/datapath"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	k8sservice "spiderpool.dev/spiderpool/internal/service"
	"spiderpool.dev/spiderpool/internal/wire"
)

// eventSource is a collector that passes on the events of a test.
type eventSource chan flow.Event

func (s eventSource) Run(ctx context.Context, to func([]flow.Event, uint64)) error {
	for {
		select {
		case e := <-s:
			to([]flow.Event{e}, 0)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// noPrograms takes the entries of services and does nothing.
type noPrograms struct{}

func (noPrograms) Replace(k8sservice.Diff) error { return nil }
func (noPrograms) Change(k8sservice.Diff) error  { return nil }
func (noPrograms) Applied(agentclient.EventAge)  {}

// TestFlowNamesPodsOfBothNodes follows the connection of a pod to a Service with a pod of another node. The agent reads
// with the rights of its role.
func TestFlowNamesPodsOfBothNodes(t *testing.T) {
	w := newWorld(t)
	here, there := w.node("here"), w.node("there")
	pool := w.pool("flows", v4("10.1.77.10-10.1.77.20"))
	other := w.agent(there)
	socket := filepath.Join(t.TempDir(), "hubble.sock")
	own := w.agent(here, func(c *config.Agent) { c.Observability.SocketPath, c.Observability.Port = socket, 1 })

	labeled := func(p *corev1.Pod) {
		annotated(names.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q]}`, pool))(p)
		p.Labels = map[string]string{"app": p.Name}
	}
	pods, at := map[string]*corev1.Pod{}, map[string]netip.Addr{}
	for name, a := range map[string]*running{"client": own, "web": other} {
		pods[name] = w.pod(name, a.cfg.NodeName, labeled)
		reply, err := a.Add(t.Context(), wire.AddRequest{Attachment: attachment(pods[name], "c-"+name, "eth0")})
		if err != nil {
			t.Fatal(err)
		}
		at[name] = reply.Addresses[0].Prefix.Addr()
	}
	front := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "web"}}
	front.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	kubetest.Create(t, w, front)

	source := make(eventSource)
	kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", here))
	if err != nil {
		t.Fatal(err)
	}
	flows, err := own.newFlows(kubeClient, source)
	if err != nil {
		t.Fatal(err)
	}
	flows.cfg.Observability.Port = 0 // no listener on TCP, but the nodes for hubble-relay
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { flows.run(ctx) })
	parts.Go(func() {
		datapath.SyncWith(kubeClient, here, own.cfg.Service, &own.names, nil, own.log)(ctx, nil, noPrograms{})
	})
	t.Cleanup(func() { stop(); parts.Wait() })
	source <- flow.Event{
		Time: time.Now(), Pod: lease.PodKey{Namespace: w.namespace, Name: "client"}, UID: string(pods["client"].UID), Interface: "eth0",
		Direction: policy.Egress, Protocol: k8sservice.TCP, Flags: 2,
		Source: netip.AddrPortFrom(at["client"], 40000), Destination: netip.AddrPortFrom(at["web"], 8080),
		Service: netip.AddrPortFrom(netip.MustParseAddr(front.Spec.ClusterIP), 80),
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	filter := &flowpb.FlowFilter{SourcePod: []string{w.namespace + "/client"}, DestinationLabel: []string{"app=web"}, DestinationService: []string{w.namespace + "/web"}}
	kubetest.Eventually(t, func(ctx context.Context) error {
		stream, err := observerpb.NewObserverClient(conn).GetFlows(ctx, &observerpb.GetFlowsRequest{Number: 1, Whitelist: []*flowpb.FlowFilter{filter}}, grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		f := answer.GetFlow()
		if f.GetDestination().GetPodName() != "web" || f.GetSource().GetLabels()[0] != "k8s:app=client" || f.GetNodeName() != here {
			return fmt.Errorf("got %v", f)
		}
		return nil
	})

	// hubble-relay learns the nodes with an address.
	ip := &corev1.Node{}
	if err := w.Get(t.Context(), client.ObjectKey{Name: there}, ip); err != nil {
		t.Fatal(err)
	}
	ip.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}}
	if err := w.Status().Update(t.Context(), ip); err != nil {
		t.Fatal(err)
	}
	notices, err := peerpb.NewPeerClient(conn).Notify(t.Context(), &peerpb.NotifyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		notice, err := notices.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if notice.GetName() == there {
			if notice.GetType() != peerpb.ChangeNotificationType_PEER_ADDED || notice.GetTls().GetServerName() != "spiderpool-agent-flows.kube-system.svc" {
				t.Errorf("notice %v", notice)
			}
			break
		}
	}
	if err := own.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment(pods["client"], "c-client", "eth0")}); err != nil {
		t.Error(err)
	}
}
