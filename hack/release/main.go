// Release finishes a release that hack/release.sh has built, and checks licences.
//
//	release finish --version v0.1.0 --commit … --programs dist/release-build dist/release
//	release extract --platform linux/arm64 dist/release /tmp/arm64
//	release licences ../.. ../../test/hubble
//
// "finish" adds to the directory of the release: the archives of spiderpoolctl, the
// manifest of the krew plugin, the texts of all licences, the SBOM, the provenance and
// the checksums. It signs the checksums if the environment has a key.
//
// "extract" writes the files of all images for a platform, and prints their entrypoints.
//
// "licences" checks that the licence of each module in the programs of the directories
// is permitted.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("want a command: finish, extract or licences")
	}
	switch args[0] {
	case "finish":
		return finishCommand(args[1:], out)
	case "extract":
		return extractCommand(args[1:], out)
	case "licences":
		return checkLicences(args[1:], out)
	}
	return fmt.Errorf("unknown command %q; want finish, extract or licences", args[0])
}

func finishCommand(args []string, out io.Writer) error {
	var r release
	flags := flag.NewFlagSet("finish", flag.ContinueOnError)
	flags.StringVar(&r.version, "version", "", "version, e.g. v0.1.0")
	flags.StringVar(&r.commit, "commit", "", "commit of the sources, 40 hexadecimal digits")
	flags.StringVar(&r.programs, "programs", "", "directory with <os>-<arch>/spiderpoolctl")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if r.version == "" || r.commit == "" || r.programs == "" || flags.NArg() != 1 {
		return errors.New("finish: want --version, --commit, --programs and the directory of the release")
	}
	r.dir = flags.Arg(0)
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH=%q: want the seconds since 1970 of the commit: %w", os.Getenv("SOURCE_DATE_EPOCH"), err)
	}
	r.time = time.Unix(seconds, 0).UTC()
	r.url = os.Getenv("RELEASE_URL")
	key := os.Getenv("COSIGN_PRIVATE_KEY")
	if key != "" {
		if r.key, err = parseKey([]byte(key), []byte(os.Getenv("COSIGN_PASSWORD"))); err != nil {
			return fmt.Errorf("COSIGN_PRIVATE_KEY: %w", err)
		}
	}
	return r.finish(out)
}
