package plugin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

func TestErrorsGetCodes(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want uint
	}{
		"agent's":    {&wire.Error{Code: wire.CodeNoAddress}, wire.CodeNoAddress},
		"CNI":        {types.NewError(wire.CodeConflict, "", ""), wire.CodeConflict},
		"field":      {fmt.Errorf("add: %w", &netplan.FieldError{Field: "mode"}), wire.CodeInvalidConfig},
		"other":      {errors.New("other"), wire.CodeInternal},
		"bad JSON":   {Decode([]byte("{"), &struct{}{}), wire.CodeDecodingFailure},
		"no pod":     {second((&Call{CmdArgs: &skel.CmdArgs{Args: "K8S_POD_NAME=a"}}).Attachment()), wire.CodeInvalidEnvironment},
		"bad args":   {second((&Call{CmdArgs: &skel.CmdArgs{Args: "K8S_POD_NAME"}}).Attachment()), wire.CodeInvalidEnvironment},
		"no result":  {second((&Call{}).Previous()), wire.CodeInvalidConfig},
		"bad result": {second((&Call{PluginConf: types.PluginConf{CNIVersion: "9", RawPrevResult: map[string]any{"ips": 1}}}).Previous()), wire.CodeDecodingFailure},
	} {
		t.Run(name, func(t *testing.T) {
			var got *types.Error
			if err := coded(c.err); !errors.As(err, &got) || got.Code != c.want {
				t.Errorf("got %v, want code %d", err, c.want)
			}
		})
	}
	if coded(nil) != nil {
		t.Error("success becomes an error")
	}
}

func second[T any](_ T, err error) error { return err }

func TestLogLimitsAreWholeNumbers(t *testing.T) {
	if _, err := NewLog("x", "", "100", "", "-1"); err == nil || !strings.Contains(err.Error(), `count of the log file: "-1"`) {
		t.Errorf("got %v", err)
	}
}

func TestDebugLogHasChanges(t *testing.T) {
	for level, want := range map[string]bool{"debug": true, "INFO": false} {
		file := filepath.Join(t.TempDir(), "log")
		log, err := NewLog(file, level, "", "", "")
		if err != nil {
			t.Fatal(err)
		}
		log.Record(&Call{CmdArgs: &skel.CmdArgs{}, Command: "ADD", Detail: "pod: + up eth0"}, time.Second, nil)
		text, _ := os.ReadFile(file)
		if got := strings.Contains(string(text), `changes="pod: + up eth0"`); got != want {
			t.Errorf("level %s: the log is %q", level, text)
		}
	}
}
