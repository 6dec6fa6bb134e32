//go:build apiserver

package liveblocks_test

import (
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/ipam/withhold"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/liveblocks"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/lease"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// An agent that does not know of the withholding writes a block that it knows, or creates one.
func TestStaleWriteConflicts(t *testing.T) {
	kubetest.BlockPolicies(t)
	c, err := client.New(kubetest.Role(t, "spiderpool-controller", "kube-system", "n"), client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	agentClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", "n"))
	if err != nil {
		t.Fatal(err)
	}
	agent := agentclient.NewBlockStore(agentClient)
	grant := func(b lease.Block, addr string) lease.Block {
		return b.With(lease.Lease{
			Addr: netip.MustParseAddr(addr), State: lease.InUse, Pool: "p", Since: time.Unix(0, 0).UTC(),
			Holder: lease.Holder{Attachment: lease.Attachment{ContainerID: "c", Interface: "eth0"}, PodUID: "u", Node: "n"},
		})
	}
	known := grant(lease.Block{Base: netip.MustParseAddr("10.35.0.0"), Node: "n"}, "10.35.0.9")
	if known.Version, err = agent.Put(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	known, _ = known.Release(lease.Attachment{ContainerID: "c", Interface: "eth0"}, time.Now())
	if known.Version, err = agent.Put(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	w := withhold.New(liveblocks.New(c, c), time.Now, slog.New(slog.DiscardHandler))
	piece := withhold.Piece{Network: "aws", Pool: "p", Addrs: inet.Union(inet.OfPrefix(netip.MustParsePrefix("10.35.0.8/29")), inet.OfPrefix(netip.MustParsePrefix("10.35.0.16/29")))}
	for range 2 {
		ipamtest.MustWithhold(t, w, piece)
	}
	if _, err := agent.Put(t.Context(), grant(known, "10.35.0.9")); !errors.Is(err, alloc.ErrConflict) {
		t.Errorf("a grant in a known block: got %v, want a conflict", err)
	}
	if _, err := agent.Put(t.Context(), grant(lease.Block{Base: netip.MustParseAddr("10.35.0.16"), Node: "n"}, "10.35.0.17")); !errors.Is(err, alloc.ErrConflict) {
		t.Errorf("a grant in a new block: got %v, want a conflict", err)
	}
	// A neighbor of the withheld addresses is free.
	if known, err = agent.Get(t.Context(), known.Base); err != nil || len(known.Withheld()) != 8 {
		t.Fatalf("the agent reads %+v, %v", known, err)
	}
	if known.Version, err = agent.Put(t.Context(), grant(known, "10.35.0.1")); err != nil {
		t.Fatal(err)
	}
	all, err := w.List(t.Context())
	if err != nil || len(all) != 1 || !all[0].Addrs.Equal(piece.Addrs) || all[0].Network != "aws" || all[0].Pool != "p" {
		t.Fatalf("listed %+v, %v", all, err)
	}
	if err := w.Restore(t.Context(), all[0], piece.Addrs); err != nil {
		t.Fatal(err)
	}
	if err := w.Restore(t.Context(), all[0], piece.Addrs); !errors.Is(err, alloc.ErrConflict) {
		t.Errorf("an old list: got %v, want a conflict", err)
	}
	if all, err := w.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("still withheld: %+v, %v", all, err)
	}
	piece.Addrs = inet.OfPrefix(netip.MustParsePrefix("10.35.0.0/28"))
	if holders, err := w.Withhold(t.Context(), piece); err != nil || len(holders) != 1 || holders[0].Addr.String() != "10.35.0.1" {
		t.Errorf("a piece with a pod: got holders %+v, %v", holders, err)
	}
}
