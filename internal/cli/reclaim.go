package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/internal/view"
)

// reclaimOptions are the flags of reclaim.
type reclaimOptions struct {
	viewOptions
	system      string
	dryRun, all bool
}

func newReclaim(now func() time.Time) *cobra.Command {
	o := reclaimOptions{viewOptions: viewOptions{now: now}}
	cmd := &cobra.Command{
		Use:   "reclaim --dry-run",
		Short: "Show which addresses would be reclaimed, and why",
		Long: `Show which addresses the controller would reclaim now, which ones an agent reclaims once its
container runtime has no such sandbox, and which ones are kept although their pod or owner has
no right to them, each with the reason. --all also shows the addresses that their pods and owners
need. The decision is the controller's own code. The command reclaims nothing: agents and the
controller do so by themselves. It takes durations from the times in the leases; a controller
counts from its own start, so it may reclaim later.`,
		Example: `  spiderpoolctl reclaim --dry-run

  # the addresses that wait for a lost node
  spiderpoolctl reclaim --dry-run -o json | jq -r '.[] | select(.action == "AskRuntime") | .address + " " + .node'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !o.dryRun {
				return errors.New("this command only shows verdicts, so add --dry-run: agents and the controller reclaim by themselves; spiderpoolctl release ends a single retained address")
			}
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) { return o.reclaims(ctx, r) })
		},
	}
	o.flags(cmd)
	systemFlag(cmd, &o.system)
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "show, and change nothing (required)")
	cmd.Flags().BoolVar(&o.all, "all", false, "also show addresses that their pods and owners need")
	formatFlag(cmd, &o.format)
	return cmd
}

func (o *reclaimOptions) reclaims(ctx context.Context, r reader) (answer, error) {
	file, note, err := installation(ctx, r, o.system)
	if err != nil {
		return answer{}, err
	}
	ownerOf, err := r.owners(ctx)
	if err != nil {
		return answer{}, err
	}
	state, around, err := o.surrounded(ctx, r, wants{blocks: true})
	if err != nil {
		return answer{}, err
	}
	all := state.Reclaims(around, ownerOf, file.IPAM.ReclaimPolicy())
	shown := slices.DeleteFunc(slices.Clone(all), func(v view.Reclaim) bool { return !o.all && v.Ordinary() })
	return reclaimsAnswer(shown, len(all)-len(shown), note), nil
}

func reclaimsAnswer(shown []view.Reclaim, ordinary int, note string) answer {
	a := answer{value: shown}
	for _, v := range shown {
		a.names = append(a.names, v.Addr.String())
	}
	a.draw = func(w drawing) {
		text := func(head string, wide bool, cell func(view.Reclaim) string) column[view.Reclaim] {
			return column[view.Reclaim]{head, wide, cell}
		}
		drawTable(w, "No address would be reclaimed.", shown,
			text("ADDRESS", false, func(v view.Reclaim) string { return v.Addr.String() }),
			text("STATE", true, func(v view.Reclaim) string { return v.State }),
			text("POOL", true, func(v view.Reclaim) string { return v.Pool }),
			text("HOLDER", false, func(v view.Reclaim) string { return v.Holder }),
			text("NODE", false, func(v view.Reclaim) string { return v.Node }),
			text("ACTION", false, func(v view.Reclaim) string { return v.Action }),
			text("REASON", false, func(v view.Reclaim) string { return v.Reason }),
			text("JUDGE", true, func(v view.Reclaim) string { return v.Judge }),
			text("BECAUSE", false, func(v view.Reclaim) string { return v.Because }))
		if ordinary > 0 {
			fmt.Fprintf(w, "\nKept for their pods and owners, and shown by --all: %d more.\n", ordinary)
		}
		if note != "" {
			fmt.Fprintf(w, "\n%s\n", note)
		}
	}
	return a
}
