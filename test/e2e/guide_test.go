//go:build e2e

// Package e2e runs the steps of the AWS guide on a running lab, and then further tests.
package e2e

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/test/e2e/walk"
)

var (
	labBinary = flag.String("lab", "../../bin/lab", "path of the lab program")
	scale     = flag.Bool("scale", false, "also fill pools with 100 pods, twice")
	console   = flag.Bool("console", false, "also open the console in Chromium")
	pods      = flag.Int("pods", 200, "pods of TestManage")
	storm     = flag.Duration("storm", 2*time.Minute, "time of TestManageStorm in which controllers die and the cloud lies")
	topology  = flag.String("topology", "aws", "topology of the running lab: aws or l2")
)

func TestGuide(t *testing.T) { play(t, walk.Guide) }

// TestClaims needs the installation from TestGuide. Each claim is a separate subtest,
// independent of the others.
func TestClaims(t *testing.T) {
	lab, site := openPlain(t)
	prepare, claims, cleanUp := walk.Claims(lab, site)
	if !run(t, prepare) {
		t.Fatal("the claims need this step")
	}
	for _, claim := range claims {
		run(t, claim)
	}
	run(t, cleanUp)
}

// TestServices needs the installation from TestGuide.
func TestServices(t *testing.T) { play(t, walk.Services) }

// TestBandwidth needs the installation from TestGuide.
func TestBandwidth(t *testing.T) { play(t, walk.Bandwidth) }

// TestAntiSpoofing needs the installation from TestGuide.
func TestAntiSpoofing(t *testing.T) { play(t, walk.AntiSpoofing) }

// TestPolicies needs the installation from TestGuide.
func TestPolicies(t *testing.T) { play(t, walk.Policies) }

// TestConnectivity needs the installation from TestGuide.
func TestConnectivity(t *testing.T) { play(t, walk.Connectivity) }

// TestAnswers needs the installation from TestGuide.
func TestAnswers(t *testing.T) { playOnPlain(t, walk.Answers) }

// TestSymptoms needs the installation from TestGuide.
func TestSymptoms(t *testing.T) { playOnPlain(t, walk.Symptoms) }

// TestConsole needs the installation from TestGuide, and Chromium from hack/browser.sh.
func TestConsole(t *testing.T) {
	if !*console {
		t.Skip("needs -console: make e2e-console")
	}
	playOnPlain(t, walk.Console)
}

// TestFlows needs the installation from TestGuide.
func TestFlows(t *testing.T) { play(t, walk.Flows) }

// TestRemoval uninstalls Spiderpool and installs it again. It needs no pod with an address.
func TestRemoval(t *testing.T) { play(t, walk.Removal) }

// TestZeroTouch needs the topology aws. It takes eight minutes, because the leases of a node wait five after its end:
// make e2e-aws SKIP= RUN=TestZeroTouch
func TestZeroTouch(t *testing.T) {
	lab, site := openCloud(t)
	playAll(t, walk.ZeroTouch(lab, site))
}

// TestManage needs the topology aws: make e2e-manage
func TestManage(t *testing.T) {
	lab, site := openCloud(t)
	playAll(t, walk.Manage(lab, site, *pods))
}

// TestManageStorm needs the topology aws: make e2e-manage
func TestManageStorm(t *testing.T) {
	lab, site := openCloud(t)
	playAll(t, walk.ManageStorm(lab, site, *storm))
}

// TestAttach needs the topology aws: make e2e-attach
func TestAttach(t *testing.T) {
	lab, site := openCloud(t)
	playAll(t, walk.Attach(lab, site))
}

// TestFixedAddresses needs the topology aws with three nodes, two of them in one zone: make e2e-fixed
func TestFixedAddresses(t *testing.T) {
	lab, site := openCloud(t)
	site, err := site.WithNodesOf(t.Context(), lab)
	if err != nil {
		t.Fatal(err)
	}
	if len(site.Nodes) < 3 {
		t.Skip("needs two nodes in one zone: make e2e-fixed")
	}
	playAll(t, walk.FixedAddresses(lab, site))
}

func openCloud(t *testing.T) (*walk.Lab, walk.Site) {
	lab, site := open(t)
	if !site.Routed {
		t.Skip("needs a cloud: make e2e-aws")
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, command := range []string{"get pods -A -o wide", "get spidercloudnetworks,spiderippools,spiderreservedips -o yaml",
			"logs -n kube-system -l app.kubernetes.io/component=controller --prefix --tail=300"} {
			_, _ = lab.Kubectl(context.Background(), command) // it has been printed
		}
	})
	return lab, site
}

// TestScale needs the installation from TestGuide.
func TestScale(t *testing.T) {
	if !*scale {
		t.Skip("needs -scale: make e2e-scale")
	}
	play(t, walk.Scale)
}

// play runs the steps up to the first failure.
func play(t *testing.T, steps func(*walk.Lab, walk.Site) []walk.Step) { playAll(t, steps(open(t))) }

// playOnPlain is play for steps that need the topology l2.
func playOnPlain(t *testing.T, steps func(*walk.Lab, walk.Site) []walk.Step) {
	playAll(t, steps(openPlain(t)))
}

func openPlain(t *testing.T) (*walk.Lab, walk.Site) {
	lab, site := open(t)
	if site.Routed {
		t.Skip("needs a network that carries any pod's frames: make e2e-l2")
	}
	return lab, site
}

func playAll(t *testing.T, steps []walk.Step) {
	for _, step := range steps {
		if !run(t, step) {
			t.Fatal("the following steps need this one")
		}
	}
}

func open(t *testing.T) (*walk.Lab, walk.Site) {
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
	return lab, site
}

func run(t *testing.T, step walk.Step) bool {
	return t.Run(step.Title, func(t *testing.T) {
		if err := step.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
