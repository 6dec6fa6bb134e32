package build

import (
	"context"
	"io"
	"path/filepath"
	"slices"

	"spiderpool.dev/spiderpool/test/lab/internal/image"
)

// Conformance is Kubernetes' own end-to-end tests as the program e2e.test, and
// agnhost, which they test with. The lab does without it.
var Conformance = Module{Name: "conformance", Version: "k8s.io/kubernetes", Test: "k8s.io/kubernetes/test/e2e",
	Files: []string{"test/images/agnhost/porter/localhost.crt", "test/images/agnhost/porter/localhost.key"},
	Hint:  " (the first time 3 minutes on two processors)"}

// ConformancePackages are the Debian packages whose programs are in the images of
// the conformance tests and not of the lab.
var ConformancePackages = []string{"bind9-dnsutils", "netcat-openbsd"}

// conformanceRecipes are the images that the conformance tests of networks ask
// for, under the names that `e2e.test --list-images` says.
var conformanceRecipes = []recipe{
	{"registry.k8s.io/e2e-test-images/agnhost:2.63.0", agnhost},
	{"registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0", dnsTools},
	{"registry.k8s.io/e2e-test-images/nginx:1.15-4", nginx},
	{"registry.k8s.io/pause:3.10.2", pause},
}

// Suite makes a directory that has e2e.test and the archives of its images in it,
// as links, and returns it.
func (c Cache) Suite(ctx context.Context, programs map[string]string, log io.Writer) (string, error) {
	archives, err := c.images(ctx, conformanceRecipes, programs, log)
	if err != nil {
		return "", err
	}
	return c.links("suite", append(archives, filepath.Join(programs[Conformance.Name], "e2e.test")))
}

// dnsTools is a Debian with dig, for what the C library makes of resolv.conf.
func dnsTools(Inputs) (image.Spec, error) {
	adds, err := testShell()
	return image.Spec{Add: adds, Cmd: []string{"/bin/sh"}, Env: []string{"PATH=/usr/bin:/bin"}}, err
}

// agnhost is the program with the tools that the conformance tests of networks call
// in its image. The project's own image has them from Alpine.
func agnhost(in Inputs) (image.Spec, error) {
	adds, err := testShell("/usr/bin/curl", "/bin/nc.openbsd")
	adds = append(adds,
		image.Add{Source: filepath.Join(in.Programs[Conformance.Name], "agnhost"), Destination: "/agnhost"},
		// porter serves TLS with them.
		image.Add{Source: filepath.Join(in.Programs[Conformance.Name], "localhost.crt"), Destination: "/localhost.crt"},
		image.Add{Source: filepath.Join(in.Programs[Conformance.Name], "localhost.key"), Destination: "/localhost.key"},
		image.Add{Link: "/usr/bin/nc.openbsd", Destination: "/bin/nc"},
		// netexec keeps what is sent to it there.
		image.Add{Directory: true, Destination: "/uploads"})
	return image.Spec{Add: adds, Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: []string{"PATH=/usr/bin:/bin"}}, err
}

// testShell is Debian's shell, which takes the tools from where they are rather
// than its own, with what both images for tests have, and further programs.
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
