package agent

import "spiderpool.dev/spiderpool/internal/flow"

// newFlowSource returns nil: this release has no collector yet.
func (*agent) newFlowSource() flow.Source { return nil }
