package walk

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/names"
)

// echoPort is the port of the echoserver in the claims' pods.
const echoPort = 8080

// question is a request to a pod's echoserver.
type question struct {
	to netip.AddrPort
	// from is the client address expected in the answer.
	from netip.Addr
}

// shell runs a shell command somewhere. The command must not contain single quotes.
type shell func(ctx context.Context, command string) (string, error)

func (g *guide) podShell(pod corev1.Pod) shell {
	return func(ctx context.Context, command string) (string, error) {
		return g.inPod(ctx, pod, "sh -c '"+command+"'")
	}
}

func (g *guide) hostShell(host string) shell {
	return func(ctx context.Context, command string) (string, error) { return g.Exec(ctx, host, command) }
}

// ask sends the questions one by one. It returns an error for the first one without an
// answer, or with another client address than expected.
func ask(ctx context.Context, in shell, questions []question) error {
	var urls strings.Builder
	for _, q := range questions {
		fmt.Fprintf(&urls, ` "http://%s/"`, q.to)
	}
	answers, err := in(ctx, "for url in"+urls.String()+`; do curl -sS --max-time 10 "$url" | grep client_address || exit 1; done`)
	if err != nil {
		return err
	}
	lines := strings.Fields(answers)
	for i, q := range questions {
		if want := "client_address=" + q.from.String(); lines[i] != want {
			return fmt.Errorf("%s says %s, want %s", q.to, lines[i], want)
		}
	}
	return nil
}

// interfacesOf returns the addresses of each of a pod's interfaces as reported by
// Multus, IPv4 first.
func interfacesOf(pod corev1.Pod) (map[string][]netip.Addr, error) {
	var reported []struct {
		Interface string       `json:"interface"`
		IPs       []netip.Addr `json:"ips"`
	}
	text := pod.Annotations[names.AnnotationMultusNetworkStatus]
	if err := json.Unmarshal([]byte(text), &reported); err != nil {
		return nil, fmt.Errorf("pod %s: annotation %s: %w: %q", pod.Name, names.AnnotationMultusNetworkStatus, err, text)
	}
	interfaces := map[string][]netip.Addr{}
	for _, r := range reported {
		slices.SortFunc(r.IPs, netip.Addr.Compare)
		interfaces[r.Interface] = r.IPs
	}
	return interfaces, nil
}

// sameVersion returns the address with the IP version of addr.
func sameVersion(addr netip.Addr, of []netip.Addr) netip.Addr {
	for _, a := range of {
		if a.Is4() == addr.Is4() {
			return a
		}
	}
	return netip.Addr{}
}
