package cli

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/view"
)

// releaseOptions are the flags of release.
type releaseOptions struct {
	viewOptions
	system        string
	force, dryRun bool
	wait          time.Duration
}

func newRelease(now func() time.Time) *cobra.Command {
	o := releaseOptions{viewOptions: viewOptions{now: now}}
	cmd := &cobra.Command{
		Use:   "release ADDRESS",
		Short: "Release an address that nothing uses",
		Long: `Release an address that nothing uses: ask the controller to release an address that is retained
for an owner, e.g. for a scaled-down StatefulSet, before its time. The controller judges the
request by the same rules as its own reclaims, and answers with an event. An address that
anything may still use is refused, with its pod, its node and its sandbox. --force releases a
retained address although its owner may come back; it never replaces the proof that a sandbox
has ended. The request is an annotation of the SpiderIPBlock, so it takes the right to patch
it, which administrators of the cluster have. The exit code is 1 if the address is not
released.`,
		Example: `  # would it be released, and why not?
  spiderpoolctl release 10.6.0.4 --dry-run

  spiderpoolctl release 10.6.0.4

  # although StatefulSet web still has the pod web-1
  spiderpoolctl release 10.6.0.4 --force`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, reason := inet.ParseAddr(args[0])
			if reason != "" {
				return fmt.Errorf("%q is no address: write e.g. 10.6.0.21 or fd00:6::15", args[0])
			}
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) { return o.release(ctx, cmd, r, addr) })
		},
	}
	o.flags(cmd)
	systemFlag(cmd, &o.system)
	cmd.Flags().BoolVar(&o.force, "force", false, "release a retained address although its owner may come back")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "only say whether the address would be released")
	cmd.Flags().DurationVar(&o.wait, "wait", 30*time.Second, "limit of the wait for the answer of the controller")
	formatFlag(cmd, &o.format)
	return cmd
}

// systemFlag adds --system-namespace.
func systemFlag(cmd *cobra.Command, system *string) {
	cmd.Flags().StringVar(system, "system-namespace", "kube-system", "namespace of Spiderpool, with the ConfigMap "+configMap)
}

func (o *releaseOptions) release(ctx context.Context, cmd *cobra.Command, r reader, addr netip.Addr) (answer, error) {
	release, err := o.judge(ctx, r, addr)
	if err == nil && release.Possible && !o.dryRun {
		err = o.ask(ctx, cmd, r, &release)
	}
	if err != nil {
		return answer{}, err
	}
	if !release.Possible || !o.dryRun && !release.Released {
		err = errFound
	}
	return releaseAnswer(release, o.dryRun), err
}

// judge judges the request like the controller.
func (o *releaseOptions) judge(ctx context.Context, r reader, addr netip.Addr) (release view.Release, err error) {
	file, _, err := installation(ctx, r, o.system)
	if err != nil {
		return release, err
	}
	ownerOf, err := r.owners(ctx)
	if err != nil {
		return release, err
	}
	l, err := r.leaseOf(ctx, addr)
	if err != nil {
		return release, err
	}
	for {
		around, err := r.near(ctx, l, o.now())
		if err != nil {
			return release, err
		}
		// The blocks come last: the request is for the version that is judged.
		state, err := o.state(ctx, r, wants{blocks: true})
		if err != nil {
			return release, err
		}
		latest := state.Lease(addr)
		if latest.Pod == l.Pod && latest.Node == l.Node && latest.FixedFor == l.FixedFor {
			return state.Release(addr, o.force, around, ownerOf, file.IPAM.ReclaimPolicy()), nil
		}
		l = latest // it changed hands meanwhile
	}
}

// ask writes the request into the block that the judgement is about, and waits for the controller, which removes
// it. Without an answer, it withdraws the request.
func (o *releaseOptions) ask(ctx context.Context, cmd *cobra.Command, r reader, release *view.Release) error {
	at, value := objectPath("spideripblock/"+release.Block), release.Addr.String()
	if o.force {
		value += " force"
	}
	err := r.Annotate(ctx, at, release.Version, names.AnnotationReleaseAddress, &value)
	switch {
	case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
		return fmt.Errorf("SpiderIPBlock %s changed while it was judged: run the command again", release.Block)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("you may not patch SpiderIPBlock %s: a release takes the rights of an administrator of the cluster (%s)", release.Block, apierrors.ReasonForError(err))
	case err != nil:
		return err
	}
	for end := time.Now().Add(o.wait); ; {
		block, err := r.ReadBlock(ctx, inet.BlockOf(release.Addr))
		if err != nil {
			return err
		}
		if block == nil || block.Annotations[names.AnnotationReleaseAddress] != value {
			answered(release, block)
			return nil
		}
		left := time.Until(end)
		if left <= 0 {
			if err := r.Annotate(ctx, at, "", names.AnnotationReleaseAddress, nil); err != nil {
				return err
			}
			return fmt.Errorf("no controller answered within %s, and the request is withdrawn: check it with kubectl get deployment -n %s spiderpool-controller, then run the command again", o.wait, o.system)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "waiting for the controller, at most %s\n", left.Round(time.Second))
		if err := pause(ctx, min(time.Second, left)); err != nil {
			return err
		}
	}
}

// answered notes the answer of the controller: the block without the lease, or with it.
func answered(release *view.Release, block *v2beta1.SpiderIPBlock) {
	release.Released = true
	if block == nil {
		return
	}
	for _, l := range block.Spec.Leases {
		if l.IP != release.Addr.String() || l.State == v2beta1.LeaseReleased {
			continue
		}
		release.Released, release.Possible = false, false
		release.Because, release.Remedy = "the controller refused it", "kubectl get events -n default --field-selector reason=ReleaseRefused has its reason"
		if string(l.State) != release.State || l.ContainerID != release.ContainerID {
			release.Because, release.Remedy = fmt.Sprintf("it changed hands meanwhile: pod %s has it now", l.Pod), "spiderpoolctl ip who "+l.IP+" shows its holder"
		}
	}
}

func releaseAnswer(x view.Release, dryRun bool) answer {
	a := answer{value: x, draw: func(w drawing) {
		switch {
		case x.Released:
			fmt.Fprintf(w, "%s is released: %s.\n", x.Addr, x.Because)
		case x.Possible && dryRun:
			fmt.Fprintf(w, "%s would be released: %s.\n", x.Addr, x.Because)
		default:
			w.refusal(x)
		}
	}}
	if x.Released || x.Possible && dryRun {
		a.names = []string{x.Addr.String()}
	}
	return a
}

func (w drawing) refusal(x view.Release) {
	fmt.Fprintf(w, "%s%s is not released%s: %s.\n\n", w.red, x.Addr, w.plain, x.Because)
	w.fields([2]string{"State", x.State}, [2]string{"Holder", x.Holder}, [2]string{"Node", x.Node}, [2]string{"Container ID", x.ContainerID})
	if x.Remedy != "" {
		fmt.Fprintf(w, "\n%s\n", capital(x.Remedy))
	}
}
