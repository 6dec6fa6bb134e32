//go:build kernel

package bpf

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/service"
)

func TestUnconnectedSocketKeepsBackend(t *testing.T) {
	s := newSite(t)
	s.run(both(2))
	for _, kind := range kinds[6:] {
		t.Run(kind.Name, func(t *testing.T) {
			kind.Packets = 16
			got := s.client.do(t, kind)
			if got.Error != "" {
				t.Fatal(got.Error)
			}
			for _, a := range got.Answers {
				if a != got.Answers[0] {
					t.Fatalf("one socket got answers of several backends: %q", got.Answers)
				}
			}
		})
	}
}

func TestDrainingBackendKeepsItsFlowsOnly(t *testing.T) {
	s := newSite(t)
	p := s.run(both(2))
	flow := kinds[6]
	flow.Keep = true
	first := s.client.do(t, flow).Answers[0]
	if err := p.Change(draining(2, service.UDP, 0, backendNamed[first])); err != nil {
		t.Fatal(err)
	}
	flow.Again = true
	if got := s.client.do(t, flow); got.Error != "" || got.Answers[0] != first {
		t.Errorf("the flow of %s got %+v", first, got)
	}
	for range 8 {
		if got := s.client.do(t, kinds[6]); got.Error != "" || got.Answers[0] == first {
			t.Fatalf("a new flow got %+v", got)
		}
	}
}

func TestConnectedUDPSocketEndsWithItsBackend(t *testing.T) {
	for _, kind := range kinds[3:6] {
		t.Run(kind.Name, func(t *testing.T) {
			s := newSite(t)
			p := s.run(both(1))
			namespaces := t.TempDir()
			if err := os.Symlink(s.pod.Path(), filepath.Join(namespaces, "pod")); err != nil {
				t.Fatal(err)
			}
			kind.Keep = true
			if got := s.client.do(t, kind); got.Error != "" {
				t.Fatal(got.Error)
			}
			kind.Again = true
			if n, err := p.EndLostFlows(namespaces); n != 0 || err != nil {
				t.Fatalf("ended %d flows of present backends, %v", n, err)
			}
			if got := s.client.do(t, kind); got.Error != "" || got.Sources[0] != kind.To {
				t.Fatalf("got %+v with the backend", got)
			}

			if err := p.Replace(service.Diff{}); err != nil {
				t.Fatal(err)
			}
			n, err := p.EndLostFlows(namespaces)
			if errors.Is(err, errors.ErrUnsupported) { // CONFIG_INET_DIAG_DESTROY
				if got := s.client.do(t, kind); n != 0 || got.Error != "" || got.Sources[0] != kind.To {
					t.Errorf("ended %d flows, and the client got %+v", n, got)
				}
				return
			}
			if n != 1 || err != nil {
				t.Fatalf("ended %d flows, %v, want 1", n, err)
			}
			if got := s.client.do(t, kind); got.Error != unix.EDESTADDRREQ.Error() {
				t.Errorf("got %+v without the backend, want %s", got, unix.EDESTADDRREQ)
			}
		})
	}
}

// TestAnswerComesFromLastService lets one socket use two services with one backend.
func TestAnswerComesFromLastService(t *testing.T) {
	s := newSite(t)
	s.run(join(frontendOf(1, service.UDP, 0, "10.96.0.1:80", "10.0.0.1"), frontendOf(2, service.UDP, 0, "10.96.0.2:80", "10.0.0.1")))
	ask := kinds[6]
	ask.Keep = true
	for _, to := range []string{"10.96.0.1:80", "10.96.0.2:80", "10.96.0.1:80"} {
		ask.To = to
		if got := s.client.do(t, ask); got.Error != "" || got.Sources[0] != to {
			t.Errorf("got %+v, want an answer from %s", got, to)
		}
		ask.Again = true
	}
}
