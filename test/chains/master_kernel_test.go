//go:build kernel

package chains

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"

	"spiderpool.dev/spiderpool/internal/wire"
)

// A cloud may attach the master interface while the node runs. No program of the node sets it up then.
func TestMasterIsSetUp(t *testing.T) {
	eachMain(t, func(n *network) {
		if err := n.node.NL.LinkSetDown(n.node.Link("ens5")); err != nil {
			t.Fatal(err)
		}
		pod, runtime := newPod(n.T)
		if _, err := n.addTo(newDetecting(wire.Detection{}), runtime); err != nil {
			n.Fatal(err)
		}
		if n.node.Link("ens5").Attrs().Flags&net.FlagUp == 0 {
			n.Error("the master interface is down")
		}
		if state := pod.Link("eth0").Attrs().OperState; state != netlink.OperUp && state != netlink.OperUnknown {
			n.Errorf("the pod's interface is %s", state)
		}
	})
}
