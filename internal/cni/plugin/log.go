package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"

	"spiderpool.dev/spiderpool/internal/cniconf"
)

// Limits of a log file. A network attachment chooses the values, so they are bounded.
const (
	maxLogSize  = 1024 // MiB
	maxLogAge   = 365  // days
	maxLogCount = 100  // files
)

// Log is the log file of a plugin. The zero value logs nothing.
type Log struct {
	file  *lumberjack.Logger
	debug bool
}

// LogFile is what a network configuration says about the log file.
type LogFile struct {
	Name  string  // of the plugin, for the default path
	Key   string  // of Path in the configuration, e.g. "ipam.log_file_path"
	Path  *string // nil for NAME.log in the log directory, "" for no file
	Level string  // DEBUG also logs calls that succeed
	// MaxSize (MiB, default 100), MaxAge (days, default 30) and MaxCount (files,
	// default 7) limit the file.
	MaxSize, MaxAge, MaxCount json.Number
}

// NewLog returns the log of a call. It ignores a path outside of the node's log
// directory and warns about it. The error names a limit that is not a whole number.
func NewLog(call *Call, f LogFile) (Log, error) {
	out := &lumberjack.Logger{Filename: filepath.Join(call.Node.LogDir, f.Name+".log")}
	for _, limit := range []struct {
		name           string
		text           json.Number
		fallback, most int
		to             *int
	}{
		{"size", f.MaxSize, 100, maxLogSize, &out.MaxSize},
		{"age", f.MaxAge, 30, maxLogAge, &out.MaxAge},
		{"count", f.MaxCount, 7, maxLogCount, &out.MaxBackups},
	} {
		value, err := cniconf.Whole(limit.text, limit.fallback)
		if err != nil {
			return Log{}, fmt.Errorf("maximum %s of the log file: %w", limit.name, err)
		}
		if value == 0 || value > limit.most { // lumberjack takes 0 for no limit
			value = limit.most
		}
		*limit.to = value
	}
	if f.Path != nil {
		if *f.Path == "" {
			return Log{}, nil
		}
		if path, err := below(call.Node.LogDir, *f.Path); err != nil {
			call.Warnf("%s %q is ignored: %v; the log file is %s", f.Key, *f.Path, err, out.Filename)
		} else {
			out.Filename = path
		}
	}
	return Log{file: out, debug: strings.EqualFold(f.Level, "DEBUG")}, nil
}

// below returns path with all symbolic links resolved, or an error unless it is below
// dir. The plugins run as root, so no other file may be written or rotated.
func below(dir, path string) (string, error) {
	outside := fmt.Errorf("it is not below the log directory %s", dir)
	if !filepath.IsAbs(path) {
		return "", outside
	}
	root, err := resolve(filepath.Clean(dir))
	if err != nil {
		return "", err
	}
	file, err := resolve(filepath.Clean(path))
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(file, root+string(filepath.Separator)) {
		return "", outside
	}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a file", file)
	}
	return file, nil
}

// resolve resolves the symbolic links of path, of which the end may not exist yet. A
// link that leads nowhere is an error, because a write through it creates its target.
func resolve(path string) (string, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return resolved, err
	}
	if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("%s is a symbolic link to a missing file", path)
	}
	parent, err := resolve(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}

// record writes the outcome of a call: always if the call failed or has warnings, at
// level DEBUG if it succeeded. It opens the file only to write, which is rare, because
// every call is a process of its own. A call succeeds even if its log cannot be written.
func (l Log) record(call *Call, took time.Duration, outcome error) {
	for _, warning := range call.warnings {
		fmt.Fprintf(os.Stderr, "spiderpool: warning: %s\n", warning)
	}
	if l.file == nil || outcome == nil && !l.debug && len(call.warnings) == 0 {
		return
	}
	defer l.file.Close()
	log := slog.New(slog.NewJSONHandler(l.file, &slog.HandlerOptions{Level: slog.LevelDebug})).With(
		"command", call.Command, "network", call.Name, "container", call.ContainerID, "interface", call.IfName,
		"args", call.Args, "took", took.Round(time.Microsecond).String())
	for _, warning := range call.warnings {
		log.Warn(warning)
	}
	if call.Detail != "" {
		log = log.With("changes", call.Detail)
	}
	switch {
	case outcome != nil:
		log.Error("failed", "err", outcome)
	case l.debug:
		log.Debug("done")
	}
}
