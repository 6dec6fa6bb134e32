// Package cniinstall is the program cni-install: it installs the CNI plugins and the
// configuration of Multus on a node, and removes them.
//
// The runtime may execute or read a file at any moment, so the package writes every
// file atomically, and leaves a file with the right content and mode untouched. It
// links no Kubernetes and connects to no server.
package cniinstall
