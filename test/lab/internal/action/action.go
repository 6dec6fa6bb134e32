// Package action runs an ordered list of steps, each of which can be undone: how the lab comes up and goes down.
//
// Every Do must bring about its state whatever is there already, so that a list can be run again after it stopped half
// way, and every Undo must succeed when there is nothing to undo.
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
	// Name says what is done, for people: "network: VPC main".
	Name string
	Do   func(context.Context) error
	// Undo may be nil for a step that leaves nothing behind.
	Undo func(context.Context) error
}

// Do runs the actions in order and stops at the first error, which it returns with the action's name.
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

// Report is Do, and writes a line to out for each action that is done, with the time that it took.
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

// Undo runs every action's Undo, last first, goes on after errors, and returns them all.
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
