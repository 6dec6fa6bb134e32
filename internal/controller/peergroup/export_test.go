package peergroup

import "time"

// SetUnusedFor sets how long a group without a policy stays.
func (r *Reconciler) SetUnusedFor(d time.Duration) { r.unusedFor = d }
