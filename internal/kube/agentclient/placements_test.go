package agentclient

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// poolServer serves one pool, and one watch of it at a time.
type poolServer struct {
	mu     sync.Mutex
	pool   v2beta1.SpiderIPPool
	change chan v2beta1.SpiderIPPool
	gets   int
}

func (s *poolServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Query().Get("watch") != "true" {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gets++
		_ = json.NewEncoder(w).Encode(s.pool)
		return
	}
	if r.URL.Query().Get("fieldSelector") != "metadata.name=aws-db-fixed-v4" || r.URL.Query().Get("resourceVersion") != "7" {
		http.Error(w, "wrong watch "+r.URL.String(), http.StatusBadRequest)
		return
	}
	w.(http.Flusher).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case pool, open := <-s.change:
			if !open {
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"type": "MODIFIED", "object": pool})
			w.(http.Flusher).Flush()
		}
	}
}

func placedPool(p ...v2beta1.CloudPlacement) v2beta1.SpiderIPPool {
	pool := v2beta1.SpiderIPPool{TypeMeta: metav1.TypeMeta{APIVersion: "spiderpool.spidernet.io/v2beta1", Kind: "SpiderIPPool"}}
	pool.Name, pool.ResourceVersion, pool.Status.Placements = "aws-db-fixed-v4", "7", p
	return pool
}

func startPlacements(t *testing.T) (*poolServer, Placements) {
	s := &poolServer{pool: placedPool(), change: make(chan v2beta1.SpiderIPPool)}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	client, err := NewClient(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return s, Placements{Client: client, Log: slog.New(slog.DiscardHandler)}
}

var fixedAddr = netip.MustParseAddr("172.31.16.200")

func TestPlacementEndsWait(t *testing.T) {
	s, p := startPlacements(t)
	done := make(chan error, 1)
	go func() { done <- p.Await(t.Context(), "aws-db-fixed-v4", fixedAddr, "uid-2") }()
	s.change <- placedPool(v2beta1.CloudPlacement{IP: "172.31.16.200", Interface: "eni-1", PodUID: "uid-1"})
	s.change <- placedPool(v2beta1.CloudPlacement{IP: "172.31.16.200", Interface: "eni-1"})
	select {
	case err := <-done:
		t.Fatalf("the wait ended early: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	s.change <- placedPool(v2beta1.CloudPlacement{IP: "172.31.16.200", Interface: "eni-2", PodUID: "uid-2"})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if s.gets != 1 {
		t.Errorf("%d reads, want one", s.gets)
	}
}

func TestWaitSaysWhatIsKnown(t *testing.T) {
	for want, placements := range map[string][]v2beta1.CloudPlacement{
		"has no entry":          nil,
		"interface is full":     {{IP: "172.31.16.200", Interface: "eni-1", Message: "the interface is full"}},
		"was on interface eni-": {{IP: "172.31.16.200", Interface: "eni-1", PodUID: "uid-1"}},
	} {
		s, p := startPlacements(t)
		s.pool = placedPool(placements...)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := p.Await(ctx, "aws-db-fixed-v4", fixedAddr, "uid-2"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		cancel()
	}
}

func TestWaitSurvivesBrokenWatch(t *testing.T) {
	s, p := startPlacements(t)
	done := make(chan error, 1)
	go func() { done <- p.Await(t.Context(), "aws-db-fixed-v4", fixedAddr, "uid-2") }()
	s.change <- placedPool()
	s.mu.Lock()
	s.pool = placedPool(v2beta1.CloudPlacement{IP: "172.31.16.200", Interface: "eni-2", PodUID: "uid-2"})
	s.mu.Unlock()
	close(s.change)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
