// Package bpf translates service addresses at the sockets of a node's pods: it loads
// the eBPF programs of the directory bpf, fills their maps from the diffs of package
// service, and attaches the programs to the pods' control group.
//
//	programs, err := bpf.Load(bpf.Directory, group)
//	defer programs.Close()
//	err = programs.Replace(all)
//	err = programs.Attach()
//	err = programs.Change(changes)
//
// Programs, maps and links are pinned in a bpffs, so that translation goes on without
// the agent. A later Load takes the maps over with their entries, Replace brings them up
// to date, and Attach replaces the programs one by one, each atomically. The directory is
// all that there is: to detach and free everything, remove it.
//
// Programs are not safe for concurrent use.
package bpf
