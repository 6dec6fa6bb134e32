package walk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// consoleValues are the values of Helm that Console sets, and noConsole restores them.
const (
	consoleValues = "console.enabled=true,observability.enabled=true,observability.relay.enabled=true"
	noConsole     = "console.enabled=false,observability.enabled=false,observability.relay.enabled=false"
)

// Console returns the steps that open the console in headless Chromium, and compare its pages with kubectl. They need the
// installation from Guide, and Chromium from hack/browser.sh.
func Console(lab *Lab, site Site) []Step {
	g := &guide{lab, site}
	return []Step{
		{"Turn the console on", false, g.turnConsoleOn},
		{"spiderpoolctl status has the console", false, g.statusHasConsole},
		{"The pages agree with kubectl", false, g.pagesAgree},
		{"Turn the console off", false, g.turnConsoleOff},
	}
}

func (g *guide) turnConsoleOn(ctx context.Context) error {
	// The guide removes the cluster's DNS at its end. The console finds hubble-relay by it.
	if err := g.kubectlAll(ctx, "scale -n kube-system deployment/coredns --replicas=1", "apply -f "+answersManifest,
		"create serviceaccount -n kube-system console-viewer",
		"create clusterrolebinding console-viewer --clusterrole spiderpool-reader --serviceaccount kube-system:console-viewer",
		// A guest may list the pods of kube-system, and none of default.
		"create serviceaccount -n kube-system console-guest", "create rolebinding -n kube-system console-guest --clusterrole view --serviceaccount kube-system:console-guest"); err != nil {
		return err
	}
	return g.upgrade(ctx, consoleValues)
}

func (g *guide) turnConsoleOff(ctx context.Context) error {
	if err := g.kubectlAll(ctx, "delete clusterrolebinding console-viewer", "delete rolebinding -n kube-system console-guest",
		"delete serviceaccount -n kube-system console-viewer console-guest",
		"delete --timeout=5m -f "+answersManifest, "scale -n kube-system deployment/coredns --replicas=0"); err != nil {
		return err
	}
	return g.upgrade(ctx, noConsole)
}

// statusHasConsole waits for the leader, too: the controller has just started again.
func (g *guide) statusHasConsole(ctx context.Context) error {
	out, err := g.Sh(ctx, "bin/spiderpoolctl status --wait --timeout 2m")
	return answers(strings.Join(strings.Fields(out), " "), err, "console 1 replica ready")
}

// shownCluster is what kubectl says. test/console/lab_test.go compares it with the pages.
type shownCluster struct {
	Pool string
	// Free is status.freeIPCount, Total status.totalIPCount of the pool.
	Free, Total int64
	// Holders are the pods by their addresses in the pool.
	Holders map[string]string
	// Pod runs on Node with the Addresses. Stuck waits, because of Reason.
	Pod, Node     string
	Addresses     []string
	Stuck, Reason string
	// Peer is a pod that Pod asked, for the flows.
	Peer string
}

func (g *guide) pagesAgree(ctx context.Context) error {
	pods, err := g.runningPods(ctx, "run=answers", 2)
	if err != nil {
		return err
	}
	shown, err := g.shownCluster(ctx, pods[0], pods[1])
	if err != nil {
		return err
	}
	v4, _, err := addressesOf(pods[1])
	if err != nil {
		return err
	}
	if err := g.ping(ctx, pods[0], v4.String()); err != nil {
		return err
	}
	text, err := json.Marshal(shown)
	if err != nil {
		return err
	}
	tokens := map[string]string{}
	for _, account := range []string{"console-viewer", "console-guest"} {
		token, err := g.run(ctx, "kubectl", "create", "token", account, "-n", "kube-system")
		if err != nil {
			return err
		}
		tokens[account] = strings.TrimSpace(token)
	}
	out, err := g.run(ctx, "env", "CONSOLE_TOKEN="+tokens["console-viewer"], "CONSOLE_GUEST="+tokens["console-guest"], "CONSOLE_LAB="+string(text), "SCREENSHOTS="+os.Getenv("SCREENSHOTS"), "sh", "-c", `set -e
log=$(mktemp); trap 'kill $forward; rm $log' EXIT
kubectl -n kube-system port-forward service/spiderpool-console :443 >$log & forward=$!
until grep -q Forwarding $log; do kill -0 $forward; sleep 0.1; done
export CONSOLE_URL=https://localhost:$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) .*/\1/p' $log)
go -C test/console test -count=1 -timeout 5m -tags lab -run LabIsShown -v .`)
	fmt.Fprint(g.Out, out)
	return err
}

// shownCluster asks kubectl until the status of the pool has all leases.
func (g *guide) shownCluster(ctx context.Context, pod, peer corev1.Pod) (shown shownCluster, err error) {
	v4, v6, err := addressesOf(pod)
	if err != nil {
		return shown, err
	}
	shown = shownCluster{
		Pool: "lan-v4", Pod: "default/" + pod.Name, Node: pod.Spec.NodeName, Addresses: []string{v4.String(), v6.String()}, Peer: "default/" + peer.Name,
		Stuck: "default/answers-stuck", Reason: "spec.namespaceName [elsewhere] does not include the pod's namespace default",
	}
	return shown, g.eventually(ctx, "the status of the pool has all leases", slow, func(ctx context.Context) error {
		leases, err := g.leasesInUse(ctx)
		if err != nil {
			return err
		}
		shown.Holders = map[string]string{}
		for addr, l := range leases {
			if l.Pool == shown.Pool {
				shown.Holders[addr.String()] = l.Pod
			}
		}
		var pool v2beta1.SpiderIPPool
		if err := g.Get(ctx, "spiderippool "+shown.Pool, &pool); err != nil {
			return err
		}
		status := pool.Status
		if status.FreeIPCount == nil || status.TotalIPCount == nil || int(*status.TotalIPCount-*status.FreeIPCount) != len(shown.Holders) {
			return errors.New("the status counts others")
		}
		shown.Free, shown.Total = *status.FreeIPCount, *status.TotalIPCount
		return nil
	})
}
