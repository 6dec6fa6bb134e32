package coordinator

import (
	"log/slog"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"gopkg.in/natefinch/lumberjack.v2"
)

// record writes the outcome of a call to the log file: failures always,
// successes with every change that they made at level DEBUG. Nothing is opened
// when there is nothing to write, which is the rule, because a process is
// started for every call. A log that cannot be written does not fail the call.
func record(c *conf, command string, args *skel.CmdArgs, began time.Time, detail string, outcome error) {
	debug := strings.EqualFold(c.Log.Level, "DEBUG")
	if c.Log.File == "" || outcome == nil && !debug {
		return
	}
	file := &lumberjack.Logger{
		Filename: c.Log.File, MaxSize: int(c.Log.MaxSize), MaxAge: int(c.Log.MaxAge), MaxBackups: int(c.Log.MaxCount),
	}
	defer file.Close()
	log := slog.New(slog.NewTextHandler(file, &slog.HandlerOptions{Level: slog.LevelDebug})).With(
		"command", command, "network", c.Name, "container", args.ContainerID, "interface", args.IfName,
		"args", args.Args, "took", time.Since(began).Round(time.Microsecond), "changes", detail)
	if outcome != nil {
		log.Error("failed", "err", outcome)
		return
	}
	log.Debug("done")
}
