package compile_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

var update = flag.Bool("update", false, "write the results that the tests see into testdata")

// TestAttachment compares what each SpiderMultusConfig of testdata makes
// with the file beside it.
func TestAttachment(t *testing.T) {
	files, err := filepath.Glob("testdata/attachment/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in := &v2beta1.SpiderMultusConfig{}
			if err := yaml.UnmarshalStrict(archive.Files[0].Data, in); err != nil {
				t.Fatal(err)
			}
			got := attachmentText(t, in)
			if *update {
				archive.Files = append(archive.Files[:1], txtar.File{Name: "attachment", Data: got})
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if len(archive.Files) != 2 {
				t.Fatalf("%s has no result; run the test with -update and read it", file)
			}
			if want := archive.Files[1].Data; !bytes.Equal(got, want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// attachmentText is the attachment as a person reads it, or the errors.
func attachmentText(t *testing.T, in *v2beta1.SpiderMultusConfig) []byte {
	t.Helper()
	var out bytes.Buffer
	attachment, errs := compile.Attachment(in)
	for _, err := range errs {
		out.WriteString(err.Error() + "\n")
	}
	if len(errs) > 0 {
		return out.Bytes()
	}
	head, err := yaml.Marshal(map[string]any{"name": attachment.Namespace + "/" + attachment.Name, "annotations": attachment.Annotations})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(head)
	if attachment.Unsupported != "" {
		out.WriteString("unsupported: " + attachment.Unsupported + "\n")
		return out.Bytes()
	}
	if attachment.Ignored != "" {
		out.WriteString("ignored: " + attachment.Ignored + "\n")
	}
	if attachment.Config != "" {
		if err := json.Indent(&out, []byte(attachment.Config), "", "  "); err != nil {
			t.Fatalf("the configuration is not JSON: %v\n%s", err, attachment.Config)
		}
	}
	out.WriteString("\n")
	return out.Bytes()
}

// One VLAN ID on two masters makes two interfaces, each named after its master.
func TestVLANNamesFollowMaster(t *testing.T) {
	for _, master := range []string{"eth0", "eth1"} {
		in := &v2beta1.SpiderMultusConfig{}
		in.Name = "net-" + master
		in.Spec.CNIType, in.Spec.Macvlan = new(v2beta1.CNIMacvlan), &v2beta1.MasterConfig{Master: []string{master}, VlanID: new(int32(7))}
		got, errs := compile.Attachment(in)
		if want := fmt.Sprintf("%q", master+".7"); len(errs) > 0 || !strings.Contains(got.Config, `"master":`+want) {
			t.Errorf("%s: %s, %v; want master %s", master, got.Config, errs, want)
		}
	}
}
