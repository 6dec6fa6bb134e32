package walk

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/test/docblocks"
)

const symptomManifests = "test/e2e/testdata/l2/symptoms/"

// Symptoms returns the steps that produce the symptoms of docs/guides/troubleshooting.md on a cluster, and compare what the
// user sees with the page. internal/agent, internal/admission and internal/cli produce them with a real API server. They need the installation from Guide.
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
		symptom := pod.Annotations["example.org/symptom"]
		if err := g.eventually(ctx, fmt.Sprintf("an event of pod %s shows the symptom %s", pod.Name, symptom), slow, func(ctx context.Context) error {
			return g.eventShows(ctx, pod.Name, symptom)
		}); err != nil {
			return err
		}
	}
	return nil
}

// eventShows returns nil if one event of a pod has the output that the pages show.
func (g *guide) eventShows(ctx context.Context, pod, symptom string) error {
	var events corev1.EventList
	if err := g.Get(ctx, "events --field-selector involvedObject.name="+pod, &events); err != nil {
		return err
	}
	missing := errors.New("it has no event")
	for _, e := range events.Items {
		if missing = docblocks.Shows(symptom, e.Message); missing == nil {
			fmt.Fprintf(g.Out, "  %s %s: %s\n", e.Type, e.Reason, e.Message)
			return nil
		}
	}
	return missing
}

func (g *guide) faultyPoolsAreRefused(ctx context.Context) error {
	_, err := g.Kubectl(ctx, "apply -f "+symptomManifests+"30-overlap.yaml")
	_, faulty := g.Kubectl(ctx, "apply -f "+symptomManifests+"40-faulty.yaml")
	if err == nil || faulty == nil {
		return errors.New("a faulty pool was accepted")
	}
	return errors.Join(docblocks.Shows("overlapping-pool", err.Error()), docblocks.Shows("faulty-pools", faulty.Error()))
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
			if c.Type == "Ready" && c.Reason == "Terminating" {
				fmt.Fprintf(g.Out, "  %s: %s\n", c.Reason, c.Message)
				return docblocks.Shows("pool-terminating", c.Reason+": "+c.Message)
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
		if err == nil {
			return errors.New("spiderpoolctl status finds no failure")
		}
		return docblocks.Shows("status-webhooks", status)
	})
}

func (g *guide) deleteSymptoms(ctx context.Context) error {
	return g.kubectlAll(ctx, "delete --timeout=5m --ignore-not-found -f "+symptomManifests+"20-waiting.yaml",
		"delete --timeout=5m --ignore-not-found -f "+symptomManifests+"10-holder.yaml")
}
