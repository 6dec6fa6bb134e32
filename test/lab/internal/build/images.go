package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/test/lab/internal/image"
)

// PauseImage is the image of the container that holds a pod's namespaces.
const PauseImage = "registry.k8s.io/pause:3.10.1"

// CoreDNSImage is the image of the cluster's DNS server.
const CoreDNSImage = "registry.k8s.io/coredns/coredns:v1.15.0"

// MultusImage has the programs of multus' thin DaemonSet.
const MultusImage = "ghcr.io/k8snetworkplumbingwg/multus-cni:v4.2.3"

// nginxPackages are the packages of nginx. We unpack them instead of installing them,
// because their installation starts nginx on this machine.
var nginxPackages = []string{"nginx", "nginx-common"}

// Inputs are the sources of images.
type Inputs struct {
	// Programs is the output directory of each module, by module name.
	Programs map[string]string
	// Nginx is the directory of the unpacked nginx.
	Nginx string
}

// recipe is an image of the lab.
type recipe struct {
	name string
	spec func(Inputs) (image.Spec, error)
}

// recipes are all images of the lab.
var recipes = []recipe{
	{PauseImage, pause},
	{CoreDNSImage, coredns},
	{MultusImage, multus},
	{"docker.io/library/busybox:latest", busybox},
	{"docker.io/library/nginx:latest", nginx},
	{"k8s.gcr.io/e2e-test-images/echoserver:2.5", echoserver},
}

// Images builds the lab's images unless the cache has them, and returns their
// archives.
func (c Cache) Images(ctx context.Context, programs map[string]string, log io.Writer) ([]string, error) {
	return c.images(ctx, recipes, programs, log)
}

