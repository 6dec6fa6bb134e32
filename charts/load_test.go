package charts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLoadReachesNodes runs hack/load.sh with stand-ins for ssh and for the importing
// programs. They log their arguments and the archive.
func TestLoadReachesNodes(t *testing.T) {
	for target, want := range map[string]string{
		"containerd":               "ctr --namespace k8s.io images import ARCHIVE",
		"containerd:root@a,root@b": "ssh root@a|ctr --namespace k8s.io images import - <image>|ssh root@b|ctr --namespace k8s.io images import - <image>",
		"k3s:root@a":               "ssh root@a|k3s ctr images import - <image>",
		"kind":                     "kind load image-archive ARCHIVE --name kind",
		"kind:dev":                 "kind load image-archive ARCHIVE --name dev",
		"minikube":                 "minikube image load ARCHIVE --profile minikube",
	} {
		t.Run(target, func(t *testing.T) {
			dir := t.TempDir()
			log, archive := filepath.Join(dir, "log"), filepath.Join(dir, "a.tar")
			write(t, archive, "image", 0o644)
			write(t, filepath.Join(dir, "ssh"), "#!/bin/sh\nprintf 'ssh %s|' \"$1\" >> "+log+"\nshift\nexec sh -c \"$*\"\n", 0o755)
			write(t, filepath.Join(dir, "sudo"), "#!/bin/sh\nexec \"$@\"\n", 0o755)
			for _, program := range []string{"ctr", "k3s", "kind", "minikube"} {
				write(t, filepath.Join(dir, program), "#!/bin/sh\nprintf '%s' \""+program+" $*\" >> "+log+
					"\ncase $* in *' -') printf ' <%s>' \"$(cat)\" >> "+log+";; esac\nprintf '|' >> "+log+"\n", 0o755)
			}
			cmd := exec.CommandContext(t.Context(), "../hack/load.sh", target, archive)
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if got := strings.TrimSuffix(strings.ReplaceAll(read(t, log), archive, "ARCHIVE"), "|"); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestLoadNamesTargets(t *testing.T) {
	for _, target := range []string{"", "docker", "registry", "registry:"} {
		out, err := exec.CommandContext(t.Context(), "../hack/load.sh", target, "/dev/null").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "registry:") {
			t.Errorf("%q: %v, %s", target, err, out)
		}
	}
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}
