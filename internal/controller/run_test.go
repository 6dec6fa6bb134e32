//go:build apiserver

package controller_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/controller"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// replica is a controller in this process.
type replica struct {
	cfg    config.Controller
	stop   func() // ends it and waits until it has ended
	output *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// configuration is that of an installation in a namespace of its own, on free
// ports. Replicas of it share everything but ports.
func configuration(t *testing.T, namespace string) config.Controller {
	t.Helper()
	file := config.Default()
	file.ControllerProcess.HealthPort = kubetest.FreePort(t)
	file.ControllerProcess.Webhook.Port = kubetest.FreePort(t)
	file.ControllerProcess.Webhook.MutatingName = namespace
	file.ControllerProcess.Webhook.ValidatingName = namespace
	file.ControllerProcess.Webhook.TLS.ExtraIPs = []string{"127.0.0.1"}
	file.ControllerProcess.Metrics = config.Metrics{Enabled: true, Port: kubetest.FreePort(t), Debug: true}
	environment := map[string]string{config.EnvPodName: "spiderpool-controller-0", config.EnvPodNamespace: namespace}
	cfg, err := file.Controller(func(key string) string { return environment[key] })
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func run(t *testing.T, cfg config.Controller) *replica {
	t.Helper()
	return runAt(t, kubetest.Role(t, "spiderpool-controller", cfg.PodNamespace, "controller-node"), cfg)
}

// runAt runs a replica that reaches the API server as server says.
func runAt(t *testing.T, server *rest.Config, cfg config.Controller) *replica {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &replica{cfg: cfg, output: &lockedBuffer{}}
	ended := make(chan error, 1)
	go func() {
		ended <- controller.Run(ctx, cfg, controller.Options{
			RestConfig: server, BindAddress: "127.0.0.1",
			Log: slog.New(slog.NewTextHandler(r.output, nil)),
		})
	}()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			begin := time.Now()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("the controller ended with: %v\n%s", err, r.output)
				}
			case <-time.After(10 * time.Second):
				t.Error("the controller did not end")
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("the controller took %s to stop, want at most 5 s", took)
			}
		})
	}
	t.Cleanup(r.stop)
	return r
}

func (r *replica) ready(ctx context.Context) error {
	return r.get(ctx, r.cfg.HealthPort, "/readyz", nil)
}

func (r *replica) get(ctx context.Context, port int, path string, body *bytes.Buffer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+strconv.Itoa(port)+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, r.output)
	}
	defer response.Body.Close()
	if body != nil {
		_, err = body.ReadFrom(response.Body)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", path, response.Status)
	}
	return err
}

// The walk of the AWS guide through the control plane.
func TestGuideResourcesBecomeReady(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	cfg := configuration(t, namespace)
	// It outlives the webhooks, which do not let it be deleted.
	coordinator := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	kubetest.Create(t, c, coordinator)
	kubetest.Webhooks(t, c, namespace, cfg.Webhook.Port)
	r := run(t, cfg)
	kubetest.Eventually(t, r.ready)

	kubetest.Create(t, c, &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "ipvlan-ens5"}})
	smc := &v2beta1.SpiderMultusConfig{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "ipvlan-ens5"},
		Spec:       v2beta1.SpiderMultusConfigSpec{CNIType: new(v2beta1.CNIIPvlan), IPvlan: &v2beta1.MasterConfig{Master: []string{"ens5"}}},
	}
	pool := &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "master-v6"},
		Spec: v2beta1.SpiderIPPoolSpec{
			AddressSpace: v2beta1.AddressSpace{
				Subnet: "2406:da1e:c4:ed01::/64", IPs: []string{"2406:da1e:c4:ed01:c57d::0-2406:da1e:c4:ed01:c57d::f"}, Gateway: new("2406:da1e:c4:ed01::1"),
			},
			Default: new(true), NodeName: []string{"master"}, MultusName: []string{namespace + "/ipvlan-ens5"},
		},
	}
	kubetest.Create(t, c, smc, pool)
	if pool.Labels[names.LabelPoolNode] != "master" || pool.Spec.IPVersion == nil || *pool.Spec.IPVersion != 6 || len(pool.Finalizers) != 1 ||
		pool.Spec.IPs[0] != "2406:da1e:c4:ed01:c57d::-2406:da1e:c4:ed01:c57d::f" {
		t.Errorf("the pool came back as %+v, %+v; want it completed when it was created", pool.ObjectMeta, pool.Spec)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		err := errors.Join(
			c.Get(ctx, client.ObjectKeyFromObject(smc), smc),
			c.Get(ctx, client.ObjectKeyFromObject(pool), pool),
			c.Get(ctx, client.ObjectKeyFromObject(coordinator), coordinator),
		)
		if err != nil {
			return err
		}
		for name, conditions := range map[string][]metav1.Condition{"smc": smc.Status.Conditions, "pool": pool.Status.Conditions, "coordinator": coordinator.Status.Conditions} {
			if !meta.IsStatusConditionTrue(conditions, status.ConditionReady) {
				return fmt.Errorf("%s is not ready: %+v", name, conditions)
			}
		}
		return nil
	})
	if *pool.Status.TotalIPCount != 16 || coordinator.Status.ServiceCIDR[0] != "10.96.0.0/16" {
		t.Errorf("total = %d, service networks = %v", *pool.Status.TotalIPCount, coordinator.Status.ServiceCIDR)
	}

	bad := &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "bad"},
		Spec:       v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "10.0.0.0/24", IPs: []string{"10.0.0.9-10.0.0.5"}}},
	}
	err := c.Create(t.Context(), bad)
	if err == nil || !strings.Contains(err.Error(), `spec.ips[0]: Invalid value: "10.0.0.9-10.0.0.5": is inverted: it ends before it begins; write 10.0.0.5-10.0.0.9`) {
		t.Errorf("an inverted range gave: %v", err)
	}
	err = c.Delete(t.Context(), smc)
	if err == nil || !strings.Contains(err.Error(), `SpiderIPPool master-v6 names it in spec.multusName`) {
		t.Errorf("deleting an attachment that a pool names gave: %v", err)
	}
}

func TestFollowerTakesOverWithinTwoSeconds(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	first, second := configuration(t, namespace), configuration(t, namespace)
	leader := run(t, first)
	holder := waitForHolder(t, c, namespace, "")
	follower := run(t, second)
	kubetest.Eventually(t, follower.ready)
	kubetest.Eventually(t, leader.ready)

	begin := time.Now()
	go leader.stop()
	waitForHolder(t, c, namespace, holder)
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the lead was taken over %s after the leader was told to end, want at most 2 s", took)
	}
	leader.stop()
	// It does not only lead, it works.
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "after"}, Spec: v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "10.9.0.0/24"}}}
	kubetest.Create(t, c, pool)
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
			return err
		}
		if len(pool.Finalizers) != 1 {
			return errors.New("the pool has no finalizer yet")
		}
		return nil
	})
}

// waitForHolder returns the holder of the Lease as soon as it is another one.
func waitForHolder(t *testing.T, c client.Client, namespace, other string) string {
	t.Helper()
	holder := ""
	kubetest.Eventually(t, func(ctx context.Context) error {
		var lease coordinationv1.Lease
		if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "spiderpool-controller"}, &lease); err != nil {
			return err
		}
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" || *lease.Spec.HolderIdentity == other {
			return errors.New("no replica took over the lead")
		}
		holder = *lease.Spec.HolderIdentity
		return nil
	})
	return holder
}
