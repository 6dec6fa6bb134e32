package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/internal/view"
)

func newPool(now func() time.Time) *cobra.Command {
	o := viewOptions{now: now}
	cmd := &cobra.Command{
		Use:   "pool",
		Short: "Show pools and the use of their addresses",
	}
	o.flags(cmd)
	cmd.AddCommand(newPoolList(&o), newPoolShow(&o), newPoolUsage(&o))
	return cmd
}

func newPoolList(o *viewOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the pools with their free addresses",
		Long: `List the pools with their free addresses. The counts come from the leases, so they are right
even if the controller, which writes the status of pools, is away. RETAINED addresses wait for
the owner of a fixed address, QUARANTINED ones were answered for by a foreign host, and a
FORMER sandbox may still use the others.`,
		Example: `  spiderpoolctl pool list

  # the pools without a free address
  spiderpoolctl pool list -o json | jq -r '.[] | select(.free == 0) | .name'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) {
				state, err := o.state(ctx, r, wants{pools: true, blocks: true})
				if err != nil {
					return answer{}, err
				}
				return poolsAnswer(state.Pools()), nil
			})
		},
	}
	formatFlag(cmd, &o.format)
	return cmd
}

// poolNames are the names of pools as kubectl writes them.
func poolNames(pools ...view.Pool) (names []string) {
	for _, p := range pools {
		names = append(names, "spiderippool.spiderpool.spidernet.io/"+p.Name)
	}
	return names
}

func poolsAnswer(pools []view.Pool) answer {
	text := func(head string, wide bool, cell func(view.Pool) string) column[view.Pool] {
		return column[view.Pool]{head, wide, cell}
	}
	number := func(head string, wide bool, of func(view.Pool) int64) column[view.Pool] {
		return text(head, wide, func(p view.Pool) string { return strconv.FormatInt(of(p), 10) })
	}
	return answer{value: pools, names: poolNames(pools...), draw: func(w drawing) {
		drawTable(w, "There is no SpiderIPPool. docs/guides/install.md has an example.", pools,
			text("NAME", false, func(p view.Pool) string { return p.Name }),
			text("STATE", false, func(p view.Pool) string { return p.State }),
			text("SUBNET", false, view.Pool.Network),
			number("TOTAL", false, func(p view.Pool) int64 { return p.Total }),
			number("FREE", false, func(p view.Pool) int64 { return p.Free }),
			number("IN USE", false, func(p view.Pool) int64 { return p.InUse }),
			number("RETAINED", false, func(p view.Pool) int64 { return p.Retained }),
			number("QUARANTINED", true, func(p view.Pool) int64 { return p.Quarantined }),
			number("WITHHELD", true, func(p view.Pool) int64 { return p.Withheld }),
			number("FORMER", true, func(p view.Pool) int64 { return p.Former }),
			text("DEFAULT", false, func(p view.Pool) string { return strconv.FormatBool(p.Default) }),
			text("FOR", true, func(p view.Pool) string { return strings.Join(p.For, "; ") }))
	}}
}

func newPoolShow(o *viewOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a pool: its addresses, its pods and its problems",
		Long: `Show a pool: the addresses that pods can get, the addresses left out, the pods that may use
the pool, and why it hands out nothing, if so.`,
		Example: `  spiderpoolctl pool show blue`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) {
				state, err := o.state(ctx, r, wants{pools: true, blocks: true})
				if err != nil {
					return answer{}, err
				}
				details, ok := state.PoolDetails(args[0])
				if !ok {
					return answer{}, unknownPool(args[0])
				}
				return detailsAnswer(details), nil
			})
		},
	}
	formatFlag(cmd, &o.format)
	return cmd
}

func unknownPool(name string) error {
	return fmt.Errorf("there is no SpiderIPPool %s: spiderpoolctl pool list prints all names", name)
}

func detailsAnswer(d view.PoolDetails) answer {
	return answer{value: d, names: poolNames(d.Pool), draw: func(w drawing) {
		drawPool(w, d.Pool)
		gateway := ""
		if d.Gateway.IsValid() {
			gateway = d.Gateway.String()
		}
		w.fields([2]string{"Subnet", d.Network()}, [2]string{"Gateway", gateway}, [2]string{"spec.ips", strings.Join(d.IPs, ", ")},
			[2]string{"spec.excludeIPs", strings.Join(d.Exclude, ", ")}, [2]string{"Routes", strings.Join(d.Routes, ", ")},
			[2]string{"For pods", strings.Join(d.Usable, ", ")}, [2]string{"Default", yesNo(d.Default)}, [2]string{"Only for", orNone(strings.Join(d.For, "; "), "every pod")})
		w.findings(d.Findings)
	}}
}

// drawPool draws the state and the counts of a pool.
func drawPool(w drawing, p view.Pool) {
	withheld := ""
	if p.Withheld > 0 {
		withheld = fmt.Sprintf(", %d withheld", p.Withheld)
	}
	fmt.Fprintf(w, "Pool %s is %s: %d of %d addresses are free, %d in use, %d retained, %d quarantined%s, %d of former sandboxes.\n\n",
		p.Name, p.State, p.Free, p.Total, p.InUse, p.Retained, p.Quarantined, withheld, p.Former)
}

func newPoolUsage(o *viewOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "usage NAME",
		Short: "Show which nodes and workloads use the addresses of a pool",
		Long: `Show which nodes and workloads use the addresses of a pool, the largest first. The workload is
the top controller of the pod, by its SpiderEndpoint. There is no time until the pool is full:
leases record no history. Prometheus has it; see docs/guides/cli.md.`,
		Example: `  spiderpoolctl pool usage blue`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) {
				state, err := o.state(ctx, r, wants{pools: true, blocks: true})
				if err == nil {
					err = r.addEndpoints(ctx, state, view.Filter{Pool: args[0]})
				}
				if err != nil {
					return answer{}, err
				}
				usage, ok := state.PoolUsage(args[0])
				if !ok {
					return answer{}, unknownPool(args[0])
				}
				return usageAnswer(usage), nil
			})
		},
	}
	formatFlag(cmd, &o.format)
	return cmd
}

func usageAnswer(u view.PoolUsage) answer {
	return answer{value: u, names: poolNames(u.Pool), draw: func(w drawing) {
		drawPool(w, u.Pool)
		counts(w, "WORKLOAD", "No workload has an address of the pool.", u.Workloads)
		if len(u.Nodes) > 0 {
			fmt.Fprintln(w)
			counts(w, "NODE", "", u.Nodes)
		}
	}}
}

func counts(w drawing, head, none string, rows []view.Count) {
	drawTable(w, none, rows,
		column[view.Count]{head, false, func(c view.Count) string { return c.Name }},
		column[view.Count]{"IN USE", false, func(c view.Count) string { return strconv.Itoa(c.InUse) }},
		column[view.Count]{"RETAINED", false, func(c view.Count) string { return strconv.Itoa(c.Retained) }})
}
