package controller

import (
	"testing"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/pool"
)

func TestClusterNetworkFollowsConfiguration(t *testing.T) {
	cfg := config.Controller{Environment: config.Environment{PodNamespace: "spiderpool"}}
	if got, want := clusterNetwork(cfg), (pool.ClusterNetwork{Namespace: "spiderpool"}); got != want {
		t.Errorf("without a default network: %+v, want %+v", got, want)
	}
	cfg.Multus.DefaultNetwork = "spiderpool/ipvlan-ens5"
	want := pool.ClusterNetwork{Namespace: "spiderpool", Default: pool.NetworkAttachment{Namespace: "spiderpool", Name: "ipvlan-ens5"}}
	if got := clusterNetwork(cfg); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
