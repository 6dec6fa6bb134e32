package coordinator

import (
	"context"
)

// prepare makes the interface ready to be planned around: its addresses are
// settled.
func (t *task) prepare() error {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	return t.pod.SettleAddrs(ctx, t.args.IfName)
}
