// Package walk runs the AWS guide as a list of steps on the lab. Each step follows the
// guide, in its order and with its manifests, and checks the guide's outputs and claims.
// The end-to-end test and the demo share the steps.
//
// Commands run as a reader would run them (kubectl, helm). They go to Lab.Out with their
// output.
package walk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// downTimeout bounds `lab down`.
const downTimeout = 5 * time.Minute

// Lab is a running lab.
type Lab struct {
	// Binary is the path of the lab program.
	Binary string
	// Root is the root of the checkout.
	Root string
	// Out receives the commands and their output.
	Out io.Writer

	environment []string
}

// Up starts a lab for the checkout in the working directory, and opens it. flags are
// further flags of `lab up`.
func Up(ctx context.Context, binary, topology string, out io.Writer, flags ...string) (*Lab, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, append([]string{"up", "--topology", topology}, flags...)...)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("lab up: %w", err)
	}
	return Open(ctx, binary, root, out)
}

// Down stops the lab, even after the end of ctx.
func Down(ctx context.Context, binary string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "down")
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("lab down: %w", err)
	}
	return nil
}

// RequireNone returns an error if a lab is up.
func RequireNone(ctx context.Context, binary string) error {
	if exec.CommandContext(ctx, binary, "env").Run() == nil {
		return errors.New("a lab is already up, but this program needs its own: stop it with `make lab-down`")
	}
	return nil
}

// OnFreshLab starts a lab for the site, installs the network with the guide's steps, calls
// f and stops the lab.
func OnFreshLab(ctx context.Context, binary string, site Site, out io.Writer, f func(*Lab) error) (err error) {
	defer func() { err = errors.Join(err, Down(ctx, binary, out)) }()
	lab, err := Up(ctx, binary, site.Name, out)
	if err != nil {
		return err
	}
	if err := Install(ctx, lab, site); err != nil {
		return err
	}
	return f(lab)
}

// Open reads the environment of the running lab from `lab env`.
func Open(ctx context.Context, binary, root string, out io.Writer) (*Lab, error) {
	lab := &Lab{Binary: binary, Root: root, Out: out, environment: os.Environ()}
	for _, name := range []string{"KUBECONFIG", "PATH"} {
		value, err := lab.run(ctx, "sh", "-c", `set -e; exports=$("$0" env); eval "$exports"; printf %s "$`+name+`"`, binary)
		if err != nil {
			return nil, err
		}
		lab.environment = append(lab.environment, name+"="+value)
	}
	return lab, nil
}

// Sh runs a shell command in the root of the checkout and returns its standard output.
// The error contains its standard error.
func (l *Lab) Sh(ctx context.Context, command string) (string, error) {
	fmt.Fprintf(l.Out, "$ %s\n", command)
	stdout, err := l.run(ctx, "sh", "-c", command)
	fmt.Fprint(l.Out, stdout)
	if err != nil {
		fmt.Fprintf(l.Out, "  (%v)\n", err)
	}
	return stdout, err
}

// Kubectl runs kubectl and prints the command as a reader would type it.
func (l *Lab) Kubectl(ctx context.Context, arguments string) (string, error) {
	return l.Sh(ctx, "kubectl "+arguments)
}

// kubectlAll runs kubectl once per argument, up to the first failure.
func (l *Lab) kubectlAll(ctx context.Context, arguments ...string) error {
	for _, each := range arguments {
		if _, err := l.Kubectl(ctx, each); err != nil {
			return err
		}
	}
	return nil
}

// Exec runs a command on one of the lab's nodes or hosts.
func (l *Lab) Exec(ctx context.Context, host, command string) (string, error) {
	return l.ExecWith(ctx, host, command, nil)
}

// ExecWith is Exec with a standard input.
func (l *Lab) ExecWith(ctx context.Context, host, command string, stdin io.Reader) (string, error) {
	fmt.Fprintf(l.Out, "[%s]$ %s\n", host, command)
	stdout, err := l.runWith(ctx, stdin, l.Binary, "exec", host, "--", "sh", "-c", command)
	fmt.Fprint(l.Out, stdout)
	return stdout, err
}

func (l *Lab) run(ctx context.Context, name string, arguments ...string) (string, error) {
	return l.runWith(ctx, nil, name, arguments...)
}

func (l *Lab) runWith(ctx context.Context, stdin io.Reader, name string, arguments ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, arguments...)
	cmd.Dir, cmd.Env, cmd.Stdin = l.Root, l.environment, stdin
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", filepath.Base(name), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Get reads objects into result with kubectl, without output.
func (l *Lab) Get(ctx context.Context, arguments string, result any) error {
	out, err := l.run(ctx, "sh", "-c", "kubectl get -o json "+arguments)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), result)
}

// eventually calls condition until it returns nil. After limit it returns the last error
// with the description.
func (l *Lab) eventually(ctx context.Context, what string, limit time.Duration, condition func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	start := time.Now()
	fmt.Fprintf(l.Out, "… waiting until %s\n", what)
	var last error
	for {
		if err := condition(ctx); err == nil {
			fmt.Fprintf(l.Out, "  after %s\n", time.Since(start).Round(100*time.Millisecond))
			return nil
		} else if last == nil || !errors.Is(err, context.DeadlineExceeded) {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s until %s: %w", limit, what, last)
		case <-time.After(500 * time.Millisecond):
		}
	}
}
