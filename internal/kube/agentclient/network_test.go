package agentclient_test

import (
	"fmt"
	"testing"

	"spiderpool.dev/spiderpool/internal/kube/agentclient"
)

func TestParentsOfANetwork(t *testing.T) {
	const ipam = `,"ipam":{"type":"spiderpool"}`
	for config, want := range map[string]string{
		`{"type":"macvlan","master":"eth0","mtu":1400` + ipam + `}`: "[eth0] 1400",
		`{"plugins":[{"type":"ifacer","interfaces":["eth0","eth1"],"vlanID":5,"bond":{"name":"bond0"}},
			{"type":"ipvlan","master":"bond0.5"` + ipam + `},{"type":"coordinator"}]}`: "[eth0 eth1] 0",
		`{"plugins":[{"type":"sriov"` + ipam + `}]}`:                              "[] 0",
		`{"plugins":[{"type":"macvlan","master":"eth0","ipam":{"type":"dhcp"}}]}`: "[] 0",
	} {
		network, err := agentclient.ParseNetwork(config)
		if got := fmt.Sprint(network.Parents, network.MTU); err != nil || got != want {
			t.Errorf("%s: got %s (%v), want %s", config, got, err, want)
		}
	}
}
