//go:build kernel

package benchservice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/flows"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/test/stats"
)

// observed is a client and a server whose connections a collector may observe.
type observed struct {
	tb             testing.TB
	client, server *linuxtest.Machine
	collector      *flows.Collector
	events, lost   atomic.Uint64
	tracked        []*netlink.Conn
}

// way is a way to observe.
type way struct {
	name    string
	on, off func()
	rounds  []figures
	cpu     []float64 // ms of this process for 1,000 connections
}

// BenchmarkFlows measures connections between two pods without observation, with ours, and with the events of connection
// tracking, the alternative of ADR 30. Each round measures all, in changing order, and the ratios are those of a round.
func BenchmarkFlows(b *testing.B) {
	n := &observed{tb: b, client: linuxtest.NewMachine(b, "client"), server: linuxtest.NewMachine(b, "server")}
	host, far := linuxtest.NewMachine(b, "host"), linuxtest.NewMachine(b, "switch")
	linuxtest.Wire(host, "uplink", far, "port")
	host.Sub("macvlan", "uplink", n.client, "eth0")
	host.Sub("macvlan", "uplink", n.server, "eth0")
	n.client.Addr("eth0", clientAddr+"/24")
	n.server.Addr("eth0", serverAddr+"/24")
	startServer(b, n.server)
	n.collect()
	nothing := func() {}
	all := []*way{{name: "none", on: nothing, off: nothing}, {name: "eBPF", on: n.attach, off: n.detach}, {name: "conntrack", on: n.track, off: n.untrack}}
	for round := range *rounds {
		for i := range all {
			w := all[(i+round)%len(all)]
			w.on()
			f, used := n.measure()
			w.off()
			w.rounds, w.cpu = append(w.rounds, f), append(w.cpu, used)
			fmt.Printf("%d/%d  %-10s %6.2f Gbit/s %6.1f µs %6.0f connections/s  %5.1f ms\n", round+1, *rounds, w.name, f.Gbit, f.P50, f.Connections, used)
		}
	}
	n.report(all)
}

func (n *observed) report(all []*way) {
	fmt.Print("\n| observation | TCP Gbit/s | × none | p50 µs | × none | connections/s | × none | ms of the collector for 1,000 |\n" +
		"| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, w := range all {
		ratio := func(get func(figures) float64) float64 {
			var ratios []float64
			for i, f := range w.rounds {
				ratios = append(ratios, get(f)/get(all[0].rounds[i]))
			}
			return stats.Median(ratios)
		}
		m := median(w.rounds)
		fmt.Printf("| %s | %.2f | %.3f | %.1f | %.3f | %.0f | %.3f | %.1f |\n", w.name, m.Gbit, ratio(func(f figures) float64 { return f.Gbit }),
			m.P50, ratio(func(f figures) float64 { return f.P50 }), m.Connections, ratio(func(f figures) float64 { return f.Connections }), stats.Median(w.cpu))
	}
	fmt.Printf("\nmedians of %d rounds, %g s per figure; the ratios are medians of those of a round; %d events of eBPF, %d lost\n", *rounds, *seconds, n.events.Load(), n.lost.Load())
}

func (n *observed) collect() {
	var err error
	if n.collector, err = flows.New(flows.Options{Log: slog.New(slog.DiscardHandler)}); err != nil {
		n.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- n.collector.Run(ctx, func(events []flow.Event, lost uint64) {
			n.events.Add(uint64(len(events)))
			n.lost.Add(lost)
		})
	}()
	n.tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			n.tb.Error(err)
		}
		_ = n.collector.Close()
	})
}

func (n *observed) attach() {
	for _, m := range []*linuxtest.Machine{n.client, n.server} {
		ns, err := linux.Open(m.Path())
		if err != nil {
			n.tb.Fatal(err)
		}
		err = n.collector.Attach(ns, m.Path(), flows.Pod{Name: lease.PodKey{Namespace: "default", Name: m.Name}, UID: m.Name})
		ns.Close()
		if err != nil {
			n.tb.Fatal(err)
		}
	}
}

func (n *observed) detach() {
	n.collector.Detach(n.client.Path())
	n.collector.Detach(n.server.Path())
}

// track has both pods track their connections and this process read the events.
func (n *observed) track() {
	for _, m := range []*linuxtest.Machine{n.client, n.server} {
		m.Sysctl("net/netfilter/nf_conntrack_acct", "1")
		err := m.Do(func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			t := c.AddTable(&nftables.Table{Name: "track", Family: nftables.TableFamilyINet})
			chain := c.AddChain(&nftables.Chain{Name: "in", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter})
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}}})
			if err := c.Flush(); err != nil {
				return err
			}
			events, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
			if err != nil {
				return err
			}
			n.tracked = append(n.tracked, events)
			const newEntry, destroyedEntry = 1, 3 // NFNLGRP_CONNTRACK_NEW, _DESTROY
			return errors.Join(events.JoinGroup(newEntry), events.JoinGroup(destroyedEntry))
		})
		if err != nil {
			n.tb.Fatal(err)
		}
		go func(events *netlink.Conn) {
			for {
				// The kernel says ENOBUFS when it has dropped events.
				if _, err := events.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
					return
				}
			}
		}(n.tracked[len(n.tracked)-1])
	}
}

func (n *observed) untrack() {
	for _, events := range n.tracked {
		_ = events.Close()
	}
	n.tracked = nil
	for _, m := range []*linuxtest.Machine{n.client, n.server} {
		err := m.Do(func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			c.DelTable(&nftables.Table{Name: "track", Family: nftables.TableFamilyINet})
			return c.Flush()
		})
		if err != nil {
			n.tb.Fatal(err)
		}
	}
}

// measure also returns the time of this process, i.e. of the collector, in ms for 1,000 connections.
func (n *observed) measure() (figures, float64) {
	before := n.used()
	o := order{Address: netip.MustParseAddr(serverAddr).As4(), Port: serverPort, Duration: time.Duration(*seconds * float64(time.Second))}
	f, err := o.measure(n.client, "")
	if err != nil {
		n.tb.Fatal(err)
	}
	return f, (n.used() - before).Seconds() * 1000 / (f.Connections * *seconds / 1000)
}

func (n *observed) used() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		n.tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
