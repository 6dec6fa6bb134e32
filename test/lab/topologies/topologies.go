// Package topologies embeds the lab's networks, one YAML file each, so that the lab finds them anywhere, even inside
// User Mode Linux. The file's base name is the topology's name.
package topologies

import "embed"

// FS holds the topology files.
//
//go:embed *.yaml
var FS embed.FS
