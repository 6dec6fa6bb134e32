package cli

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/config"
)

// bundleOptions are the flags of support-bundle.
type bundleOptions struct {
	viewOptions
	system, output string
	logs           int
}

func newSupportBundle(now func() time.Time) *cobra.Command {
	o := bundleOptions{viewOptions: viewOptions{now: now, format: "table"}}
	cmd := &cobra.Command{
		Use:   "support-bundle",
		Short: "Write everything that an issue needs into one file",
		Long: `Write everything that an issue needs into one archive: custom resources and their definitions,
events, the workloads, configuration, logs, readiness and metrics of Spiderpool, nodes, network attachments, versions
and the findings of check. Secrets are not read, and passwords, tokens and private keys in other
objects and in logs are removed. MANIFEST.yaml in the archive lists each file, and what is missing
and why, e.g. for lack of rights. Names and addresses of pods and nodes stay: look at the archive
before you publish it. The kernel's state of a node is not in it: spiderpoolctl node prints that.`,
		Example: `  spiderpoolctl support-bundle

  spiderpoolctl support-bundle --output /tmp/issue-123.tar.gz --logs 100`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) { return o.write(ctx, cmd, r) })
		},
	}
	o.flags(cmd)
	systemFlag(cmd, &o.system)
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "name of the archive (default spiderpool-support-TIME.tar.gz)")
	cmd.Flags().IntVar(&o.logs, "logs", 20, "number of pods of Spiderpool with logs, readiness and metrics, at most")
	return cmd
}

// manifest is the table of contents of a bundle.
type manifest struct {
	Created time.Time     `json:"created"`
	Program string        `json:"program"` // spiderpoolctl with its version
	Server  string        `json:"server"`
	Files   []bundledFile `json:"files"`
	LeftOut []leftOut     `json:"leftOut"`
}

// bundledFile is a file of the bundle.
type bundledFile struct {
	Name   string `json:"name"`
	Source string `json:"source"` // a path of the API server, or a command
	Bytes  int    `json:"bytes"`
	// Removed is the number of removed secrets.
	Removed int `json:"removed,omitempty"`
	// Truncated means that the source has more.
	Truncated bool `json:"truncated,omitempty"`
}

// leftOut is a source that is not in the bundle.
type leftOut struct {
	Source string `json:"source"`
	Why    string `json:"why"`
}

// write writes the archive under a temporary name, and renames it at the end: an interrupted command leaves nothing.
func (o *bundleOptions) write(ctx context.Context, cmd *cobra.Command, r reader) (a answer, err error) {
	if o.output == "" {
		o.output = "spiderpool-support-" + o.now().UTC().Format("20060102-150405") + ".tar.gz"
	}
	if _, err := os.Stat(o.output); err == nil {
		return answer{}, fmt.Errorf("%s exists: name another file with --output", o.output)
	}
	file, err := os.CreateTemp(filepath.Dir(o.output), ".spiderpool-support-*")
	if err != nil {
		return answer{}, fmt.Errorf("create the archive: %w; name a file in a writable directory with --output", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	m, err := o.fill(ctx, file, cmd.ErrOrStderr(), r)
	if err = errors.Join(err, file.Close()); err != nil {
		return answer{}, err
	}
	if err := os.Rename(file.Name(), o.output); err != nil {
		return answer{}, errors.Join(err, os.Remove(file.Name()))
	}
	return answer{draw: func(w drawing) {
		fmt.Fprintf(w, "%s has %d files; %d sources are left out.\n", o.output, len(m.Files)+1, len(m.LeftOut))
		for _, l := range m.LeftOut {
			fmt.Fprintf(w, "%s: %s\n", l.Source, l.Why)
		}
		fmt.Fprintf(w, "\nLook at it before you publish it: it has the names and addresses of pods and nodes.\n")
	}}, nil
}

// bundle is an archive in the making.
type bundle struct {
	reader
	system   string
	out      *tar.Writer
	now      time.Time
	manifest manifest
	progress io.Writer
	began    time.Time
}

// fill collects all sources into the archive.
func (o *bundleOptions) fill(ctx context.Context, file, progress io.Writer, r reader) (manifest, error) {
	zipped := gzip.NewWriter(file)
	b := &bundle{
		reader: r, system: o.system, out: tar.NewWriter(zipped), now: o.now().UTC(), progress: progress, began: time.Now(),
		manifest: manifest{Created: o.now().UTC(), Program: "spiderpoolctl " + config.Version, Server: r.server, LeftOut: []leftOut{}},
	}
	sources, err := b.sources(ctx, o)
	if err != nil {
		return manifest{}, err
	}
	for i, s := range sources {
		b.report(i, len(sources), s.file)
		if err := b.collect(ctx, s); err != nil {
			return manifest{}, err
		}
	}
	b.leave("nodes: links, routes and packet filters", "the API server does not know the kernel; run spiderpoolctl node in the agent of the node")
	text, err := yaml.Marshal(b.manifest)
	if err == nil {
		err = b.add("MANIFEST.yaml", text)
	}
	return b.manifest, errors.Join(err, b.out.Close(), zipped.Close())
}

// report tells the progress once a second has passed.
func (b *bundle) report(done, all int, next string) {
	spent := time.Since(b.began)
	if spent < time.Second || done == 0 {
		return
	}
	left := spent / time.Duration(done) * time.Duration(all-done)
	fmt.Fprintf(b.progress, "%d of %d, about %s left: %s\n", done, all, left.Round(time.Second), next)
}

// collect adds a source, or notes why it is missing. Only a context that ended and a failed write of the archive are
// errors.
func (b *bundle) collect(ctx context.Context, s source) error {
	text, more, err := s.read(ctx)
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted, and no archive is left: %w", ctx.Err())
	}
	if err != nil {
		b.leave(s.from, reason(err))
		return nil
	}
	var r redactor
	clean := text
	if s.json {
		if clean, err = r.object(text); err != nil {
			b.leave(s.from, "it is no JSON, or too large: "+err.Error())
			return nil
		}
	} else {
		clean = []byte(r.text(string(text)))
	}
	b.manifest.Files = append(b.manifest.Files, bundledFile{Name: s.file, Source: s.from, Bytes: len(clean), Removed: r.count, Truncated: more})
	return b.add(s.file, clean)
}

func (b *bundle) leave(source, why string) {
	b.manifest.LeftOut = append(b.manifest.LeftOut, leftOut{source, why})
}

func (b *bundle) add(name string, text []byte) error {
	header := &tar.Header{Name: "spiderpool-support/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: b.now, Typeflag: tar.TypeReg}
	if err := b.out.WriteHeader(header); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	if _, err := b.out.Write(text); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	return nil
}
