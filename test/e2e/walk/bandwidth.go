package walk

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	bandwidthManifest = "test/e2e/testdata/bandwidth.yaml"
	// tcpShare is the part of a rate that TCP carries with an MTU of 1500: 1448 of 1514 bytes.
	tcpShare = 1448.0 / 1514
	megabit  = 1_000_000
)

// Bandwidth returns the steps that limit the bandwidth of a pod with two interfaces, change it while the pod runs, and
// try invalid values. They need the installation from Guide.
func Bandwidth(lab *Lab, site Site) []Step {
	g := &guide{lab, site}
	return []Step{
		{"Create a pod with limits and a peer without", false, g.createLimited},
		{"Traffic keeps to the limits of each interface", false, g.limitsHold},
		{"A running pod follows its annotations", false, g.limitsChange},
		{"Invalid limits are refused with the reason", false, g.refuseLimits},
		{"Without the webhook, a pod with an invalid limit keeps its own", false, g.keepLimits},
		{"Delete the pod with limits", false, g.deleteLimited},
	}
}

func (g *guide) createLimited(ctx context.Context) error {
	if err := g.LoadPackets(ctx); err != nil {
		return err
	}
	if err := g.applyPods(ctx, bandwidthManifest); err != nil {
		return err
	}
	_, _, err := g.limited(ctx)
	return err
}

func (g *guide) deleteLimited(ctx context.Context) error {
	_, err := g.Kubectl(ctx, "delete --timeout=5m -f "+bandwidthManifest)
	return err
}

// limited returns the pod with limits and its peer.
func (g *guide) limited(ctx context.Context) (limited, peer corev1.Pod, err error) {
	pods, err := g.runningPods(ctx, "run=bandwidth", 2)
	if err != nil {
		return limited, peer, err
	}
	for _, pod := range pods {
		if pod.Name == "limited" {
			limited = pod
		} else {
			peer = pod
		}
	}
	return limited, peer, nil
}

// rate sends from an interface of a pod to an interface of another for a few seconds, and returns bits per second.
func (g *guide) rate(ctx context.Context, from corev1.Pod, fromInterface string, to corev1.Pod, toInterface string) (float64, error) {
	own, err := interfacesOf(from)
	if err != nil {
		return 0, err
	}
	others, err := interfacesOf(to)
	if err != nil {
		return 0, err
	}
	if len(own[fromInterface]) == 0 || len(others[toInterface]) == 0 {
		return 0, fmt.Errorf("pods %s and %s have the addresses %v and %v", from.Name, to.Name, own, others)
	}
	out, err := g.inPod(ctx, from, fmt.Sprintf("/packets push -for 5s -from %s %s", own[fromInterface][0], netip.AddrPortFrom(others[toInterface][0], 5001)))
	if err != nil {
		return 0, err
	}
	var bits float64
	if _, err := fmt.Sscan(out, &bits); err != nil {
		return 0, fmt.Errorf("the rate from %s to %s: %w: %q", from.Name, to.Name, err, out)
	}
	return bits, nil
}

// keepsTo measures and compares with a limit in bits per second. A transfer may not be faster. A busy machine may make
// it slower, but not by half.
func (g *guide) keepsTo(ctx context.Context, limit float64, from corev1.Pod, fromInterface string, to corev1.Pod, toInterface string) error {
	bits, err := g.rate(ctx, from, fromInterface, to, toInterface)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s of %s to %s of %s: TCP carries %.2f Mbit/s, %.1f %% of what fits into %.0f Mbit/s",
		fromInterface, from.Name, toInterface, to.Name, bits/megabit, 100*bits/(limit*tcpShare), limit/megabit)
	fmt.Fprintln(g.Out, " ", text)
	if bits < limit/2 || bits > limit*1.05 {
		return errors.New(text)
	}
	return nil
}

