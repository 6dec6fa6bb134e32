package rpc

import (
	"path/filepath"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/test/docblocks"
)

func TestPagesShowSilentAgent(t *testing.T) {
	dir := t.TempDir()
	err := Client{Socket: filepath.Join(dir, "spiderpool.sock")}.Status(t.Context())
	if err == nil {
		t.Fatal("an agent answers")
	}
	if err := docblocks.Shows("agent-away", strings.ReplaceAll(err.Error(), dir, "/var/run/spidernet")); err != nil {
		t.Error(err)
	}
}
