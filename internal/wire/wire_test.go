package wire

import (
	"encoding/json"
	"reflect"
	"testing"
)

// FuzzRequestsComeBackAsTheyWereSent: what decodes is what was meant, so encoding
// it and decoding that again changes nothing, and nothing panics.
func FuzzRequestsComeBackAsTheyWereSent(f *testing.F) {
	for _, seed := range []string{
		`{"containerID":"c","interface":"eth0","podNamespace":"ns","podName":"p","defaultIPv4Pools":["a"],"matchMasterSubnet":true}`,
		`{"containerID":"c","interface":"eth0","podNamespace":"ns","podName":"p","addresses":["10.0.0.1","fd00::1","fe80::1%eth0"]}`,
		`{"network":"n","valid":[{"containerID":"c","interface":"eth0"}]}`,
		`{"address":"::ffff:10.0.0.1","mac":"02:00:00:00:00:01"}`,
		`{"addresses":[{"prefix":"10.0.0.1/24","gateway":"10.0.0.254","pool":"p"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.254"}],"dns":{"nameservers":["10.0.0.2"]}}`,
		`{"dns":{"nameservers":[]}}`,
		`{"code":11,"msg":"m","details":"d"}`,
		`{"config":{"hijackCIDR":["169.254.0.0/16"],"vethLinkAddress":""},"podInterfaces":["eth0"]}`,
		`{"addresses":[""]}`, `null`, `[]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, fresh := range []func() any{
			func() any { return &AddRequest{} }, func() any { return &AddReply{} }, func() any { return &DeleteRequest{} },
			func() any { return &CheckRequest{} }, func() any { return &GCRequest{} }, func() any { return &ConflictRequest{} },
			func() any { return &CoordinatorReply{} }, func() any { return &Error{} },
		} {
			first, second := fresh(), fresh()
			if json.Unmarshal(raw, first) != nil {
				continue
			}
			encoded, err := json.Marshal(first)
			if err != nil {
				t.Fatalf("%T that was decoded from %q cannot be encoded: %v", first, raw, err)
			}
			if err := json.Unmarshal(encoded, second); err != nil {
				t.Fatalf("%T: %q, encoded, cannot be decoded: %v", first, encoded, err)
			}
			again, err := json.Marshal(second)
			if err != nil || !reflect.DeepEqual(encoded, again) {
				t.Errorf("%T: %q became %q, %v", first, encoded, again, err)
			}
		}
	})
}
