package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

// newRelease returns a release with one image for two platforms and spiderpoolctl for
// two. Their programs are this test.
func newRelease(t *testing.T, further ...member) *release {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	r := &release{version: "v1.2.3", commit: strings.Repeat("a1", 20), time: time.Unix(1_700_000_000, 0).UTC(), dir: t.TempDir(), programs: t.TempDir()}
	for _, platform := range []string{"linux-amd64", "windows-arm64"} {
		write(t, filepath.Join(r.programs, platform, "spiderpoolctl"), content)
	}
	write(t, filepath.Join(r.dir, "LICENSE"), []byte("licence"))
	writeImage(t, filepath.Join(r.dir, "app-v1.2.3.oci.tar"), append(further, member{"usr/bin/app", 0o755, content}, member{"licenses/LICENSE", 0o644, []byte("licence")}))
	return r
}

func write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// writeImage writes an OCI archive with the files for linux/amd64 and linux/arm64.
func writeImage(t *testing.T, file string, files []member) {
	t.Helper()
	var content bytes.Buffer
	if err := writeTar(&content, files); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	var index v1.ImageIndex = empty.Index
	for _, architecture := range []string{"amd64", "arm64"} {
		img, err := mutate.AppendLayers(empty.Image, layer)
		if err != nil {
			t.Fatal(err)
		}
		img, err = mutate.ConfigFile(img, configOf(t, img, architecture))
		if err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}}})
	}
	dir := t.TempDir()
	to, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := to.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "registry.example/app:v1.2.3"})); err != nil {
		t.Fatal(err)
	}
	archive, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	w := tar.NewWriter(archive)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// configOf returns the configuration of the image with a platform and an entrypoint.
func configOf(t *testing.T, img v1.Image, architecture string) *v1.ConfigFile {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture, config.Config.Entrypoint = "linux", architecture, []string{"/usr/bin/app"}
	return config
}

func writeTar(out io.Writer, files []member) error {
	archive := tar.NewWriter(out)
	for _, m := range files {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: int64(m.mode), Size: int64(len(m.content))}); err != nil {
			return err
		}
		if _, err := archive.Write(m.content); err != nil {
			return err
		}
	}
	return archive.Close()
}

func TestSameInputsGiveSameFiles(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var files [2]map[string][]byte
	first := newRelease(t)
	for i := range files {
		r := newRelease(t)
		// The archives of the test have times, so both releases get the same one.
		image, err := os.ReadFile(filepath.Join(first.dir, "app-v1.2.3.oci.tar"))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(r.dir, "app-v1.2.3.oci.tar"), image)
		r.key, r.url = key, "https://example.org/v1.2.3/"
		if err := r.finish(io.Discard); err != nil {
			t.Fatal(err)
		}
		files[i] = map[string][]byte{}
		entries, err := os.ReadDir(r.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if files[i][entry.Name()], err = os.ReadFile(filepath.Join(r.dir, entry.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []string{
		"LICENSE", "SHA256SUMS", "SHA256SUMS.sig", "app-v1.2.3.oci.tar", "krew-spiderpool.yaml", "spiderpool-v1.2.3.intoto.json",
		"spiderpool-v1.2.3.licences.txt", "spiderpool-v1.2.3.spdx.json", "spiderpoolctl-v1.2.3-linux-amd64.tar.gz", "spiderpoolctl-v1.2.3-windows-arm64.zip",
	}
	for _, name := range want {
		if len(files[0][name]) == 0 || !bytes.Equal(files[0][name], files[1][name]) {
			t.Errorf("%s is missing or differs: %d and %d bytes", name, len(files[0][name]), len(files[1][name]))
		}
	}
	if len(files[0]) != len(want) {
		t.Errorf("the release has %d files, want %q", len(files[0]), want)
	}
}

func TestFinishedRelease(t *testing.T) {
	r := newRelease(t)
	var out bytes.Buffer
	if err := r.finish(&out); err != nil {
		t.Fatal(err)
	}
	t.Run("is unsigned without a key", func(t *testing.T) { checkUnsigned(t, r, out.String()) })
	t.Run("lists the modules of every artifact", func(t *testing.T) { checkSBOM(t, r) })
	t.Run("names every file in the provenance", func(t *testing.T) { checkProvenance(t, r) })
	t.Run("has archives with program and licence", func(t *testing.T) { checkArchive(t, r) })
}

func checkUnsigned(t *testing.T, r *release, out string) {
	if _, err := os.Stat(filepath.Join(r.dir, sums+".sig")); !os.IsNotExist(err) || !strings.Contains(out, "nothing is signed") {
		t.Errorf("signature: %v, output %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(r.dir, "krew-spiderpool.yaml")); !os.IsNotExist(err) || !strings.Contains(out, "no krew manifest") {
		t.Errorf("manifest: %v, output %s", err, out)
	}
}

func checkSBOM(t *testing.T, r *release) {
	var got spdxDocument
	readJSON(t, r.file("spdx.json"), &got)
	packages := map[string]spdxPackage{}
	for _, p := range got.Packages {
		if _, ok := packages[p.ID]; ok {
			t.Errorf("the identifier %s occurs twice", p.ID)
		}
		packages[p.ID] = p
	}
	contains := map[string][]string{}
	for _, relation := range got.Relationships {
		if packages[relation.To].ID == "" {
			t.Errorf("%+v names no package", relation)
		}
		contains[relation.Of] = append(contains[relation.Of], packages[relation.To].Name)
	}
	image := contains[rootID]
	slices.Sort(image)
	if want := []string{"registry.example/app:v1.2.3", "spiderpoolctl-v1.2.3-linux-amd64.tar.gz", "spiderpoolctl-v1.2.3-windows-arm64.zip"}; !cmp.Equal(image, want) {
		t.Errorf("the release contains %q, want %q", image, want)
	}
	parts := contains[spdxID("Artifact", "registry.example/app:v1.2.3")]
	for _, want := range []string{"github.com/google/go-containerregistry", standardLibrary} {
		if !slices.Contains(parts, want) {
			t.Errorf("the image contains %q, want %s", parts, want)
		}
	}
	if p := packages["SPDXRef-Module-github.com-google-licensecheck-v0.3.1"]; p.LicenceDeclared != "BSD-3-Clause" {
		t.Errorf("licensecheck is %+v", p)
	}
}

func checkProvenance(t *testing.T, r *release) {
	var got statement
	readJSON(t, r.file("intoto.json"), &got)
	digests := map[string]string{}
	for _, s := range got.Subject {
		digests[s.Name] = s.Digest["sha256"]
	}
	names, err := r.files()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if name == filepath.Base(r.file("intoto.json")) {
			continue
		}
		if want, err := digestOf(filepath.Join(r.dir, name)); err != nil || digests[name] != want {
			t.Errorf("%s has the digest %s, want %s, %v", name, digests[name], want, err)
		}
	}
	if digests["registry.example/app:v1.2.3"] == "" || got.Predicate.Definition.Dependencies[0].Digest["gitCommit"] != r.commit {
		t.Errorf("got %+v", got)
	}
}

func readJSON(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Fatal(err)
	}
}

func TestExtractedImageHasItsFiles(t *testing.T) {
	r, dir := newRelease(t), t.TempDir()
	var out bytes.Buffer
	if err := run([]string{"extract", "--platform", "linux/arm64", r.dir, dir}, &out); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "app-v1.2.3", "usr", "bin", "app")
	if out.String() != program+"\n" {
		t.Errorf("entrypoints %q, want %s", out.String(), program)
	}
	for file, want := range map[string]os.FileMode{program: 0o755, filepath.Join(dir, "app-v1.2.3", "licenses", "LICENSE"): 0o644} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want the mode %v", file, info, err, want)
		}
	}
	if err := run([]string{"extract", "--platform", "linux/riscv64", r.dir, dir}, &out); err == nil || !strings.Contains(err.Error(), "it has no image for linux/riscv64") {
		t.Errorf("got %v", err)
	}
}

