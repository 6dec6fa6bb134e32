package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

// member is a file of an archive.
type member struct {
	name    string
	mode    fs.FileMode
	content []byte
}

// archives writes an archive of spiderpoolctl for each platform, in the layout of a krew
// plugin: the program and the licence. Windows gets zip, the others tar.gz.
func (r *release) archives() (written []*artifact, err error) {
	programs, err := filepath.Glob(filepath.Join(r.programs, "*-*", "spiderpoolctl"))
	if err != nil {
		return nil, err
	}
	if len(programs) == 0 {
		return nil, fmt.Errorf("%s has no <os>-<arch>/spiderpoolctl", r.programs)
	}
	licence, err := os.ReadFile(filepath.Join(r.dir, "LICENSE"))
	if err != nil {
		return nil, err
	}
	for _, file := range programs {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		info, err := buildinfo.Read(bytes.NewReader(content))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		platform := filepath.Base(filepath.Dir(file))
		name, suffix, pack := "spiderpoolctl", ".tar.gz", writeTarball
		if strings.HasPrefix(platform, "windows-") {
			name, suffix, pack = "spiderpoolctl.exe", ".zip", writeZip
		}
		a := &artifact{name: "spiderpoolctl-" + r.version + "-" + platform + suffix}
		a.file = a.name
		a.programs = []program{{path: strings.ReplaceAll(platform, "-", "/") + ":" + name, info: info}}
		var archive bytes.Buffer
		if err := pack(&archive, r.time, []member{{"LICENSE", 0o644, licence}, {name, 0o755, content}}); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(r.dir, a.file), archive.Bytes(), 0o644); err != nil {
			return nil, err
		}
		if a.digest, err = digestOf(filepath.Join(r.dir, a.file)); err != nil {
			return nil, err
		}
		written = append(written, a)
	}
	return written, nil
}

func writeTarball(out io.Writer, at time.Time, members []member) error {
	compressed := gzip.NewWriter(out)
	archive := tar.NewWriter(compressed)
	for _, m := range members {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: int64(m.mode), Size: int64(len(m.content)), ModTime: at, Format: tar.FormatUSTAR}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(m.content); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return compressed.Close()
}

func writeZip(out io.Writer, at time.Time, members []member) error {
	archive := zip.NewWriter(out)
	for _, m := range members {
		header := &zip.FileHeader{Name: m.name, Method: zip.Deflate, Modified: at}
		header.SetMode(m.mode)
		w, err := archive.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := w.Write(m.content); err != nil {
			return err
		}
	}
	return archive.Close()
}

// krewManifest writes the manifest of the plugin: https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/.
func (r *release) krewManifest(clis []*artifact) error {
	var text bytes.Buffer
	if err := krewTemplate.Execute(&text, map[string]any{"Version": r.version, "URL": strings.TrimSuffix(r.url, "/"), "Archives": clis}); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, "krew-spiderpool.yaml"), text.Bytes(), 0o644)
}

// Platform returns the operating system and the architecture of an archive.
func (a *artifact) Platform() []string {
	return strings.Split(a.programs[0].path[:strings.Index(a.programs[0].path, ":")], "/")
}

// Program returns the file name of the program in the archive.
func (a *artifact) Program() string {
	return a.programs[0].path[strings.Index(a.programs[0].path, ":")+1:]
}

// File returns the file name of the archive.
func (a *artifact) File() string { return a.file }

// Digest returns the SHA-256 of the archive.
func (a *artifact) Digest() string { return a.digest }

var krewTemplate = template.Must(template.New("krew").Parse(`apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: spiderpool
spec:
  version: {{ .Version }}
  homepage: https://spiderpool.dev
  shortDescription: Look inside the IPAM Spiderpool
  description: |
    Shows pools, addresses and their pods, explains why a pod got no address,
    traces services and network policies, and tests connectivity.
  platforms:
{{- $url := .URL }}
{{- range .Archives }}
    - selector:
        matchLabels:
          os: {{ index .Platform 0 }}
          arch: {{ index .Platform 1 }}
      uri: {{ $url }}/{{ .File }}
      sha256: {{ .Digest }}
      bin: {{ .Program }}
{{- end }}
`))
