package cli

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/view"
)

// checkOptions are the flags of check.
type checkOptions struct {
	viewOptions
	repair       bool
	settle, wait time.Duration
}

func newCheck(now func() time.Time) *cobra.Command {
	o := checkOptions{viewOptions: viewOptions{now: now}}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Compare blocks with endpoints, pods, nodes and pools",
		Long: `Compare blocks with endpoints, pods, nodes and pools, and name each discrepancy, the dangerous
ones first. A difference counts only if a second look after --settle still shows it: agents and
the controller repair most of them within seconds. With --repair, the command asks the
controller to look again at the objects that it repairs; it writes no lease itself. The exit
code is 1 if a discrepancy remains.`,
		Example: `  spiderpoolctl check

  # make the controller look now at all that it can repair
  spiderpoolctl check --repair

  # addresses of two pods, for an alert
  spiderpoolctl check -o json | jq -r '.[] | select(.code == "AddressTwice") | .address'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) { return o.check(ctx, cmd, r) })
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&o.repair, "repair", false, "ask the controller to repair what it can")
	cmd.Flags().DurationVar(&o.settle, "settle", 5*time.Second, "how long a difference must last")
	cmd.Flags().DurationVar(&o.wait, "wait", 30*time.Second, "limit of the wait for repairs")
	formatFlag(cmd, &o.format)
	return cmd
}

// check looks twice, and a third time after repairs.
func (o *checkOptions) check(ctx context.Context, cmd *cobra.Command, r reader) (answer, error) {
	found, err := o.look(ctx, r)
	if err == nil && len(found) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d differences; looking again in %s\n", len(found), o.settle)
		found, err = o.again(ctx, r, found)
	}
	if err == nil && o.repair {
		found, err = o.repairAll(ctx, cmd, r, found)
	}
	if err != nil {
		return answer{}, err
	}
	if slices.ContainsFunc(found, func(d view.Discrepancy) bool { return !d.Repaired }) {
		err = errFound
	}
	return discrepanciesAnswer(found), err
}

func (o *checkOptions) look(ctx context.Context, r reader) ([]view.Discrepancy, error) {
	state, around, err := o.surrounded(ctx, r, wants{pools: true, blocks: true, endpoints: true})
	if err != nil {
		return nil, err
	}
	return state.Check(around), nil
}

// again returns the differences that last.
func (o *checkOptions) again(ctx context.Context, r reader, earlier []view.Discrepancy) ([]view.Discrepancy, error) {
	if err := pause(ctx, o.settle); err != nil {
		return nil, err
	}
	later, err := o.look(ctx, r)
	return view.Confirmed(earlier, later), err
}

// pause waits, or returns the error of the context.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// repairAll asks for repairs, and waits for them.
func (o *checkOptions) repairAll(ctx context.Context, cmd *cobra.Command, r reader, found []view.Discrepancy) ([]view.Discrepancy, error) {
	asked := map[string]bool{}
	for _, d := range found {
		if d.Repair == "" || asked[d.Repair] {
			continue
		}
		asked[d.Repair] = true
		if err := r.askToCheck(ctx, d.Repair, o.now()); err != nil {
			return nil, err
		}
	}
	for end := time.Now().Add(o.wait); len(asked) > 0; {
		later, err := o.look(ctx, r)
		if err != nil {
			return nil, err
		}
		found = view.AfterRepair(found, later)
		left := time.Until(end)
		if left <= 0 || !slices.ContainsFunc(found, func(d view.Discrepancy) bool { return d.Repair != "" && !d.Repaired }) {
			break
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "waiting for the controller, at most %s\n", left.Round(time.Second))
		if err := pause(ctx, min(time.Second, left)); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// askToCheck annotates an object, e.g. "spideripblock/10.6.0.0", so that the controller looks at it again.
func (r reader) askToCheck(ctx context.Context, object string, now time.Time) error {
	value := now.UTC().Format(time.RFC3339)
	err := r.Annotate(ctx, objectPath(object), "", names.AnnotationCheck, &value)
	switch {
	case apierrors.IsNotFound(err):
		return nil // it is gone by now
	case apierrors.IsForbidden(err):
		return fmt.Errorf("you may not ask the controller to repair %s: it takes the right to patch this kind; pools are in the ClusterRole spiderpool-edit, blocks are for administrators of the cluster (%s)", object, apierrors.ReasonForError(err))
	}
	return err
}

// objectPath returns the path of one of our objects, e.g. of "spiderendpoint/shop/web-0".
func objectPath(object string) string {
	kind, name, _ := strings.Cut(object, "/")
	at := path.Join("/apis", v2beta1.GroupVersion.String())
	if namespace, short, ok := strings.Cut(name, "/"); ok {
		at, name = path.Join(at, "namespaces", namespace), short
	}
	return path.Join(at, kind+"s", name)
}

func discrepanciesAnswer(found []view.Discrepancy) answer {
	a := answer{value: found}
	for _, d := range found {
		if name := d.Name(); !d.Repaired && !slices.Contains(a.names, name) {
			a.names = append(a.names, name)
		}
	}
	a.draw = func(w drawing) {
		if len(found) == 0 {
			fmt.Fprintln(w, "Blocks, endpoints, pods, nodes and pools agree.")
			return
		}
		if w.wide {
			drawTable(w, "", found,
				column[view.Discrepancy]{"CODE", false, func(d view.Discrepancy) string { return d.Code }},
				column[view.Discrepancy]{"OBJECT", false, func(d view.Discrepancy) string { return d.Subject }},
				column[view.Discrepancy]{"ADDRESS", false, func(d view.Discrepancy) string { return d.Address }},
				column[view.Discrepancy]{"REPAIR BY", false, func(d view.Discrepancy) string { return repairer(d) }},
				column[view.Discrepancy]{"REPAIRED", false, func(d view.Discrepancy) string { return yesNo(d.Repaired) }},
				column[view.Discrepancy]{"WHY IT MATTERS", false, func(d view.Discrepancy) string { return d.Why }})
			fmt.Fprintln(w)
		}
		for _, d := range found {
			w.discrepancy(d)
		}
	}
	return a
}

func repairer(d view.Discrepancy) string {
	if d.Repair != "" {
		return "controller"
	}
	return ""
}

// discrepancy draws e.g. "LeaseWithoutPod: SpiderIPBlock 10.6.0.0, 10.6.0.3: …".
func (w drawing) discrepancy(d view.Discrepancy) {
	subject := d.Subject
	if d.Address != "" && !strings.HasSuffix(subject, d.Address) {
		subject += ", " + d.Address
	}
	if d.Repaired {
		fmt.Fprintf(w, "%s: %s: %s. Repaired\n", d.Code, subject, d.Problem)
		return
	}
	fmt.Fprintf(w, "%s%s%s: %s: %s; %s. %s\n", w.red, d.Code, w.plain, subject, d.Problem, d.Why, capital(d.Remedy))
}
