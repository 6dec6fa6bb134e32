package walk

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

const symptomManifests = "test/e2e/testdata/l2/symptoms/"

// Symptoms returns the steps that produce the symptoms of docs/guides/troubleshooting.md on a cluster, and compare what the
// user sees. They need the installation from Guide.
func Symptoms(lab *Lab, site Site) []Step {
	g := &guide{lab, site}
	return []Step{
		{"Create a full pool", false, g.fillPool},
		{"An event of each waiting pod has the cause", false, g.waitingPodsSayWhy},
		{"Faulty pools are refused", false, g.faultyPoolsAreRefused},
		{"A pool in use stays, and lists its pods", false, g.poolInUseStays},
		{"Without a controller, changes are refused", false, g.refusedWithoutController},
		{"Delete the pods", false, g.deleteSymptoms},
	}
}

func (g *guide) fillPool(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "apply -f "+symptomManifests+"10-holder.yaml"); err != nil {
		return err
	}
	_, err := g.runningPods(ctx, "run=symptom-holder", 1)
	return err
}

func (g *guide) waitingPodsSayWhy(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "apply -f "+symptomManifests+"20-waiting.yaml"); err != nil {
		return err
	}
	var pods corev1.PodList
	if err := g.Get(ctx, "pods -l run=symptom", &pods); err != nil {
		return err
	}
	if len(pods.Items) == 0 {
		return errors.New("no pod waits")
	}
	for _, pod := range pods.Items {
		for line := range strings.Lines(pod.Annotations["example.org/says"]) {
			text := strings.TrimSpace(line)
			if err := g.eventually(ctx, fmt.Sprintf("an event of pod %s says %q", pod.Name, text), slow, func(ctx context.Context) error {
				return g.eventSays(ctx, pod.Name, text)
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *guide) faultyPoolsAreRefused(ctx context.Context) error {
	_, err := g.Kubectl(ctx, "apply -f "+symptomManifests+"30-overlap.yaml")
	if err := refusedWith(err, "shares 10.6.131.50 with SpiderIPPool symptom-full; remove these addresses from one of the two"); err != nil {
		return err
	}
	_, err = g.Kubectl(ctx, "apply -f "+symptomManifests+"40-faulty.yaml")
	for _, text := range []string{
		"'10.6.0.7/16' has host bits; write the network's first address, with zeros after the prefix",
		`spec.ips[0]: Invalid value: "10.6.131.59-10.6.131.53": is inverted: it ends before it begins; write 10.6.131.53-10.6.131.59`,
		`spec.gateway: Invalid value: "10.6.131.50": is an address in use: 10.6.131.50 of default/symptom-holder; choose another gateway`,
	} {
		if err := refusedWith(err, text); err != nil {
			return err
		}
	}
	return nil
}

// refusedWith returns nil if the refusal of kubectl contains the text.
func refusedWith(refusal error, text string) error {
	if refusal == nil {
		return errors.New("the object was accepted")
	}
	if !strings.Contains(refusal.Error(), text) {
		return fmt.Errorf("the refusal does not contain %q: %w", text, refusal)
	}
	return nil
}

func (g *guide) poolInUseStays(ctx context.Context) error {
	if _, err := g.Kubectl(ctx, "delete spiderippool symptom-full --wait=false"); err != nil {
		return err
	}
	return g.eventually(ctx, "the condition of the pool lists the pod", slow, func(ctx context.Context) error {
		var pool v2beta1.SpiderIPPool
		if err := g.Get(ctx, "spiderippool symptom-full", &pool); err != nil {
			return err
		}
		for _, c := range pool.Status.Conditions {
			if c.Type == "Ready" && c.Reason == "Terminating" && strings.Contains(c.Message, "default/symptom-holder") {
				fmt.Fprintf(g.Out, "  %s: %s\n", c.Reason, c.Message)
				return nil
			}
		}
		return fmt.Errorf("its conditions are %v", pool.Status.Conditions)
	})
}

func (g *guide) refusedWithoutController(ctx context.Context) (err error) {
	if _, err := g.Kubectl(ctx, "scale -n kube-system deployment/spiderpool-controller --replicas=0"); err != nil {
		return err
	}
	defer func() {
		_, again := g.Kubectl(ctx, "scale -n kube-system deployment/spiderpool-controller --replicas=1")
		err = errors.Join(err, again, g.eventually(ctx, "Spiderpool's programs are back", slow, g.installed))
	}()
	return g.eventually(ctx, "kubectl names the webhook, and spiderpoolctl status the cause", slow, func(ctx context.Context) error {
		_, refusal := g.Kubectl(ctx, "apply --dry-run=server -f "+symptomManifests+"30-overlap.yaml")
		if err := refusedWith(refusal, "failed calling webhook"); err != nil {
			return err
		}
		status, err := g.Sh(ctx, "bin/spiderpoolctl status")
		const cause = "Service kube-system/spiderpool-controller has no ready endpoint, so the API server refuses every change of our objects"
		if err == nil || !strings.Contains(status, cause) {
			return fmt.Errorf("spiderpoolctl status ends with %v and says:\n%s", err, status)
		}
		return nil
	})
}

func (g *guide) deleteSymptoms(ctx context.Context) error {
	return g.kubectlAll(ctx, "delete --timeout=5m --ignore-not-found -f "+symptomManifests+"20-waiting.yaml",
		"delete --timeout=5m --ignore-not-found -f "+symptomManifests+"10-holder.yaml")
}
