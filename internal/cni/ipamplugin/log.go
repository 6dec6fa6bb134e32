package ipamplugin

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"gopkg.in/natefinch/lumberjack.v2"
)

// parseLevel knows the levels that configurations in the wild have.
func parseLevel(name string) (slog.Level, error) {
	switch strings.ToUpper(name) {
	case "DEBUG":
		return slog.LevelDebug, nil
	case "", "INFO":
		return slog.LevelInfo, nil
	case "WARN", "WARNING":
		return slog.LevelWarn, nil
	case "ERROR", "DPANIC", "PANIC", "FATAL":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("ipam.log_level %q is none of DEBUG, INFO, WARN and ERROR", name)
}

// record writes the outcome of a call to the log file: failures at level ERROR,
// successes at level DEBUG. Nothing is opened when there is nothing to write,
// which is the rule, because a process is started for every call. A log that
// cannot be written must not fail the call.
func record(c *conf, command string, args *skel.CmdArgs, began time.Time, outcome error) {
	level, err := parseLevel(c.IPAM.LogLevel)
	if err != nil || c.IPAM.LogFile == "" || (outcome == nil && level > slog.LevelDebug) {
		return
	}
	file := &lumberjack.Logger{
		Filename:   c.IPAM.LogFile,
		MaxSize:    int(c.IPAM.LogFileMaxSize),
		MaxAge:     int(c.IPAM.LogFileMaxAge),
		MaxBackups: int(c.IPAM.LogFileMaxCount),
	}
	defer file.Close()
	log := slog.New(slog.NewTextHandler(file, &slog.HandlerOptions{Level: level})).With(
		"command", command, "network", c.Name, "container", args.ContainerID, "interface", args.IfName,
		"args", args.Args, "took", time.Since(began).Round(time.Microsecond))
	if outcome != nil {
		log.Error("failed", "err", outcome)
		return
	}
	log.Debug("done")
}
