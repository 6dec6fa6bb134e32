// Package alloc grants and releases the addresses of one node: it keeps the blocks that
// concern the node in memory, chooses addresses, and commits the changes.
//
// An Allocator knows pools by name and usable addresses (SetUsable). It writes blocks in
// batches: while one batch is at the store, requests queue, and the next batch takes
// them all. A watch reports the writes of others (Knows, ObserveDeleted, Outdated); the
// Allocator reads the blocks of other nodes when it needs them.
//
// An address is in one lease at most, because it is in one object and the store refuses
// writers of an outdated version. All addresses of a request are granted in one decision,
// or none.
package alloc
