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
	Packages: []string{"./agnhost"},
	Files:    []string{"test/images/agnhost/porter/localhost.crt", "test/images/agnhost/porter/localhost.key"},
	Hint:     " (the first time 3 minutes on two processors)"}

// ConformancePackages are the Debian packages needed only by the images of the
// conformance tests.
var ConformancePackages = []string{"bind9-dnsutils", "netcat-openbsd", "wget"}

// conformanceRecipes are the images used by the tests of networks, named as in the
// output of `e2e.test --list-images`.
var conformanceRecipes = []recipe{
	{"registry.k8s.io/e2e-test-images/agnhost:2.63.0", agnhost},
	{"registry.k8s.io/e2e-test-images/busybox:1.37.0-1", dnsTools},
	{"registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0", dnsTools},
	{"registry.k8s.io/e2e-test-images/nginx:1.15-4", nginx},
	{"registry.k8s.io/e2e-test-images/regression-issue-74839:1.4", wrongPackets},
	{"registry.k8s.io/build-image/distroless-iptables:v0.9.6", connections},
	{"registry.k8s.io/pause:3.10.2", pause},
}

// Suite creates a directory with links to e2e.test, to Ginkgo, which runs it in several
// processes, and to the archives of its images, and returns it.
func (c Cache) Suite(ctx context.Context, programs map[string]string, log io.Writer) (string, error) {
	archives, err := c.images(ctx, conformanceRecipes, programs, log)
	if err != nil {
		return "", err
	}
	for _, program := range []string{"e2e.test", "ginkgo"} {
		archives = append(archives, filepath.Join(programs[Conformance.Name], program))
	}
	return c.links("suite", archives)
}

// dnsTools is Debian with dig. It tests how the C library reads resolv.conf.
func dnsTools(Inputs) (image.Spec, error) {
	adds, err := testShell()
	return image.Spec{Add: adds, Cmd: []string{"/bin/sh"}, Env: testPath}, err
}

// agnhost is the test server plus the tools that the tests of networks run in its
// image. The project's own image has these tools from Alpine.
func agnhost(in Inputs) (image.Spec, error) {
	adds, err := testShell("/usr/bin/curl", "/bin/nc.openbsd", "/bin/ss", "/bin/bash")
	adds = append(adds,
		image.Add{Source: filepath.Join(in.Programs[Conformance.Name], "agnhost"), Destination: "/agnhost"},
		// The command porter serves TLS with this certificate.
		image.Add{Source: filepath.Join(in.Programs[Conformance.Name], "localhost.crt"), Destination: "/localhost.crt"},
		image.Add{Source: filepath.Join(in.Programs[Conformance.Name], "localhost.key"), Destination: "/localhost.key"},
		// Some tests start a name server of their own.
		image.Add{Source: filepath.Join(in.Programs["cluster"], "coredns"), Destination: "/coredns"},
		image.Add{Link: "/usr/bin/nc.openbsd", Destination: "/bin/nc"},
		// The pods of sigs.k8s.io/network-policy-api start with it.
		image.Add{Link: "/usr/bin/bash", Destination: "/bin/bash"},
		// The command netexec stores uploads here.
		image.Add{Directory: true, Destination: "/uploads"})
	return image.Spec{Add: adds, Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: testPath}, err
}

// wrongPackets is a server that sends TCP packets outside of the window.
func wrongPackets(in Inputs) (image.Spec, error) {
	server := filepath.Join(in.Programs[Conformance.Name], "regression-issue-74839")
	return image.Spec{Add: append(slices.Clone(base), image.Add{Source: server, Destination: "/server"}), Entrypoint: []string{"/server"}}, nil
}

// connections is a shell with conntrack.
func connections(Inputs) (image.Spec, error) {
	adds, err := testShell("/usr/sbin/conntrack")
	return image.Spec{Add: adds, Env: testPath}, err
}

var testPath = []string{"PATH=/usr/bin:/bin"}

// testShell is Debian's dash with the tools common to the test images and further
// programs. Unlike busybox's shell, it runs the tools in PATH, not built-in ones. wget is
// the one of GNU, because Debian's busybox 1.35 crashes with its option -T.
func testShell(programs ...string) ([]image.Add, error) {
	sh, err := dynamic("/bin", "/bin/dash")
	if err != nil {
		return nil, err
	}
	tools, err := dynamic("/usr/bin", append(programs, "/usr/bin/dig", "/usr/bin/getent", "/usr/bin/wget")...)
	adds := slices.Concat(shell(), sh, tools, []image.Add{{Link: "dash", Destination: "/bin/sh"}})
	for _, applet := range []string{"dd", "seq", "which"} {
		adds = append(adds, image.Add{Link: "/bin/busybox", Destination: "/bin/" + applet})
	}
	return adds, err
}
