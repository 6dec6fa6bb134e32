package agentclient

import (
	"fmt"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

// The addresses of a status can be a megabyte per pool.
func TestDecodedStatusLacksOurAddresses(t *testing.T) {
	t.Parallel()
	const list = `{"items":[
		{"metadata":{"name":"ours"},"status":{"allocatedIPs":"{\"10.0.0.1\":{}}","allocatedIPCount":1,"conditions":[{"type":"Ready","reason":"InUse"}]}},
		{"metadata":{"name":"theirs"},"status":{"allocatedIPs":"{\"10.0.0.1\":{}}","allocatedIPCount":1}}]}`
	got := map[string]bool{}
	if _, err := decodePools(strings.NewReader(list), func(p *v2beta1.SpiderIPPool) { got[p.Name] = p.Status.AllocatedIPs != nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got["ours"] || !got["theirs"] {
		t.Errorf("pools with addresses: %v, want theirs only", got)
	}
}

func TestDecodePools(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in, pools, next string
		bad             bool
	}{
		"two and another page": {in: `{"kind":"SpiderIPPoolList","items":[
			{"metadata":{"name":"a"},"spec":{"subnet":"10.0.0.0/8"},"status":{"allocatedIPs":"{}"}},
			{"metadata":{"name":"b"}}],"metadata":{"continue":"further"}}`, pools: "a 10.0.0.0/8, b ", next: "further"},
		"none":    {in: `{"metadata":{"resourceVersion":"1"},"items":[]}`},
		"null":    {in: `{"items":null}`},
		"cut off": {in: `{"items":[{"metadata":{"name":"a"}}`, bad: true, pools: "a "},
		"no JSON": {in: `Service Unavailable`, bad: true},
		"no list": {in: `{"items":[{"metadata":7}]}`, bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			var pools []string
			next, err := decodePools(strings.NewReader(c.in), func(p *v2beta1.SpiderIPPool) {
				pools = append(pools, p.Name+" "+p.Spec.Subnet)
			})
			if got := strings.Join(pools, ", "); (err != nil) != c.bad || got != c.pools || err == nil && next != c.next {
				t.Errorf("got %q, next page %q, error %v; want %q, %q", got, next, err, c.pools, c.next)
			}
		})
	}
}

func TestPageHasAllObjects(t *testing.T) {
	t.Parallel()
	var list strings.Builder
	list.WriteString(`{"kind":"items","items":[`)
	const n = 3*decodeBatch + 1
	for i := range n {
		fmt.Fprintf(&list, `{"metadata":{"name":"b%d","annotations":{"a\\\"]}":"{[\\\\"},"finalizers":["items"]}, "items":[{}]},`, i)
	}
	whole := strings.TrimSuffix(list.String(), ",") + `],"metadata":{"continue":"further"},"items2":[[{}]]}`
	blocks, next, err := decodePage[v2beta1.SpiderIPBlock]([]byte(whole))
	if err != nil || next != "further" || len(blocks) != n {
		t.Fatalf("got %d blocks, next page %q, error %v", len(blocks), next, err)
	}
	for i, b := range blocks {
		if b.Name != fmt.Sprintf("b%d", i) || b.Annotations[`a\"]}`] != `{[\\` {
			t.Fatalf("block %d is %+v", i, b.ObjectMeta)
		}
	}
	for name, tc := range map[string]struct {
		in  string
		bad bool
	}{
		"none": {`{"metadata":{"resourceVersion":"1"},"items":[]}`, false}, "null": {`{"items":null}`, false}, "without": {`{}`, false},
		"cut off": {whole[:len(whole)/2], true}, "no JSON": {"Service Unavailable", true}, "open string": {`{"items":[{"a`, true},
		"bad item": {`{"items":[{"metadata":7}]}`, true}, "bad token": {`{"items":[{"metadata":{}}],"metadata":{"continue":7}}`, true},
	} {
		blocks, _, err := decodePage[v2beta1.SpiderIPBlock]([]byte(tc.in))
		if (err != nil) != tc.bad || !tc.bad && len(blocks) > 0 {
			t.Errorf("%s: got %d blocks, error %v", name, len(blocks), err)
		}
	}
}

// A pod that names the pool learns why it gets no address, also after an upgrade that
// brought a new rule.
func TestInvalidPoolSaysWhy(t *testing.T) {
	t.Parallel()
	in := &v2beta1.SpiderIPPool{}
	in.Name, in.Spec.Subnet, in.Spec.IPs = "p", "10.0.0.0/24", []string{"10.0.0.5"}
	in.Spec.Gateway, in.Spec.Default = new("10.0.0.255"), new(true)
	got := compile.StoredPool(in)
	if !got.IPs.IsEmpty() || !got.Default || got.Family != 4 || !strings.Contains(got.Invalid, "spec.gateway") {
		t.Errorf("got %+v", got)
	}
	in.Spec.Gateway = nil
	if got := compile.StoredPool(in); got.Invalid != "" || got.IPs.IsEmpty() {
		t.Errorf("a valid pool: %+v", got)
	}
}
