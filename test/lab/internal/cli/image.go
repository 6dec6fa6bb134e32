package cli

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/test/lab/internal/image"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Build container images and load them into registries"}
	cmd.AddCommand(imageBuildCommand(), imageLoadCommand(), imagePushCommand())
	return cmd
}

func imageBuildCommand() *cobra.Command {
	var spec image.Spec
	var to target
	var base string
	var adds, links, labels []string
	cmd := &cobra.Command{
		Use:   "build --tag NAME --add SRC:DST[:MODE]... -o FILE",
		Short: "Build an image from files, without a Docker daemon",
		Long: `Build an image from files of this machine and write it as an archive for
"lab image load" or "docker load". Identical files give an identical digest.
The format oci holds several architectures, and the command prints its digest.`,
		Example: `  lab image build --tag example.org/agent:v1 --add bin/agent:/usr/bin/agent:755 \
    --entrypoint /usr/bin/agent --env LOG=debug -o dist/agent.tar
  lab image build --tag example.org/agent:v1 --format oci --arch amd64,arm64 \
    --add 'bin/{arch}/agent:/usr/bin/agent:755' -o dist/agent.oci.tar`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := describe(&spec, adds, links, labels); err != nil {
				return err
			}
			return buildImage(cmd.OutOrStdout(), spec, base, to)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&to.tag, "tag", "", "name of the image, with a tag (required)")
	flags.StringVarP(&to.file, "output", "o", "", "archive to write (required)")
	flags.StringVar(&to.format, "format", formatDocker, "docker for one architecture, oci for several")
	flags.StringSliceVar(&to.architectures, "arch", []string{runtime.GOARCH}, "architectures of the programs, e.g. amd64,arm64; \"{arch}\" in SRC stands for each")
	flags.StringVar(&base, "base", "", "base image: an archive, an OCI layout or a root file system")
	flags.StringArrayVar(&adds, "add", nil, "SRC:DST[:MODE], a file, or the contents of a directory; MODE is octal; repeatable")
	flags.StringArrayVar(&links, "link", nil, "TARGET:PATH, a symbolic link; repeatable")
	flags.StringArrayVar(&spec.Entrypoint, "entrypoint", nil, "program and its first arguments; repeat the flag for each")
	flags.StringArrayVar(&spec.Cmd, "cmd", nil, "default arguments; repeat the flag for each")
	flags.StringArrayVar(&spec.Env, "env", nil, "KEY=VALUE; repeatable")
	flags.StringArrayVar(&labels, "label", nil, "KEY=VALUE; repeatable")
	flags.StringVar(&spec.WorkingDir, "workdir", "", "working directory")
	flags.StringVar(&spec.User, "user", "", "user or user:group")
	for _, name := range []string{"tag", "output"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	return cmd
}

// describe adds the files, symbolic links and labels of the command line to the image.
func describe(spec *image.Spec, adds, links, labels []string) error {
	for _, text := range adds {
		add, err := image.ParseAdd(text)
		if err != nil {
			return err
		}
		spec.Add = append(spec.Add, add)
	}
	for _, text := range links {
		target, path, ok := strings.Cut(text, ":")
		if !ok || target == "" || !strings.HasPrefix(path, "/") {
			return fmt.Errorf("--link %q: want TARGET:PATH with an absolute path, e.g. /bin/busybox:/bin/sh", text)
		}
		spec.Add = append(spec.Add, image.Add{Link: target, Destination: path})
	}
	spec.Labels = map[string]string{}
	for _, text := range labels {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return fmt.Errorf("--label %q: want KEY=VALUE", text)
		}
		spec.Labels[key] = value
	}
	return nil
}

func imagePushCommand() *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "push --to HOST/PATH ARCHIVE...",
		Short: "Push images to any registry, with the credentials of docker login",
		Long: `Push the images of docker or OCI archives to a registry. The host and path replace
the host in an image's name. The connection uses TLS, except to this machine and to
private addresses (RFC 1918).`,
		Example: `  lab image push --to registry.example.com/team dist/images/*.tar`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, archive := range args {
				names, err := image.Push(cmd.Context(), archive, to)
				for _, name := range names {
					fmt.Fprintln(cmd.OutOrStdout(), "pushed", name)
				}
				if err != nil {
					return fmt.Errorf("push %s: %w", archive, err)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "host of the registry, with a port and a path if needed (required)")
	if err := cmd.MarkFlagRequired("to"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// The formats of "lab image build".
const (
	formatDocker = "docker"
	formatOCI    = "oci"
)

// target says which archive "lab image build" writes.
type target struct {
	tag, file, format string
	architectures     []string
}

func (t target) validate() error {
	switch {
	case t.format != formatDocker && t.format != formatOCI:
		return fmt.Errorf("--format %q: want docker or oci", t.format)
	case len(t.architectures) == 0:
		return errors.New("--arch is empty; want an architecture, e.g. amd64")
	case t.format == formatDocker && len(t.architectures) > 1:
		return fmt.Errorf("--arch %s: a docker archive has one architecture; use --format oci", strings.Join(t.architectures, ","))
	}
	return nil
}

func buildImage(out io.Writer, spec image.Spec, base string, to target) (err error) {
	if err := to.validate(); err != nil {
		return err
	}
	if base != "" {
		images, closeImages, openErr := image.Open(base)
		defer func() { err = errors.Join(err, closeImages()) }()
		if openErr != nil {
			return fmt.Errorf("--base: %w", openErr)
		}
		if len(images) != 1 {
			return fmt.Errorf("--base %s has %d images, want one", base, len(images))
		}
		spec.Base = images[0].Image
	}
	var built []v1.Image
	for _, architecture := range to.architectures {
		spec.Architecture = architecture
		img, err := image.Build(spec)
		if err != nil {
			return err
		}
		built = append(built, img)
	}
	if to.format == formatDocker {
		return image.WriteArchive(to.file, to.tag, built[0])
	}
	digest, err := image.WriteOCIArchive(to.file, to.tag, built)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, digest)
	return nil
}
