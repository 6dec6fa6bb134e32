package walk

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// echoPort is the port of the echoserver in the pods of the claims.
const echoPort = 8080

// question is a request to the echoserver of a pod.
type question struct {
	to netip.AddrPort
	// from is the address that it should say it was asked from.
	from netip.Addr
}

// shell runs a shell command somewhere. The command holds no single quote.
type shell func(ctx context.Context, command string) (string, error)

func (g *guide) podShell(pod corev1.Pod) shell {
	return func(ctx context.Context, command string) (string, error) {
		return g.inPod(ctx, pod, "sh -c '"+command+"'")
	}
}

func (g *guide) hostShell(host string) shell {
	return func(ctx context.Context, command string) (string, error) { return g.Exec(ctx, host, command) }
}

// ask asks the questions one after the other, and returns an error for the first
// that has no answer, or was asked from another address than expected.
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

// interfacesOf returns the addresses of each interface of a pod, IPv4 first, as
// Multus reports them.
func interfacesOf(pod corev1.Pod) (map[string][]netip.Addr, error) {
	var reported []struct {
		Interface string       `json:"interface"`
		IPs       []netip.Addr `json:"ips"`
	}
	text := pod.Annotations[v2beta1.AnnotationMultusNetworkStatus]
	if err := json.Unmarshal([]byte(text), &reported); err != nil {
		return nil, fmt.Errorf("pod %s: annotation %s: %w: %q", pod.Name, v2beta1.AnnotationMultusNetworkStatus, err, text)
	}
	interfaces := map[string][]netip.Addr{}
	for _, r := range reported {
		slices.SortFunc(r.IPs, netip.Addr.Compare)
		interfaces[r.Interface] = r.IPs
	}
	return interfaces, nil
}

// sameVersion returns that of the addresses which is of the IP version of addr.
func sameVersion(addr netip.Addr, of []netip.Addr) netip.Addr {
	for _, a := range of {
		if a.Is4() == addr.Is4() {
			return a
		}
	}
	return netip.Addr{}
}
