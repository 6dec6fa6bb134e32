package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"spiderpool.dev/spiderpool/internal/atomicfile"
	"spiderpool.dev/spiderpool/internal/ipam"
)

// definitions guards the agent against custom resource definitions that lack fields. The
// API server would drop these fields, and with them e.g. the former sandboxes of an address.
// So the agent compares the definitions before it serves ADD.
//
// An API server publishes its definitions only seconds after its start. So the agent
// remembers the version of the definitions in a file, and compares only other versions.
type definitions struct {
	definitionsOptions
	file string
	kept atomic.Bool // the API server keeps all fields
}

// definitionsOptions are the questions to the API server. The zero value trusts it.
type definitionsOptions struct {
	// compare returns nil once the API server keeps all fields that the agent writes.
	compare func(context.Context) error
	// versions returns the versions of the definitions; "" if the agent may not know them,
	// e.g. under the role of an earlier release.
	versions func(context.Context) (string, error)
	// fields is the fingerprint of the fields.
	fields string
}

func newDefinitions(o definitionsOptions, stateDir string) *definitions {
	d := &definitions{definitionsOptions: o, file: filepath.Join(stateDir, "definitions")}
	d.kept.Store(o.compare == nil)
	return d
}

// ready returns an error while the agent must not serve ADD.
func (d *definitions) ready() error {
	if d.kept.Load() {
		return nil
	}
	return fmt.Errorf("%w: the agent has not compared the custom resource definitions with its own fields yet", ipam.ErrNotReady)
}

// run compares the definitions, unless an earlier agent with the same fields compared the
// same ones. retry calls a function until it succeeds or ctx ends. The error ends the agent.
func (d *definitions) run(ctx context.Context, retry func(ctx context.Context, what string, f func(context.Context) error)) error {
	if d.compare == nil {
		return nil
	}
	// Read the versions first: a change during the comparison then makes the next agent
	// compare.
	present := ""
	retry(ctx, "read the versions of the custom resource definitions", func(ctx context.Context) error {
		versions, err := d.versions(ctx)
		if versions != "" {
			present = d.fields + " " + versions
		}
		return err
	})
	remembered, err := os.ReadFile(d.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the version of the compared custom resource definitions: %w", err)
	}
	if present != "" && string(remembered) == present {
		d.kept.Store(true)
		return nil
	}
	if err := d.compare(ctx); err != nil {
		return err
	}
	d.kept.Store(true)
	if present == "" {
		return nil
	}
	if err := atomicfile.Write(d.file, []byte(present), 0o600); err != nil {
		return fmt.Errorf("remember the version of the compared custom resource definitions: %w", err)
	}
	return nil
}
