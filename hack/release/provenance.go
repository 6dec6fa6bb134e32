package main

import (
	"path/filepath"
	"runtime"
	"strings"
)

// The in-toto statement (https://github.com/in-toto/attestation) with the predicate of
// SLSA (https://slsa.dev/spec/v1.0/provenance).
type (
	statement struct {
		Type          string         `json:"_type"`
		Subject       []subject      `json:"subject"`
		PredicateType string         `json:"predicateType"`
		Predicate     slsaProvenance `json:"predicate"`
	}
	subject struct {
		Name   string            `json:"name,omitempty"`
		URI    string            `json:"uri,omitempty"`
		Digest map[string]string `json:"digest"`
	}
	slsaProvenance struct {
		Definition buildDefinition `json:"buildDefinition"`
		Details    runDetails      `json:"runDetails"`
	}
	buildDefinition struct {
		Type         string            `json:"buildType"`
		External     map[string]string `json:"externalParameters"`
		Internal     map[string]string `json:"internalParameters"`
		Dependencies []subject         `json:"resolvedDependencies"`
	}
	runDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
	}
)

const (
	buildType = "https://spiderpool.dev/release/make-release/v1"
	// builder is the same everywhere, because the same commit must give the same file.
	// It makes no claim about the machine: anyone can repeat the build and compare.
	builder = "https://spiderpool.dev/release/reproducible"
)

// writeProvenance says which commit and which version of Go made the files of the
// directory and the images. It has no time of the build and no name of the machine.
func (r *release) writeProvenance(images []*artifact) error {
	s := statement{Type: "https://in-toto.io/Statement/v1", PredicateType: "https://slsa.dev/provenance/v1"}
	names, err := r.files()
	if err != nil {
		return err
	}
	for _, name := range names {
		digest, err := digestOf(filepath.Join(r.dir, name))
		if err != nil {
			return err
		}
		s.Subject = append(s.Subject, subject{Name: name, Digest: map[string]string{"sha256": digest}})
	}
	for _, image := range images {
		s.Subject = append(s.Subject, subject{Name: image.name, Digest: map[string]string{"sha256": image.digest}})
	}
	s.Predicate.Definition = buildDefinition{
		Type:     buildType,
		External: map[string]string{"version": r.version},
		Internal: map[string]string{"command": "make release", "go": strings.Fields(runtime.Version())[0]},
		Dependencies: []subject{{
			URI: "git+https://spiderpool.dev/spiderpool", Digest: map[string]string{"gitCommit": r.commit},
		}},
	}
	s.Predicate.Details.Builder.ID = builder
	return writeJSON(r.file("intoto.json"), s)
}
