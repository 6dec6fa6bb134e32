package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"time"
)

// The parts of SPDX 2.3 that the SBOM has: https://spdx.github.io/spdx-spec/v2.3/.
type (
	spdxDocument struct {
		Version       string             `json:"spdxVersion"`
		DataLicense   string             `json:"dataLicense"`
		ID            string             `json:"SPDXID"`
		Name          string             `json:"name"`
		Namespace     string             `json:"documentNamespace"`
		Creation      spdxCreation       `json:"creationInfo"`
		Packages      []spdxPackage      `json:"packages"`
		Relationships []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		ID               string          `json:"SPDXID"`
		Name             string          `json:"name"`
		Version          string          `json:"versionInfo"`
		File             string          `json:"packageFileName,omitempty"`
		DownloadLocation string          `json:"downloadLocation"`
		FilesAnalyzed    bool            `json:"filesAnalyzed"` // must be present: its absence means true
		Checksums        []spdxChecksum  `json:"checksums,omitempty"`
		LicenceConcluded string          `json:"licenseConcluded"`
		LicenceDeclared  string          `json:"licenseDeclared"`
		Copyright        string          `json:"copyrightText"`
		Comment          string          `json:"comment,omitempty"`
		References       []spdxReference `json:"externalRefs,omitempty"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxReference struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelationship struct {
		Of   string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
)

const (
	noAssertion = "NOASSERTION"
	ourLicence  = "Apache-2.0"
	rootID      = "SPDXRef-spiderpool"
)

// writeSBOM lists what each artifact contains, from the build information that the Go
// linker wrote into the programs. The images have no base image and no other files.
func (r *release) writeSBOM(artifacts []*artifact, known *licences) error {
	document, err := r.sbom(artifacts, known)
	if err != nil {
		return err
	}
	return writeJSON(r.file("spdx.json"), document)
}

func (r *release) sbom(artifacts []*artifact, known *licences) (*spdxDocument, error) {
	d := &spdxDocument{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: "spiderpool-" + r.version,
		Creation: spdxCreation{Created: r.time.Format(time.RFC3339), Creators: []string{"Organization: Spiderpool", "Tool: spiderpool-release"}},
		Packages: []spdxPackage{{
			ID: rootID, Name: "spiderpool", Version: r.version, DownloadLocation: noAssertion,
			LicenceConcluded: ourLicence, LicenceDeclared: ourLicence, Copyright: noAssertion, Comment: "Commit " + r.commit,
			References: purl("pkg:golang/spiderpool.dev/spiderpool@" + r.version),
		}},
		Relationships: []spdxRelationship{{"SPDXRef-DOCUMENT", "DESCRIBES", rootID}},
	}
	modules := map[debug.Module]bool{}
	identity := sha256.New()
	for _, a := range artifacts {
		fmt.Fprintln(identity, a.name, a.digest)
		p := spdxPackage{
			ID: spdxID("Artifact", a.name), Name: a.name, Version: r.version, File: a.file, DownloadLocation: noAssertion,
			LicenceConcluded: noAssertion, LicenceDeclared: ourLicence, Copyright: noAssertion,
			Checksums: []spdxChecksum{{"SHA256", a.digest}}, Comment: "Programs: " + a.listPrograms(),
		}
		if a.image {
			p.Comment = "The checksum is the digest of the image. " + p.Comment
		}
		d.Packages = append(d.Packages, p)
		d.relate(rootID, p.ID)
		for _, module := range append(a.modules(), a.standardLibraries()...) {
			modules[module] = true
			d.relate(p.ID, spdxID("Module", module.Path+"@"+module.Version))
		}
	}
	for _, module := range sortedModules(modules) {
		ids, err := known.of(module)
		if err != nil {
			return nil, err
		}
		d.Packages = append(d.Packages, spdxPackage{
			ID: spdxID("Module", module.Path+"@"+module.Version), Name: module.Path, Version: module.Version, DownloadLocation: noAssertion,
			LicenceConcluded: noAssertion, LicenceDeclared: strings.Join(ids, " AND "), Copyright: noAssertion,
			References: purl("pkg:golang/" + module.Path + "@" + module.Version),
		})
	}
	d.Namespace = "https://spiderpool.dev/spdx/" + d.Name + "-" + hex.EncodeToString(identity.Sum(nil))
	return d, nil
}

func (d *spdxDocument) relate(whole, part string) {
	d.Relationships = append(d.Relationships, spdxRelationship{whole, "CONTAINS", part})
}

// standardLibrary is the path of Go's standard library in purls.
const standardLibrary = "stdlib"

// standardLibraries returns the standard libraries of the programs: one, unless several
// versions of Go built them.
func (a *artifact) standardLibraries() []debug.Module {
	found := map[debug.Module]bool{}
	for _, p := range a.programs {
		version, _, _ := strings.Cut(strings.TrimPrefix(p.info.GoVersion, "go"), " ")
		found[debug.Module{Path: standardLibrary, Version: version}] = true
	}
	return sortedModules(found)
}

func (a *artifact) listPrograms() string {
	var paths []string
	for _, p := range a.programs {
		paths = append(paths, p.path)
	}
	return strings.Join(paths, ", ")
}

func purl(locator string) []spdxReference {
	return []spdxReference{{"PACKAGE-MANAGER", "purl", strings.ReplaceAll(locator, "+", "%2B")}}
}

var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// spdxID returns an identifier from the characters that SPDX permits.
func spdxID(kind, name string) string {
	return "SPDXRef-" + kind + "-" + notInID.ReplaceAllString(name, "-")
}

// licenceTexts writes the licence texts of all modules in the artifacts, which many
// licences require.
func (r *release) licenceTexts(artifacts []*artifact, known *licences) error {
	modules := map[debug.Module]bool{}
	for _, a := range artifacts {
		for _, module := range append(a.modules(), a.standardLibraries()...) {
			modules[module] = true
		}
	}
	var text strings.Builder
	for _, module := range sortedModules(modules) {
		licence, err := known.text(module)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "=== %s %s\n\n%s\n\n", module.Path, module.Version, strings.TrimSpace(licence))
	}
	return os.WriteFile(r.file("licences.txt"), []byte(text.String()), 0o644)
}
