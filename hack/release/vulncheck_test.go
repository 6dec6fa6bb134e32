package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// vulnerabilities writes a database (https://go.dev/doc/security/vuln/database) whose vulnerabilities are in functions of
// the standard library, by identifier and "package.Function".
func vulnerabilities(t *testing.T, of map[string]string) string {
	t.Helper()
	const at = "2026-01-01T00:00:00Z"
	dir := t.TempDir()
	put := func(name string, value any) {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name+".json"), text)
	}
	var index []map[string]string
	for id, function := range of {
		index = append(index, map[string]string{"id": id, "modified": at})
		dot := strings.LastIndex(function, ".")
		put(filepath.Join("ID", id), map[string]any{
			"schema_version": "1.3.1", "id": id, "modified": at, "published": at, "summary": "of the test", "details": "of the test",
			"affected": []any{map[string]any{
				"package":            map[string]string{"name": "stdlib", "ecosystem": "Go"},
				"ranges":             []any{map[string]any{"type": "SEMVER", "events": []any{map[string]string{"introduced": "0"}}}},
				"ecosystem_specific": map[string]any{"imports": []any{map[string]any{"path": function[:dot], "symbols": []string{function[dot+1:]}}}},
			}},
			"database_specific": map[string]string{"url": "https://example.org/" + id, "review_status": "REVIEWED"},
		})
	}
	put("index/db", map[string]string{"modified": at})
	put("index/modules", []any{map[string]any{"path": "stdlib", "vulns": index}})
	return "file://" + dir
}

// cni-install creates files by os.CreateTemp, and is no CGI program.
func TestOnlyReachedVulnerabilityFails(t *testing.T) {
	const reached, other = "GO-2026-9001", "GO-2026-9002"
	for name, c := range map[string]struct {
		database map[string]string
		fails    bool
		want     []string
	}{
		"reached":     {map[string]string{reached: "os.CreateTemp", other: "net/http/cgi.Serve"}, true, []string{reached, other, "these programs reach a vulnerability: ./cmd/cni-install"}},
		"not reached": {map[string]string{other: "net/http/cgi.Serve"}, false, []string{other, "no program reaches a vulnerability"}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), filepath.Join("..", "vulncheck.sh"), "./cmd/cni-install")
			cmd.Env = append(os.Environ(), "GOVULNDB="+vulnerabilities(t, c.database))
			out, err := cmd.CombinedOutput()
			if (err != nil) != c.fails {
				t.Errorf("the script ended with %v\n%s", err, out)
			}
			for _, want := range c.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("the output lacks %q:\n%s", want, out)
				}
			}
		})
	}
}
