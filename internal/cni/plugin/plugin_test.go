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

	"spiderpool.dev/spiderpool/internal/cniconf"
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

// callOn is a call on a node whose log directory is below dir.
func callOn(dir string) *Call {
	return &Call{CmdArgs: &skel.CmdArgs{}, Command: "ADD", Node: cniconf.Node{LogDir: filepath.Join(dir, "log")}}
}

func TestLogLimitsAreBounded(t *testing.T) {
	call := callOn(t.TempDir())
	if _, err := NewLog(call, LogFile{MaxSize: "100", MaxCount: "-1"}); err == nil || !strings.Contains(err.Error(), `count of the log file: "-1"`) {
		t.Errorf("got %v", err)
	}
	log, err := NewLog(call, LogFile{MaxSize: "9999999", MaxAge: "0", MaxCount: "5"})
	if err != nil || log.file.MaxSize != maxLogSize || log.file.MaxAge != maxLogAge || log.file.MaxBackups != 5 {
		t.Errorf("got %+v, %v", log.file, err)
	}
}

func TestDebugLogHasChanges(t *testing.T) {
	for level, want := range map[string]bool{"debug": true, "INFO": false} {
		call := callOn(t.TempDir())
		call.Detail = "pod: + up eth0"
		log, err := NewLog(call, LogFile{Name: "p", Level: level})
		if err != nil {
			t.Fatal(err)
		}
		log.record(call, time.Second, nil)
		text, _ := os.ReadFile(filepath.Join(call.Node.LogDir, "p.log"))
		if got := strings.Contains(string(text), `"changes":"pod: + up eth0"`); got != want {
			t.Errorf("level %s: the log is %q", level, text)
		}
	}
}

func TestLogStaysBelowLogDirectory(t *testing.T) {
	dir := t.TempDir()
	logs, victim := filepath.Join(dir, "log"), filepath.Join(dir, "victim")
	if err := os.MkdirAll(filepath.Join(logs, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(victim, []byte("theirs"), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"to-file": victim, "to-dir": dir, "to-nothing": filepath.Join(dir, "new"), "inside": filepath.Join(logs, "sub"),
	} {
		if err := os.Symlink(target, filepath.Join(logs, link)); err != nil {
			t.Fatal(err)
		}
	}
	fallback := filepath.Join(logs, "p.log")
	for path, want := range map[string]string{
		filepath.Join(logs, "sub", "a.log"):        filepath.Join(logs, "sub", "a.log"),
		filepath.Join(logs, "new", "a.log"):        filepath.Join(logs, "new", "a.log"),
		filepath.Join(logs, "inside", "a.log"):     filepath.Join(logs, "sub", "a.log"),
		logs + "/sub/../b.log":                     filepath.Join(logs, "b.log"),
		logs + "/../victim":                        fallback,
		logs + "/sub/../../victim":                 fallback,
		logs:                                       fallback,
		logs + "2/a.log":                           fallback,
		filepath.Join(logs, "sub"):                 fallback,
		filepath.Join(logs, "to-file"):             fallback,
		filepath.Join(logs, "to-dir", "victim"):    fallback,
		filepath.Join(logs, "to-nothing"):          fallback,
		filepath.Join(logs, "to-nothing", "a.log"): fallback,
		"a.log":              fallback,
		victim:               fallback,
		"/":                  fallback,
		"/proc/self/environ": fallback,
	} {
		call := callOn(dir)
		log, err := NewLog(call, LogFile{Name: "p", Key: "log_file_path", Path: &path})
		if err != nil {
			t.Fatal(err)
		}
		warned := strings.Contains(strings.Join(call.warnings, ""), fmt.Sprintf("log_file_path %q is ignored", path))
		if log.file.Filename != want || warned != (want == fallback) {
			t.Errorf("%s: logs to %s, want %s; warnings %q", path, log.file.Filename, want, call.warnings)
		}
	}
}
