//go:build kernel

package bpf

import (
	"os"
	"path/filepath"
	"testing"

	"spiderpool.dev/spiderpool/internal/service"
)

// otherBackend is the service of both, with the second backend only.
func otherBackend() service.Diff {
	return join(
		frontendOf(1, service.TCP, 0, "10.96.0.1:80", "10.0.0.2"), frontendOf(2, service.UDP, 0, "10.96.0.1:80", "10.0.0.2"),
		frontendOf(3, service.TCP, 0, "[fd96::1]:80", "fd00::2"), frontendOf(4, service.UDP, 0, "[fd96::1]:80", "fd00::2"),
	)
}

// TestLaterLoadBalancerTranslatesNothingTwice attaches another load balancer after ours, with another backend for each
// service: at the same group, and at the group above, as Cilium does.
func TestLaterLoadBalancerTranslatesNothingTwice(t *testing.T) {
	for name, above := range map[string]bool{"same group": false, "group above": true} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			group := s.group
			if above {
				group = filepath.Join(s.group, "pods")
				if err := os.Mkdir(group, 0o755); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = os.Remove(group) })
				s.client = startClient(t, s.pod, group)
			}
			later := (&node{t: t, dir: filepath.Join(filepath.Dir(s.dir), "other"), group: s.group}).load()
			ours := (&node{t: t, dir: s.dir, group: group}).run(both(1))
			if err := ours.Others(); err != nil {
				t.Fatal(err)
			}
			if err := later.Replace(otherBackend()); err != nil {
				t.Fatal(err)
			}
			if err := later.Attach(); err != nil {
				t.Fatal(err)
			}
			if err := ours.Others(); err == nil || !contains(err, "another load balancer translates the connections of "+group+": spider_connect4 (ID ") {
				t.Errorf("got %v", err)
			}
			check := func(step, server string) {
				t.Helper()
				for _, kind := range kinds {
					got := s.client.do(t, kind)
					if got.Error != "" {
						t.Fatalf("%s, %s: %s", step, kind.Name, got.Error)
					}
					if got.Answers[0][:4] != server || got.Sources[0] != kind.To || kind.Connect && got.Peer != kind.To {
						t.Errorf("%s, %s: %+v, want an answer of %s", step, kind.Name, got, server)
					}
				}
			}
			check("with both", "web1")
			if err := ours.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(s.dir); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the programs are detached", func() bool { return s.client.do(t, kinds[0]).Answers[0][:4] == "web2" })
			check("with the other one", "web2")
		})
	}
}
