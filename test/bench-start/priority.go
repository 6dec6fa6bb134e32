package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// controlPlaneNice is the nice value of the control plane while pods are measured.
const controlPlaneNice = -10

// preferControlPlane gives etcd and kube-apiserver of the lab in dir, e.g. /run/spiderpool-lab, priority over pods, plugins
// and kubelets. A real control plane has processors of its own. Here it shares them with ten pods that start at once.
func preferControlPlane(dir string) error {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	found := 0
	for _, process := range processes {
		command, err := os.ReadFile(filepath.Join(process, "cmdline"))
		if err != nil || !isControlPlane(command, dir) { // it may have ended
			continue
		}
		if err := setNice(process, controlPlaneNice); err != nil {
			return fmt.Errorf("give the control plane priority: %w", err)
		}
		found++
	}
	if found < 2 {
		return fmt.Errorf("give the control plane priority: %d of etcd and kube-apiserver run with %s in their arguments", found, dir)
	}
	return nil
}

// isControlPlane reports whether a command line (arguments that end with a zero byte, proc(5)) is that of etcd or
// kube-apiserver with files in dir.
func isControlPlane(command []byte, dir string) bool {
	program, arguments, _ := bytes.Cut(command, []byte{0})
	return slices.Contains([]string{"etcd", "kube-apiserver"}, filepath.Base(string(program))) &&
		bytes.Contains(arguments, []byte("="+dir+"/"))
}

// setNice sets the nice value of all threads of a process, e.g. /proc/42. Linux has one per thread (setpriority(2)).
func setNice(process string, nice int) error {
	threads, err := os.ReadDir(filepath.Join(process, "task"))
	if err != nil {
		return err
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, id, nice); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
