// Package topologies holds the networks that the lab can build, one YAML file each, compiled into the lab's binary so
// that it finds them wherever it runs, inside User Mode Linux too. The file's base name is the topology's name.
package topologies

import "embed"

// FS holds the topology files.
//
//go:embed *.yaml
var FS embed.FS
