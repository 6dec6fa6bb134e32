//go:build apiserver

package agentclient_test

import (
	"net/netip"
	"testing"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/lease"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func TestBlockStoreKeepsTheContract(t *testing.T) {
	client, err := agentclient.NewClient(kubetest.Config(t)) // the contract deletes blocks, an agent may not
	if err != nil {
		t.Fatal(err)
	}
	c := kubetest.Client(t)
	ipamtest.Contract(t, func(t *testing.T) ipamtest.OrderedBlocks {
		if err := c.DeleteAllOf(t.Context(), &v2beta1.SpiderIPBlock{}); err != nil {
			t.Fatal(err)
		}
		return agentclient.NewBlockStore(client)
	})
}

func TestDamagedBlockDoesNotHideOthers(t *testing.T) {
	kubeClient, err := agentclient.NewClient(kubetest.Role(t, "spiderpool-agent", "kube-system", ""))
	if err != nil {
		t.Fatal(err)
	}
	c := kubetest.Client(t)
	object := func(base, addr string) *v2beta1.SpiderIPBlock {
		return compile.BlockObject(lease.Block{Base: netip.MustParseAddr(base), Node: "edited", Leases: []lease.Lease{
			{Addr: netip.MustParseAddr(addr), State: lease.Released},
		}})
	}
	kubetest.Create(t, c, object("10.77.0.0", "10.77.0.1"), object("10.77.0.16", "10.77.9.9"))
	store := agentclient.NewBlockStore(kubeClient)
	blocks, err := store.OfNode(t.Context(), "edited")
	if err != nil || len(blocks) != 2 {
		t.Fatalf("got %+v, %v; want both blocks", blocks, err)
	}
	damaged, err := store.Get(t.Context(), netip.MustParseAddr("10.77.0.16"))
	if err != nil || damaged.Damaged == "" || len(damaged.Leases) != 0 || damaged.Version == "" {
		t.Errorf("got %+v, %v; want a damaged block", damaged, err)
	}
}