func TestImageWithOtherFilesIsRefused(t *testing.T) {
	r := newRelease(t, member{"etc/secret", 0o644, []byte("x")})
	if err := r.finish(io.Discard); err == nil || !strings.Contains(err.Error(), "etc/secret is no Go program") {
		t.Errorf("got %v", err)
	}
}

func checkArchive(t *testing.T, r *release) {
	archive, err := zip.OpenReader(filepath.Join(r.dir, "spiderpoolctl-v1.2.3-windows-arm64.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	var names []string
	for _, f := range archive.File {
		names = append(names, f.Mode().String()+" "+f.Name)
	}
	if want := []string{"-rw-r--r-- LICENSE", "-rwxr-xr-x spiderpoolctl.exe"}; !cmp.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

// keys are the forms of one key that COSIGN_PRIVATE_KEY may have.
func TestEveryFormOfKeySigns(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cosign, err := encrypted.Encrypt(pkcs8, []byte("password"))
	if err != nil {
		t.Fatal(err)
	}
	for kind, der := range map[string][]byte{"PRIVATE KEY": pkcs8, "EC PRIVATE KEY": sec1, "ENCRYPTED SIGSTORE PRIVATE KEY": cosign} {
		parsed, err := parseKey(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), []byte("password"))
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		file := filepath.Join(t.TempDir(), sums)
		write(t, file, []byte("text"))
		if err := sign(file, parsed); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file + ".sig")
		if err != nil {
			t.Fatal(err)
		}
		signed, err := base64.StdEncoding.DecodeString(string(text))
		digest := sha256.Sum256([]byte("text"))
		if err != nil || !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signed) {
			t.Errorf("%s: the signature %s does not verify: %v", kind, text, err)
		}
	}
}

func TestUnusableKeyIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no PEM": "cosign.key", "certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"no key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	} {
		if key, err := parseKey([]byte(text), nil); err == nil {
			t.Errorf("%s: got %+v, want an error", name, key)
		}
	}
}

func TestOnlyPermittedLicencesPass(t *testing.T) {
	known := &licences{modules: t.TempDir(), seen: map[string][]string{}}
	texts := map[string]string{
		"none": "", "unknown": "All rights reserved.",
		"beer": `"THE BEER-WARE LICENSE" (Revision 42): <phk@FreeBSD.ORG> wrote this file. As long as you retain this notice you can do whatever you want with this stuff.
			If we meet some day, and you think this stuff is worth it, you can buy me a beer in return Poul-Henning Kamp`,
	}
	for path, text := range texts {
		if text != "" {
			write(t, filepath.Join(known.modules, "example.org", path+"@v1.0.0", "LICENSE"), []byte(text))
		}
		if ids, err := known.of(debug.Module{Path: "example.org/" + path, Version: "v1.0.0"}); err == nil {
			t.Errorf("%s: got %q, want an error", path, ids)
		}
	}
	isc := "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted, provided that the above " +
		"copyright notice and this permission notice appear in all copies.\n\nTHE SOFTWARE IS PROVIDED \"AS IS\" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO " +
		"THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR " +
		"CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS " +
		"ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.\n"
	write(t, filepath.Join(known.modules, "example.org/fine@v1.0.0", "LICENSE"), []byte(isc))
	if ids, err := known.of(debug.Module{Path: "example.org/fine", Version: "v1.0.0"}); err != nil || !slices.Equal(ids, []string{"ISC"}) {
		t.Errorf("got %q, %v", ids, err)
	}
}
