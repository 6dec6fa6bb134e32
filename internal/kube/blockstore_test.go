//go:build apiserver

package kube_test

import (
	"testing"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/kube"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func TestBlockStoreKeepsTheContract(t *testing.T) {
	client, err := kube.NewClient(kubetest.Config(t))
	if err != nil {
		t.Fatal(err)
	}
	c := kubetest.Client(t)
	ipamtest.Contract(t, func(t *testing.T) ipamtest.OrderedBlocks {
		if err := c.DeleteAllOf(t.Context(), &v2beta1.SpiderIPBlock{}); err != nil {
			t.Fatal(err)
		}
		return kube.NewBlockStore(client)
	})
}
