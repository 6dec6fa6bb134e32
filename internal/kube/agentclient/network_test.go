package agentclient_test

import (
	"fmt"
	"testing"

	"spiderpool.dev/spiderpool/internal/kube/agentclient"
)

func TestParentsOfNetwork(t *testing.T) {
	const ipam = `,"ipam":{"type":"spiderpool"}`
	for name, tc := range map[string]struct{ config, want string }{
		"macvlan": {`{"type":"macvlan","master":"eth0","mtu":1400` + ipam + `}`, "[eth0] 1400"},
		"bond of ifacer": {`{"plugins":[{"type":"ifacer","interfaces":["eth0","eth1"],"vlanID":5,"bond":{"name":"bond0"}},
			{"type":"ipvlan","master":"bond0.5"` + ipam + `},{"type":"coordinator"}]}`, "[eth0 eth1] 0"},
		"no master":    {`{"plugins":[{"type":"sriov"` + ipam + `}]}`, "[] 0"},
		"another IPAM": {`{"plugins":[{"type":"macvlan","master":"eth0","ipam":{"type":"dhcp"}}]}`, "[] 0"},
	} {
		t.Run(name, func(t *testing.T) {
			network, err := agentclient.ParseNetwork(tc.config)
			if got := fmt.Sprint(network.Parents, network.MTU); err != nil || got != tc.want {
				t.Errorf("got parents and MTU %s (%v), want %s", got, err, tc.want)
			}
		})
	}
}
