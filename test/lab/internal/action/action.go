// Package action runs an ordered list of steps, each with an undo. The lab starts and stops with it.
//
// Every Do must reach its state from any earlier state, so that a list can be run again after a failure halfway. Every
// Undo must succeed when there is nothing to undo.
package action

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Action is one step.
type Action struct {
	// Name is the progress text, e.g. "network: VPC main".
	Name string
	Do   func(context.Context) error
	// Undo may be nil if the step leaves nothing behind.
	Undo func(context.Context) error
}

// Do runs the actions in order. It returns the first error, with the action's name, and stops there.
func Do(ctx context.Context, actions []Action) error {
	for _, a := range actions {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w", a.Name, err)
		}
		if err := a.Do(ctx); err != nil {
			return fmt.Errorf("%s: %w", a.Name, err)
		}
	}
	return nil
}

// Report is Do with progress: it writes a line to out for each completed action, with its duration.
func Report(ctx context.Context, out io.Writer, actions []Action) error {
	timed := make([]Action, len(actions))
	for i, a := range actions {
		timed[i] = Action{Name: a.Name, Do: func(ctx context.Context) error {
			start := time.Now()
			if err := a.Do(ctx); err != nil {
				return err
			}
			_, err := fmt.Fprintf(out, "  %6.1fs  %s\n", time.Since(start).Seconds(), a.Name)
			return err
		}}
	}
	return Do(ctx, timed)
}

// Undo runs the Undo of all actions in reverse order. It continues after errors and returns all of them.
func Undo(ctx context.Context, actions []Action) error {
	var errs []error
	for i := len(actions) - 1; i >= 0; i-- {
		if actions[i].Undo == nil {
			continue
		}
		if err := actions[i].Undo(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: undo: %w", actions[i].Name, err))
		}
	}
	return errors.Join(errs...)
}
