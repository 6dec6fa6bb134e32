package plugin

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"

	"spiderpool.dev/spiderpool/internal/cniconf"
)

// Log is the log file of a plugin. The zero value logs nothing.
type Log struct {
	file  *lumberjack.Logger
	debug bool
}

// NewLog returns a log that writes to file, none for "". maxSize (MiB, default 100),
// maxAge (days, default 30) and maxCount (files, default 7) limit it. The levels are
// DEBUG, which includes calls that succeed, and others, which do not.
func NewLog(file, level string, maxSize, maxAge, maxCount json.Number) (Log, error) {
	out := &lumberjack.Logger{Filename: file}
	for _, limit := range []struct {
		name     string
		text     json.Number
		fallback int
		to       *int
	}{{"size", maxSize, 100, &out.MaxSize}, {"age", maxAge, 30, &out.MaxAge}, {"count", maxCount, 7, &out.MaxBackups}} {
		var err error
		if *limit.to, err = cniconf.Whole(limit.text, limit.fallback); err != nil {
			return Log{}, fmt.Errorf("maximum %s of the log file: %w", limit.name, err)
		}
	}
	if file == "" {
		return Log{}, nil
	}
	return Log{file: out, debug: strings.EqualFold(level, "DEBUG")}, nil
}

// Record writes the outcome of a call: always if the call failed, at level DEBUG if
// it succeeded. It opens the file only to write, which is rare, because every call
// is a process of its own. A call succeeds even if its log cannot be written.
func (l Log) Record(call *Call, took time.Duration, outcome error) {
	if l.file == nil || outcome == nil && !l.debug {
		return
	}
	defer l.file.Close()
	log := slog.New(slog.NewTextHandler(l.file, &slog.HandlerOptions{Level: slog.LevelDebug})).With(
		"command", call.Command, "network", call.Name, "container", call.ContainerID, "interface", call.IfName,
		"args", call.Args, "took", took.Round(time.Microsecond))
	if call.Detail != "" {
		log = log.With("changes", call.Detail)
	}
	if outcome != nil {
		log.Error("failed", "err", outcome)
		return
	}
	log.Debug("done")
}
