// Package ipam assigns addresses to pods and releases them: the use cases ADD, DEL,
// CHECK and GC of one node.
//
// Each loads what it needs through ports that are declared here, lets packages
// pool and lease decide, commits the plan, and rolls back if a part failed. A
// PoolCatalog selects pools; it tells the Allocator of package alloc the addresses of
// each pool (SetUsable), and nothing goes the other way.
//
// What holds at any moment, also after a crash between any two writes, beside the
// promises of package alloc:
//
//   - ADD repeated for a container and interface gives the same answer, unless the
//     store says that the leases have ended.
//   - DEL succeeds for an unknown attachment, and with the store away: the Journal then
//     keeps the release until it is committed.
package ipam
