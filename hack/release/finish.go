package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// release describes the release to finish.
type release struct {
	version  string    // with a "v", e.g. v0.1.0
	commit   string    // commit of the sources
	time     time.Time // time of the commit
	dir      string    // directory of the release, with the images and the chart
	programs string    // directory with <os>-<arch>/spiderpoolctl
	url      string    // future address of the files; empty for no krew manifest
	key      *ecdsa.PrivateKey
}

// sums is the file with the checksums of all others.
const sums = "SHA256SUMS"

// finish writes all further files, and says what it did not do and why.
func (r *release) finish(out io.Writer) error {
	clis, err := r.archives()
	if err != nil {
		return err
	}
	if r.url == "" {
		fmt.Fprintln(out, "no krew manifest: set RELEASE_URL to the future address of the files, e.g. https://example.org/releases/"+r.version)
	} else if err := r.krewManifest(clis); err != nil {
		return err
	}
	images, err := openImages(r.dir)
	if err != nil {
		return err
	}
	artifacts := append(images, clis...)
	known, err := newLicences()
	if err != nil {
		return err
	}
	if err := r.licenceTexts(artifacts, known); err != nil {
		return err
	}
	if err := r.writeSBOM(artifacts, known); err != nil {
		return err
	}
	if err := r.writeProvenance(images); err != nil {
		return err
	}
	if err := r.writeSums(); err != nil {
		return err
	}
	if r.key == nil {
		fmt.Fprintln(out, "nothing is signed: set COSIGN_PRIVATE_KEY to a key, and COSIGN_PASSWORD to its password")
	} else if err := sign(filepath.Join(r.dir, sums), r.key); err != nil {
		return err
	}
	fmt.Fprintf(out, "release %s of commit %s:\n", r.version, r.commit)
	text, err := os.ReadFile(filepath.Join(r.dir, sums))
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}

// file returns the path of a file of the release, e.g. spiderpool-v0.1.0.spdx.json.
func (r *release) file(kind string) string {
	return filepath.Join(r.dir, "spiderpool-"+r.version+"."+kind)
}

// files returns the names of the regular files of the release, sorted, except the
// checksums and their signature.
func (r *release) files() (names []string, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if entry.Type().IsRegular() && !strings.HasPrefix(entry.Name(), sums) {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// writeSums writes the checksums of all files in the format of sha256sum.
func (r *release) writeSums() error {
	names, err := r.files()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, name := range names {
		digest, err := digestOf(filepath.Join(r.dir, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%s  %s\n", digest, name)
	}
	return os.WriteFile(filepath.Join(r.dir, sums), text.Bytes(), 0o644)
}

// digestOf returns the SHA-256 of a file, in hexadecimal.
func digestOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// writeJSON writes the value with the indentation of two spaces.
func writeJSON(file string, value any) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.WriteFile(file, text.Bytes(), 0o644)
}
