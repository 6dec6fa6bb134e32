package walk

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// PacketsImage is the image of test/e2e/packets. Its program is /packets.
const PacketsImage = "example.org/packets:v1"

// packetsProgram is the same program on this machine and on every node.
const packetsProgram = "dist/e2e/packets"

// LoadPackets builds the image PacketsImage and puts it into the lab's registry.
func (l *Lab) LoadPackets(ctx context.Context) error {
	for _, command := range []string{
		"CGO_ENABLED=0 go build -trimpath -o " + packetsProgram + " ./test/e2e/packets",
		l.Binary + " image build --tag " + PacketsImage + " --add " + packetsProgram + ":/packets:755 --entrypoint /packets -o " + packetsProgram + ".tar",
		l.Binary + " image load " + packetsProgram + ".tar",
	} {
		if _, err := l.Sh(ctx, command); err != nil {
			return err
		}
	}
	return nil
}

// Target is an address that a pod asks.
type Target struct {
	// Protocol is tcp, udp or sctp.
	Protocol string
	netip.AddrPort
}

func (t Target) String() string { return t.Protocol + "/" + t.AddrPort.String() }

// Answered is the verdict of AskAll for a target that answers. The others are "refused" and "silent".
const Answered = "answered"

// AskAll asks the targets at the same time from a pod, and returns the verdicts in their order.
func (l *Lab) AskAll(ctx context.Context, namespace, pod string, targets []Target) ([]string, error) {
	arguments := []string{"exec", "-n", namespace, pod, "--", "/packets", "ask"}
	for _, t := range targets {
		arguments = append(arguments, t.String())
	}
	out, err := l.run(ctx, "kubectl", arguments...)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != len(targets) {
		return nil, fmt.Errorf("pod %s/%s: %d verdicts for %d targets: %s", namespace, pod, len(lines), len(targets), out)
	}
	verdicts := make([]string, len(lines))
	for i, line := range lines {
		name, verdict, _ := strings.Cut(line, " ")
		if name != targets[i].String() {
			return nil, fmt.Errorf("pod %s/%s: got a verdict for %s, want one for %s", namespace, pod, name, targets[i])
		}
		verdicts[i] = verdict
	}
	return verdicts, nil
}

// allAnswer returns an error unless every target answers the pod.
func (g *guide) allAnswer(ctx context.Context, pod corev1.Pod, targets ...Target) error {
	verdicts, err := g.AskAll(ctx, pod.Namespace, pod.Name, targets)
	if err != nil {
		return err
	}
	var errs []error
	for i, verdict := range verdicts {
		fmt.Fprintf(g.Out, "  %s to %s: %s\n", pod.Name, targets[i], verdict)
		if verdict != Answered {
			errs = append(errs, fmt.Errorf("pod %s: %s is %s", pod.Name, targets[i], verdict))
		}
	}
	return errors.Join(errs...)
}

// applyPods applies a manifest with the pods of the packets program. ATTACHMENT in it is the site's.
func (g *guide) applyPods(ctx context.Context, manifest string) error {
	_, err := g.Sh(ctx, fmt.Sprintf("sed 's,ATTACHMENT,%s,' %s | kubectl apply -f -", g.Attachment, manifest))
	return err
}

// targetsOf returns a target for each protocol and address.
func targetsOf(addresses []netip.Addr, port uint16, protocols ...string) []Target {
	var targets []Target
	for _, protocol := range protocols {
		for _, a := range addresses {
			targets = append(targets, Target{protocol, netip.AddrPortFrom(a, port)})
		}
	}
	return targets
}