// limitsHold compares with the annotations in the manifest.
func (g *guide) limitsHold(ctx context.Context) error {
	limited, peer, err := g.limited(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(
		g.keepsTo(ctx, 20*megabit, limited, "eth0", peer, "eth0"),
		g.keepsTo(ctx, 10*megabit, peer, "eth0", limited, "eth0"),
		g.keepsTo(ctx, 5*megabit, limited, "net1", peer, "eth0"),
	); err != nil {
		return err
	}
	// Only the egress of net1 has a limit.
	bits, err := g.rate(ctx, peer, "eth0", limited, "net1")
	if err == nil && bits < 25*megabit {
		err = fmt.Errorf("to net1 of %s, which has no limit: %.2f Mbit/s", limited.Name, bits/megabit)
	}
	return err
}

// limitsChange raises the limit of the egress, then removes it.
func (g *guide) limitsChange(ctx context.Context) error {
	limited, peer, err := g.limited(ctx)
	if err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "annotate pod limited --overwrite kubernetes.io/egress-bandwidth=4M"); err != nil {
		return err
	}
	if err := g.eventually(ctx, "the egress of eth0 keeps to 4 Mbit/s", slow, func(ctx context.Context) error {
		return g.keepsTo(ctx, 4*megabit, limited, "eth0", peer, "eth0")
	}); err != nil {
		return err
	}
	if _, err := g.Kubectl(ctx, "annotate pod limited kubernetes.io/egress-bandwidth-"); err != nil {
		return err
	}
	if err := g.eventually(ctx, "the egress of eth0 has no limit", slow, func(ctx context.Context) error {
		bits, err := g.rate(ctx, limited, "eth0", peer, "eth0")
		if err == nil && bits < 25*megabit {
			err = fmt.Errorf("%.2f Mbit/s", bits/megabit)
		}
		return err
	}); err != nil {
		return err
	}
	// The other limits have stayed.
	return errors.Join(g.keepsTo(ctx, 10*megabit, peer, "eth0", limited, "eth0"), g.keepsTo(ctx, 5*megabit, limited, "net1", peer, "eth0"))
}

// badLimits are values that a user may write, with the annotation.
var badLimits = []struct{ annotation, value string }{
	{"kubernetes.io/ingress-bandwidth", "10 MB"},
	{"kubernetes.io/ingress-bandwidth", "10MB"},
	{"kubernetes.io/egress-bandwidth", "-5M"},
	{"kubernetes.io/egress-bandwidth", "1"},
	{"kubernetes.io/egress-bandwidth", "2P"},
	{"kubernetes.io/egress-bandwidth", ""},
	{"ipam.spidernet.io/bandwidth", `[{"interface":"net7","egress":"5M"}]`},
	{"ipam.spidernet.io/bandwidth", `[{"interface":"net1","egress":"fast"}]`},
}

func (g *guide) refuseLimits(ctx context.Context) error {
	limited, peer, err := g.limited(ctx)
	if err != nil {
		return err
	}
	for _, bad := range badLimits {
		_, refusal := g.Kubectl(ctx, fmt.Sprintf("annotate pod limited --overwrite '%s=%s'", bad.annotation, bad.value))
		if refusal == nil {
			return fmt.Errorf("%s=%q was accepted", bad.annotation, bad.value)
		}
		if err := namesLimit(refusal.Error(), bad.annotation, bad.value); err != nil {
			return err
		}
	}
	return g.keepsTo(ctx, 10*megabit, peer, "eth0", limited, "eth0")
}

// namesLimit returns an error unless a message names the annotation and the value, and shows a good one.
func namesLimit(message, annotation, value string) error {
	for _, part := range []string{annotation, fmt.Sprintf("%q", value), "; example: "} {
		if !strings.Contains(message, part) {
			return fmt.Errorf("the message does not contain %s: %s", part, message)
		}
	}
	return nil
}

// keepLimits stops the controller, and with it the webhook.
func (g *guide) keepLimits(ctx context.Context) error {
	limited, peer, err := g.limited(ctx)
	if err != nil {
		return err
	}
	const controllers = "scale -n kube-system deployment/spiderpool-controller --replicas="
	if _, err := g.Kubectl(ctx, controllers+"0"); err != nil {
		return err
	}
	if err := g.eventually(ctx, "the API server accepts an invalid limit", slow, func(ctx context.Context) error {
		_, err := g.Kubectl(ctx, "annotate pod limited --overwrite 'kubernetes.io/ingress-bandwidth=10 MB'")
		return err
	}); err != nil {
		return err
	}
	err = g.eventually(ctx, "an event of the pod names the value and a good one", slow, func(ctx context.Context) error {
		var events corev1.EventList
		if err := g.Get(ctx, "events --field-selector involvedObject.name=limited,reason=BandwidthNotChanged", &events); err != nil {
			return err
		}
		if len(events.Items) == 0 {
			return errors.New("the pod has no event BandwidthNotChanged")
		}
		fmt.Fprintln(g.Out, " ", events.Items[0].Message)
		return namesLimit(events.Items[0].Message, "kubernetes.io/ingress-bandwidth", "10 MB")
	})
	if err == nil {
		err = g.keepsTo(ctx, 10*megabit, peer, "eth0", limited, "eth0")
	}
	if _, scale := g.Kubectl(ctx, controllers+"1"); scale != nil {
		return errors.Join(err, scale)
	}
	return errors.Join(err, g.eventually(ctx, "Spiderpool's programs are back", slow, g.installed))
}
