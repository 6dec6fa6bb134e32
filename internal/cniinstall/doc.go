// Package cniinstall puts on a node what its container runtime needs to call the CNI
// plugins: the plugins themselves and the configuration of Multus.
//
// Every file appears under its name complete or not at all (written beside it,
// synced, renamed), because the runtime may execute or read it at any moment.
// A file that is already as it should be is not touched. The package links no
// Kubernetes and talks to no server.
package cniinstall