func (c Cache) images(ctx context.Context, recipes []recipe, programs map[string]string, log io.Writer) ([]string, error) {
	unpacked, err := c.Unpacked(ctx, nginxPackages, log)
	if err != nil {
		return nil, err
	}
	var archives []string
	for _, r := range recipes {
		spec, err := r.spec(Inputs{Programs: programs, Nginx: unpacked})
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", r.name, err)
		}
		archive, err := c.image(r.name, spec)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", r.name, err)
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

func (c Cache) image(name string, spec image.Spec) (string, error) {
	key, err := identity(name, spec)
	if err != nil {
		return "", err
	}
	base := strings.NewReplacer("/", "_", ":", "_").Replace(name)
	archive := filepath.Join(string(c), "images", base+"-"+key+".tar")
	if _, err := os.Stat(archive); !errors.Is(err, fs.ErrNotExist) {
		return archive, err
	}
	img, err := image.Build(spec)
	if err != nil {
		return "", err
	}
	return archive, image.WriteArchive(archive, name, img)
}

// identity hashes the image's settings and its files' names, sizes and modification
// times.
func identity(name string, spec image.Spec) (string, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %q %q %q %q\n", name, spec.Entrypoint, spec.Cmd, spec.Env, spec.User)
	for _, add := range spec.Add {
		fmt.Fprintf(&text, "%+v\n", add)
		if add.Source == "" {
			continue
		}
		err := filepath.WalkDir(add.Source, func(file string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := os.Stat(file)
			if err == nil {
				fmt.Fprintf(&text, "%s %d %s\n", file, info.Size(), info.ModTime())
			}
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return hash(strings.NewReader(text.String())), nil
}

const staticBusybox = "/bin/busybox"

// shellApplets are the usual names of the shell and its tools, for users of
// `kubectl exec`.
var shellApplets = []string{"sh", "ash", "cat", "cp", "date", "echo", "env", "false", "grep", "head", "hostname", "id", "kill",
	"ln", "ls", "mkdir", "mv", "nc", "nslookup", "ps", "rm", "sed", "sleep", "sort", "stat", "tail", "test", "timeout", "touch",
	"tr", "traceroute", "true", "uname", "wc", "wget", "xargs"}

// base has the files and directories expected in any image.
var base = []image.Add{
	{Directory: true, Destination: "/tmp", Mode: 0o1777},
	{Directory: true, Destination: "/run"},
	{Destination: "/etc/passwd", Text: "root:x:0:0:root:/root:/bin/sh\nnginx:x:101:101:nginx:/nonexistent:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n"},
	{Destination: "/etc/group", Text: "root:x:0:\nnginx:x:101:\nnogroup:x:65534:\n"},
}

func shell() []image.Add {
	adds := append([]image.Add{{Source: staticBusybox, Destination: "/bin/busybox"}}, base...)
	for _, applet := range shellApplets {
		adds = append(adds, image.Add{Link: "/bin/busybox", Destination: "/bin/" + applet})
	}
	return adds
}

// dynamic adds Debian's dynamically linked programs to a directory, and their
// libraries to the loader's paths.
func dynamic(directory string, programs ...string) ([]image.Add, error) {
	libs, err := libraries(programs...)
	if err != nil {
		return nil, err
	}
	adds := []image.Add{{Destination: "/etc/nsswitch.conf", Text: "passwd: files\ngroup: files\nhosts: files dns\n"}}
	for _, program := range programs {
		adds = append(adds, image.Add{Source: program, Destination: filepath.Join(directory, filepath.Base(program))})
	}
	for _, lib := range libs {
		adds = append(adds, image.Add{Source: lib, Destination: lib})
	}
	return adds, nil
}

func pause(in Inputs) (image.Spec, error) {
	return image.Spec{
		Add:        []image.Add{{Source: filepath.Join(in.Programs["pause"], "pause"), Destination: "/pause"}},
		Entrypoint: []string{"/pause"},
	}, nil
}

func coredns(in Inputs) (image.Spec, error) {
	return image.Spec{
		Add:        []image.Add{{Source: filepath.Join(in.Programs["cluster"], "coredns"), Destination: "/coredns"}},
		Entrypoint: []string{"/coredns"},
	}, nil
}

func echoserver(in Inputs) (image.Spec, error) {
	return image.Spec{
		Add:        append(shell(), image.Add{Source: filepath.Join(in.Programs["echoserver"], "echoserver"), Destination: "/usr/bin/echoserver"}),
		Entrypoint: []string{"/usr/bin/echoserver"},
	}, nil
}

// multus has the layout of the project's own image, without the programs of the thick
// DaemonSet. These are three quarters of the image, and every node would unpack them.
func multus(in Inputs) (image.Spec, error) {
	const programs = "/usr/src/multus-cni/bin/"
	add := append(shell(),
		// install_multus requires this name.
		image.Add{Link: "passthru-cni", Destination: programs + "passthru"},
		image.Add{Link: programs + "thin_entrypoint", Destination: "/thin_entrypoint"},
		image.Add{Link: programs + "install_multus", Destination: "/install_multus"})
	for _, program := range []string{"multus", "passthru-cni", "thin_entrypoint", "install_multus"} {
		add = append(add, image.Add{Source: filepath.Join(in.Programs["cluster"], program), Destination: programs + program})
	}
	return image.Spec{
		Add:        add,
		Entrypoint: []string{"/thin_entrypoint"},
		Env:        []string{"PATH=/bin:/usr/bin"},
	}, nil
}

func busybox(Inputs) (image.Spec, error) {
	return image.Spec{Add: append(shell(), image.Add{Link: "/bin/busybox", Destination: "/bin/ping"}), Cmd: []string{"sh"},
		Env: []string{"PATH=/bin"}}, nil
}

// nginx is Debian's nginx, set up like the official image, with the tools used by the
// guides.
func nginx(in Inputs) (image.Spec, error) {
	server, err := dynamic("/usr/sbin", filepath.Join(in.Nginx, "usr/sbin/nginx"))
	if err != nil {
		return image.Spec{}, err
	}
	tools, err := dynamic("/usr/bin", "/usr/bin/curl", "/bin/ping", "/bin/ip")
	if err != nil {
		return image.Spec{}, err
	}
	adds := slices.Concat(shell(), server, tools, []image.Add{
		{Source: filepath.Join(in.Nginx, "etc/nginx/mime.types"), Destination: "/etc/nginx/mime.types"},
		{Source: filepath.Join(in.Nginx, "usr/share/nginx/html"), Destination: "/usr/share/nginx/html"},
		{Destination: "/etc/nginx/nginx.conf", Text: nginxConfig},
		{Directory: true, Destination: "/var/log/nginx"},
		{Directory: true, Destination: "/var/lib/nginx"},
		{Link: "/usr/bin/ping", Destination: "/usr/bin/ping6"},
	})
	return image.Spec{Add: adds, Entrypoint: []string{"/usr/sbin/nginx"}, Cmd: []string{"-g", "daemon off;"},
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}}, nil
}

const nginxConfig = `user nginx;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 256; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout combined;
    sendfile on;
    keepalive_timeout 65;
    server {
        listen 80;
        listen [::]:80;
        root /usr/share/nginx/html;
        index index.html;
    }
}
`
