package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/view"
)

const (
	// waitLimit is the default of --timeout with --wait.
	waitLimit = 5 * time.Minute
	// waitInterval is the time between two checks.
	waitInterval = 2 * time.Second
)

func newStatus(now func() time.Time) *cobra.Command {
	o := viewOptions{now: now}
	var system string
	var wait bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Check whether the installation is healthy",
		Long: `Check whether the installation is healthy: definitions, controller and its leader, agents,
webhooks, the networks of the coordinator, Multus, SpiderMultusConfigs, SpiderCloudNetworks, the
console if the chart installs it, and the warnings of the agents about runtimes, nodes, services
and policies. The exit code is 1 if a check fails. A warning does not change it. --wait waits
until no check fails, and prints the reasons; --timeout is then the limit of the wait, 5m by
default.`,
		Example: `  spiderpoolctl status

  # after an installation or an upgrade
  spiderpoolctl status --wait --timeout 3m

  # the failed checks, for a script
  spiderpoolctl status -o json | jq -r '.checks[] | select(.verdict == "FAIL") | .finding'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			read := func(ctx context.Context, r reader) (view.Report, error) {
				in, err := readInstallation(ctx, r, system)
				if err != nil {
					return view.Report{}, err
				}
				return in.Health(o.now()), nil
			}
			if !wait {
				return o.run(cmd, func(ctx context.Context, r reader) (answer, error) {
					report, err := read(ctx, r)
					return reportAnswer(report, "Spiderpool is healthy.", "Spiderpool is not healthy."), foundIn(report, err)
				})
			}
			limit := waitLimit
			if cmd.Flags().Changed("timeout") {
				limit, o.timeout = o.timeout, requestLimit
			}
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) {
				w := waiting{limit: limit, interval: waitInterval, say: func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }}
				report, err := w.until(ctx, func(ctx context.Context) (view.Report, error) { return read(ctx, r) })
				return reportAnswer(report, "Spiderpool is healthy.", "Spiderpool is not healthy."), foundIn(report, err)
			})
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&system, "system-namespace", "kube-system", "namespace of Spiderpool, with the ConfigMap "+configMap)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until no check fails")
	formatFlag(cmd, &o.format, "table", "json", "yaml")
	return cmd
}

// foundIn returns errFound for a report with failures.
func foundIn(report view.Report, err error) error {
	if err == nil && len(report.Failures()) > 0 {
		return errFound
	}
	return err
}

// waiting waits for a report without failures.
type waiting struct {
	limit, interval time.Duration
	say             func(line string)
}

// until reads reports until one has no failure. It prints the reason for waiting, and prints it again when it changes.
// After the limit, it returns the last report or error.
func (w waiting) until(ctx context.Context, read func(context.Context) (view.Report, error)) (view.Report, error) {
	began, said := time.Now(), ""
	ctx, cancel := context.WithTimeout(ctx, w.limit)
	defer cancel()
	for {
		report, err := read(context.WithoutCancel(ctx))
		if err != nil && !isTransient(err) {
			return report, err
		}
		failures := report.Failures()
		if err == nil && len(failures) == 0 {
			return report, nil
		}
		if reason := waitReason(failures, err); reason != said {
			w.say(fmt.Sprintf("%s of %s: waiting for %s", time.Since(began).Round(time.Second), w.limit, reason))
			said = reason
		}
		select {
		case <-ctx.Done():
			return report, err
		case <-time.After(w.interval):
		}
	}
}

func waitReason(failures []view.Check, err error) string {
	if err != nil {
		return "the API server: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	reason := failures[0].Subject + ": " + failures[0].Finding
	if more := len(failures) - 1; more > 0 {
		reason += fmt.Sprintf(", and %d more", more)
	}
	return reason
}

// isTransient reports whether a later attempt may succeed: an API server without our definitions gets them during an
// installation, and rights do not come by waiting.
func isTransient(err error) bool {
	return !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) && !errors.Is(err, context.Canceled) || agentclient.IsMissingKind(err)
}

// reportAnswer draws one line for each check, then a sentence.
func reportAnswer(report view.Report, good, bad string) answer {
	return answer{value: report, draw: func(w drawing) {
		drawTable(w, "", report.Checks,
			column[view.Check]{"RESULT", false, func(c view.Check) string { return string(c.Verdict) }},
			column[view.Check]{"CHECK", false, func(c view.Check) string { return c.Subject }},
			column[view.Check]{"FINDING", false, func(c view.Check) string {
				if c.Remedy == "" {
					return c.Finding
				}
				return c.Finding + ". " + capital(c.Remedy)
			}})
		failed, warned := len(report.Failures()), 0
		for _, c := range report.Checks {
			if c.Verdict == view.Warning {
				warned++
			}
		}
		verdict := w.green + good + w.plain
		if failed > 0 {
			verdict = w.red + bad + w.plain
		}
		fmt.Fprintf(w, "\n%s Failed checks: %d. Warnings: %d.\n", verdict, failed, warned)
	}}
}
