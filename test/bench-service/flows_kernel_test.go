//go:build kernel

package benchservice

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
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
	// ring and socket serve the flows; room is used again for each batch of events.
	ring   *flow.Ring
	socket string
	room   []flow.Flow
	end    flow.End
}

// way is a way to observe, with a load in the background.
type way struct {
	name    string
	rate    int // connections a second in the background
	on, off func()
	rounds  []figures
	cpu     []float64 // ms of this process for 1,000 connections
	reached []float64 // the rate
}

var rates = flag.String("rates", "0,1000,20000", "comma-separated numbers of connections a second in the background of BenchmarkFlows, the first one 0")

// BenchmarkFlows measures connections between two pods without observation, with ours, with ours and a client that follows
// all flows, and with the events of connection tracking, the alternative of ADR 30. Each round measures all, in changing
// order, and the ratios are those of a round to no observation with the same load in the background.
func BenchmarkFlows(b *testing.B) {
	n := &observed{tb: b, client: linuxtest.NewMachine(b, "client"), server: linuxtest.NewMachine(b, "server")}
	host, far := linuxtest.NewMachine(b, "host"), linuxtest.NewMachine(b, "switch")
	linuxtest.Wire(host, "uplink", far, "port")
	host.Sub("macvlan", "uplink", n.client, "eth0")
	host.Sub("macvlan", "uplink", n.server, "eth0")
	n.client.Addr("eth0", clientAddr+"/24")
	n.server.Addr("eth0", serverAddr+"/24")
	startServer(b, n.server)
	n.serveFlows()
	n.collect()
	all := n.ways()
	for round := range *rounds {
		for i := range all {
			w := all[(i+round)%len(all)]
			w.on()
			stop := n.background(w.rate)
			f, used := n.measure()
			reached := stop()
			w.off()
			own := f.Connections * *seconds
			used *= own / (own + reached*3**seconds) // the collector's time is that for all connections
			w.rounds, w.cpu, w.reached = append(w.rounds, f), append(w.cpu, used), append(w.reached, reached)
			fmt.Printf("%d/%d  %-14s %6.0f others/s %6.2f Gbit/s %6.1f µs %6.0f connections/s  %5.1f ms\n", round+1, *rounds, w.name, reached, f.Gbit, f.P50, f.Connections, used)
		}
	}
	n.report(all)
}

// ways returns all ways, each after the one without observation and with the same load in the background.
func (n *observed) ways() (all []*way) {
	nothing := func() {}
	var unfollow func() string
	for i, text := range strings.Split(*rates, ",") {
		rate, err := strconv.Atoi(text)
		if err != nil || (i == 0) != (rate == 0) {
			n.tb.Fatalf("-rates %s: write 0 and other numbers, e.g. 0,1000,20000", *rates)
		}
		all = append(all, &way{name: "none", rate: rate, on: nothing, off: nothing}, &way{name: "eBPF", rate: rate, on: n.attach, off: n.detach},
			&way{
				name: "eBPF, followed", rate: rate,
				on:  func() { n.attach(); unfollow = n.helper(n.server, "follow "+n.socket) },
				off: func() { unfollow(); n.detach() },
			})
	}
	if len(all) > 3 {
		stop := n.helper(n.server, "accept")
		n.tb.Cleanup(func() { stop() })
	}
	return slices.Insert(all, 3, &way{name: "conntrack", on: n.track, off: n.untrack})
}

func (n *observed) report(all []*way) {
	fmt.Print("\n| observation | others/s | TCP Gbit/s | × none | p50 µs | × none | connections/s | × none | ms of the collector for 1,000 |\n" +
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	var none *way
	for _, w := range all {
		if w.name == "none" {
			none = w
		}
		ratio := func(get func(figures) float64) float64 {
			var ratios []float64
			for i, f := range w.rounds {
				ratios = append(ratios, get(f)/get(none.rounds[i]))
			}
			return stats.Median(ratios)
		}
		m := median(w.rounds)
		fmt.Printf("| %s | %.0f | %.2f | %.3f | %.1f | %.3f | %.0f | %.3f | %.1f |\n", w.name, stats.Median(w.reached), m.Gbit, ratio(func(f figures) float64 { return f.Gbit }),
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
		done <- n.collector.Run(ctx, n.keep)
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
