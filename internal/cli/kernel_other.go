//go:build !linux

package cli

import (
	"context"
	"errors"

	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/reach"
)

// checkSystem refuses the commands before they call these functions.

func examine(bool) ([]netplan.Finding, error) { return nil, errors.ErrUnsupported }

func serveProbes(context.Context, string, uint16) error { return errors.ErrUnsupported }

func askProbes(context.Context, reach.Request) (reach.Reply, error) {
	return reach.Reply{}, errors.ErrUnsupported
}
