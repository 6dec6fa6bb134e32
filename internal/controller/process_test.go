//go:build apiserver

package controller_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/lease"
)

// process is a controller in a process of its own.
type process struct {
	command *exec.Cmd
	output  *lockedBuffer
	started time.Time
	metrics int
}

// launch starts a replica of the installation in the namespace, on free ports;
// change changes its configuration file, and environment adds variables, e.g. GOGC=50.
func launch(t *testing.T, program, namespace string, change func(*config.File), environment ...string) *process {
	t.Helper()
	file := config.Default()
	if change != nil {
		change(file)
	}
	file.ControllerProcess.HealthPort = kubetest.FreePort(t)
	file.ControllerProcess.Webhook.Port = kubetest.FreePort(t)
	file.ControllerProcess.Metrics = config.Metrics{Enabled: true, Port: kubetest.FreePort(t)}
	text, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(dir+"/config.yaml", text, 0o600), os.WriteFile(dir+"/kubeconfig", kubetest.Kubeconfig(t, kubetest.Role(t, "spiderpool-controller", namespace, "controller-node")), 0o600)); err != nil {
		t.Fatal(err)
	}
	p := &process{output: &lockedBuffer{}, metrics: file.ControllerProcess.Metrics.Port, started: time.Now()}
	p.command = exec.Command(program, "--config", dir+"/config.yaml", "--kubeconfig", dir+"/kubeconfig", "--bind-address", "127.0.0.1")
	p.command.Env = append(os.Environ(), config.EnvPodName+"=controller", config.EnvPodNamespace+"="+namespace)
	p.command.Env = append(p.command.Env, environment...)
	p.command.Stderr = p.output
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.command.Process.Kill() })
	return p
}

func (p *process) stop(t *testing.T) {
	t.Helper()
	begin := time.Now()
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.command.Wait(); err != nil {
		t.Errorf("the controller ended with %v\n%s", err, p.output)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the controller took %s to stop", took)
	}
}

// A follower replaces a killed leader while leases come and go. In the end the views
// are correct.
func TestKilledLeaderIsReplacedUnderLoad(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	program := kubetest.Program(t, "spiderpool-controller")
	hasty := func(file *config.File) {
		file.ControllerProcess.LeaderElection.LeaseDuration = metav1.Duration{Duration: 3 * time.Second}
		file.ControllerProcess.LeaderElection.RenewDeadline = metav1.Duration{Duration: 2 * time.Second}
		file.ControllerProcess.LeaderElection.RetryPeriod = metav1.Duration{Duration: 200 * time.Millisecond}
	}
	leader := launch(t, program, namespace, hasty)
	holder := waitForHolder(t, c, namespace, "")
	follower := launch(t, program, namespace, hasty)

	const pools, rounds = 8, 6
	var all []client.Object
	for i := range pools {
		name := fmt.Sprintf("loaded-%d", i)
		pool := &v2beta1.SpiderIPPool{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: fmt.Sprintf("10.20.%d.0/24", i), IPs: []string{fmt.Sprintf("10.20.%d.16-10.20.%d.111", i, i)}}},
		}
		kubetest.Create(t, c, pool)
		all = append(all, pool)
	}
	for round := range rounds {
		for i := range pools {
			kubetest.Create(t, c, loadedBlock(i, round))
		}
		if round == rounds/2 {
			if err := leader.command.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	waitForHolder(t, c, namespace, holder)
	for _, object := range all {
		pool := object.(*v2beta1.SpiderIPPool)
		kubetest.Eventually(t, func(ctx context.Context) error {
			if err := c.Get(ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
				return err
			}
			if n := pool.Status.AllocatedIPCount; n == nil || *n != rounds {
				return fmt.Errorf("status of %s is %+v, want %d leases\n%s", pool.Name, pool.Status, rounds, follower.output)
			}
			return nil
		})
	}
	follower.stop(t)
}

// loadedBlock is a block with one lease of the pool, another one each round.
func loadedBlock(pool, round int) *v2beta1.SpiderIPBlock {
	base := netip.AddrFrom4([4]byte{10, 20, byte(pool), byte(16 + 16*round)})
	return compile.BlockObject(lease.Block{Base: base, Node: "n", Leases: []lease.Lease{{
		Addr: base, State: lease.InUse, Pool: fmt.Sprintf("loaded-%d", pool), Since: time.Now().UTC().Truncate(time.Second),
		Holder: lease.Holder{Pod: lease.PodKey{Namespace: "default", Name: fmt.Sprintf("p-%d-%d", pool, round)}, PodUID: "u", Node: "n", Attachment: lease.Attachment{ContainerID: "c", Interface: "eth0"}},
	}}})
}
