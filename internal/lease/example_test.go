package lease_test

import (
	"fmt"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

// A dual-stack pod is added, and deleted again.
func Example() {
	v4, _ := inet.Parse([]string{"172.31.28.16-172.31.28.31"}, inet.Bounds{})
	v6, _ := inet.Parse([]string{"2406:da1e:c4:ed01:c57d::-2406:da1e:c4:ed01:c57d::f"}, inet.Bounds{})
	index := lease.NewIndex(lease.Options{Node: "master"})
	index.SetPool("master-v4", v4)
	index.SetPool("master-v6", v6)

	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	plan := index.Choose(now, lease.Request{
		Pod: lease.ParsePodKey("default/web"), PodUID: "u", ContainerID: "c", Node: "master",
		Wants: []lease.Want{
			{Interface: "eth0", Family: 4, Pools: []string{"master-v4"}},
			{Interface: "eth0", Family: 6, Pools: []string{"master-v6"}},
		},
	})
	for _, g := range plan.Results[0].Grants {
		fmt.Println("granted", g.Addr, "of", g.Pool)
	}
	for _, b := range plan.Writes {
		fmt.Println("write", inet.BlockPrefix(b.Base))
		b.Version = "1" // what the store says
		index.Put(b, now)
	}
	for _, b := range index.Release(now, lease.Attachment{ContainerID: "c", Interface: "eth0"}) {
		fmt.Println("write", inet.BlockPrefix(b.Base), b.Leases[0].State)
	}
	// Output:
	// granted 172.31.28.16 of master-v4
	// granted 2406:da1e:c4:ed01:c57d:: of master-v6
	// write 172.31.28.16/28
	// write 2406:da1e:c4:ed01:c57d::/124
	// write 172.31.28.16/28 Released
	// write 2406:da1e:c4:ed01:c57d::/124 Released
}
