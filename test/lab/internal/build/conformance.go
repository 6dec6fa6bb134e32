package build

import (
	"context"
	"io"
	"path/filepath"
	"slices"

	"spiderpool.dev/spiderpool/test/lab/internal/image"
)

// Conformance is Kubernetes' own end-to-end tests (the program e2e.test) with their
// test server agnhost. A lab runs without it.
var Conformance = Module{Name: "conformance", Version: "k8s.io/kubernetes", Test: "k8s.io/kubernetes/test/e2e",
	Files: []string{"test/images/agnhost/porter/localhost.crt", "test/images/agnhost/porter/localhost.key"},
	Hint:  " (the first time 3 minutes on two processors)"}

// ConformancePackages are the Debian packages needed only by the images of the
// conformance tests.
var ConformancePackages = []string{"bind9-dnsutils", "netcat-openbsd"}

// conformanceRecipes are the images used by the conformance tests of networks, named
// as in the output of `e2e.test --list-images`.
var conformanceRecipes = []recipe{
	{"registry.k8s.io/e2e-test-images/agnhost:2.63.0", agnhost},
	{"registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0", dnsTools},
	{"registry.k8s.io/e2e-test-images/nginx:1.15-4", nginx},
	{"registry.k8s.io/pause:3.10.2", pause},
}

// Suite creates a directory with links to e2e.test and to the archives of its images,
// and returns it.
func (c Cache) Suite(ctx context.Context, programs map[string]string, log io.Writer) (string, error) {
	archives, err := c.images(ctx, conformanceRecipes, programs, log)
	if err != nil {
		return "", err
	}
	return c.links("suite", append(archives, filepath.Join(programs[Conformance.Name], "e2e.test")))
}

// dnsTools is Debian with dig. It tests how the C library reads resolv.conf.
func dnsTools(Inputs) (image.Spec, error) {
	adds, err := testShell()
	return image.Spec{Add: adds, Cmd: []string{"/bin/sh"}, Env: []string{"PATH=/usr/bin:/bin"}}, err
}

// agnhost is the test server plus the tools that the conformance tests of networks
// run in its image. The project's own image has these tools from Alpine.
func agnhost(in Inputs) (image.Spec, error) {
	adds, err := testShell("/usr/bin/curl", "/bin/nc.openbsd")
	adds = append(adds,
		image.Add{Source: filepath.Join(in.Programs[Conformance.Name], "agnhost"), Destination: "/agnhost"},
		// The command porter serves TLS with this certificate.
		image.Add{Source: filepath.Join(in.Programs[Conformance.Name], "localhost.crt"), Destination: "/localhost.crt"},
		image.Add{Source: filepath.Join(in.Programs[Conformance.Name], "localhost.key"), Destination: "/localhost.key"},
		image.Add{Link: "/usr/bin/nc.openbsd", Destination: "/bin/nc"},
		// The command netexec stores uploads here.
		image.Add{Directory: true, Destination: "/uploads"})
	return image.Spec{Add: adds, Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: []string{"PATH=/usr/bin:/bin"}}, err
}

// testShell is Debian's dash with the tools common to both test images and further
// programs. Unlike busybox's shell, it runs the tools in PATH, not built-in ones.
func testShell(programs ...string) ([]image.Add, error) {
	sh, err := dynamic("/bin", "/bin/dash")
	if err != nil {
		return nil, err
	}
	tools, err := dynamic("/usr/bin", append(programs, "/usr/bin/dig", "/usr/bin/getent")...)
	return slices.Concat(shell(), sh, tools, []image.Add{
		{Link: "dash", Destination: "/bin/sh"},
		{Link: "/bin/busybox", Destination: "/bin/seq"},
	}), err
}
