//go:build e2e

// Package e2e runs the walk through the AWS guide on a lab that is up, and then what
// needs more pods.
package e2e

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"spiderpool.dev/spiderpool/test/e2e/walk"
)

var (
	labBinary = flag.String("lab", "../../bin/lab", "path of the lab program")
	scale     = flag.Bool("scale", false, "also fill pools with 100 pods, twice")
	topology  = flag.String("topology", "aws", "topology of the lab that is up: aws or l2")
)

func TestGuide(t *testing.T) { play(t, walk.Guide) }

// TestScale needs the installation that TestGuide makes.
func TestScale(t *testing.T) {
	if !*scale {
		t.Skip("takes -scale: make e2e-scale")
	}
	play(t, walk.Scale)
}

func play(t *testing.T, steps func(*walk.Lab, walk.Site) []walk.Step) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	site, err := walk.SiteOf(*topology)
	if err != nil {
		t.Fatal(err)
	}
	lab, err := walk.Open(t.Context(), *labBinary, root, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range steps(lab, site) {
		if !t.Run(step.Title, func(t *testing.T) {
			if err := step.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
		}) {
			t.Fatal("the steps after this one need it")
		}
	}
}
