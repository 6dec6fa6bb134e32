package ipam_test

import (
	"reflect"
	"testing"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/wire"
)

func TestRepairRestoresEndpointOfAdd(t *testing.T) {
	cluster := newFakeCluster(t)
	cluster.SetPod(ipamtest.FakePod{Node: "n1", Pod: ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: "a"}, UID: "uid-a", Annotations: map[string]string{
		"ipam.spidernet.io/ippools": `[{"interface":"eth0","ipv4":["p"],"cleangateway":true}]`,
		"ipam.spidernet.io/routes":  `[{"dst":"192.0.2.0/24","gw":"10.0.0.9"}]`,
	}}})
	if _, err := cluster.Service("n1").Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	want := cluster.Endpoints()["default/a"]
	cluster.DeleteEndpoint("default/a")
	cluster.Restart("n1").Repair(t.Context())
	got := cluster.Endpoints()["default/a"]
	if !reflect.DeepEqual(got, want) || !got.Interfaces[0].CleanGateway || len(got.Interfaces[0].Routes) != 1 {
		t.Errorf("repaired:\n%+v\nwritten by ADD:\n%+v", got, want)
	}
}
