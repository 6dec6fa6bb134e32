package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// every is the time between two probes.
	every = 10 * time.Millisecond
	// watchLimit is the wait for an answer: a busy machine answers late.
	watchLimit = 10 * time.Second
	// late is the duration of an answer after which its first packet was probably lost: TCP repeats it after 1 s.
	late = 900 * time.Millisecond

	watchLog     = "/watch.log"
	watchCounts  = "/watch.counts"
	watchStop    = "/watch.stop"
	shownMistake = 20
)

// watched is a target with the verdict that it should have, and the counts.
type watched struct {
	target
	want                string
	probes, wrong, late int
}

// probe is the outcome of one probe.
type probe struct {
	*watched
	sent    time.Time
	took    time.Duration
	verdict string
}

// watch sends a probe to the next target every 10 ms, for the duration or until the file watchStop exists. Each has a
// port of its own, so each is a new connection for the filters. It logs each verdict, then prints the counts, and the
// wrong ones in full. With a duration, the log is standard output.
func watch(ctx context.Context, limit time.Duration, texts []string) (err error) {
	var targets []*watched
	for _, text := range texts {
		name, want, _ := strings.Cut(text, "=")
		to, err := parseTarget(name)
		if err != nil {
			return err
		}
		if want != answered && want != silent {
			return fmt.Errorf("target %q: want the verdict answered or silent, e.g. tcp/10.6.0.1:80=silent", text)
		}
		targets = append(targets, &watched{target: to, want: want})
	}
	out := os.Stdout
	if limit == 0 {
		if out, err = os.Create(watchLog); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, out.Close()) }()
	}
	outcomes := make(chan probe)
	go sendProbes(ctx, limit, targets, outcomes)
	log := bufio.NewWriter(out)
	var mistakes []string
	for p := range outcomes {
		line := fmt.Sprintf("%s %s %s after %s", p.sent.Format("15:04:05.000"), p.target, p.verdict, p.took.Round(time.Millisecond))
		p.probes++
		if p.verdict != p.want {
			p.wrong++
			mistakes = append(mistakes, line)
		} else if p.verdict == answered && p.took > late {
			p.late++
		}
		fmt.Fprintln(log, line)
	}
	if err := log.Flush(); err != nil {
		return err
	}
	return writeCounts(limit, targets, mistakes)
}

func sendProbes(ctx context.Context, limit time.Duration, targets []*watched, outcomes chan<- probe) {
	var waiting sync.WaitGroup
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i, start := 0, time.Now(); ctx.Err() == nil && (limit == 0 || time.Since(start) < limit); i++ {
		p := probe{watched: targets[i%len(targets)], sent: time.Now()}
		waiting.Go(func() {
			p.verdict = p.ask(ctx, watchLimit, 1)
			p.took = time.Since(p.sent)
			outcomes <- p
		})
		<-tick.C
		if _, err := os.Stat(watchStop); limit == 0 && err == nil {
			break
		}
	}
	waiting.Wait()
	close(outcomes)
}

// writeCounts writes to the file watchCounts, or with a duration to standard output.
func writeCounts(limit time.Duration, targets []*watched, mistakes []string) error {
	var b strings.Builder
	probes, wrong := 0, 0
	for _, t := range targets {
		probes, wrong = probes+t.probes, wrong+t.wrong
		fmt.Fprintf(&b, "%s should be %s: %d probes, %d wrong, %d late\n", t.target, t.want, t.probes, t.wrong, t.late)
	}
	for _, line := range mistakes[:min(len(mistakes), shownMistake)] {
		fmt.Fprintln(&b, "WRONG", line)
	}
	fmt.Fprintf(&b, "%d probes, %d wrong\n", probes, wrong)
	if limit != 0 {
		fmt.Print(b.String())
		return nil
	}
	// stopWatch waits for the file: it appears complete.
	if err := os.WriteFile(watchCounts+".new", []byte(b.String()), 0o644); err != nil {
		return err
	}
	return os.Rename(watchCounts+".new", watchCounts)
}

// startWatch watches in a process that outlives its caller: kubectl exec ends when the API server does.
func startWatch(targets []string) error {
	for _, file := range []string{watchStop, watchCounts} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, append([]string{"watch"}, targets...)...)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	return cmd.Start()
}

// stopWatch ends the watch and prints its counts.
func stopWatch(ctx context.Context) error {
	if err := os.WriteFile(watchStop, nil, 0o644); err != nil {
		return err
	}
	for ctx.Err() == nil {
		counts, err := os.ReadFile(watchCounts)
		if err == nil {
			fmt.Print(string(counts))
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return ctx.Err()
}
