package wire

import (
	"errors"
	"maps"
	"strings"
	"testing"
)

func TestAttachmentIsBounded(t *testing.T) {
	for _, tc := range []struct{ container, ifname, want string }{
		{"c", "eth0", ""},
		{strings.Repeat("0a", 64), strings.Repeat("x", 15), ""},
		{"A_b.c-1", "net1", ""},
		{"azAZ09", "net1", ""},
		{"", "eth0", `CNI_CONTAINERID "" is not`},
		{"-c", "eth0", `CNI_CONTAINERID "-c" is not`},
		{"c/../d", "eth0", "is not a letter or digit"},
		{strings.Repeat("c", 129), "eth0", "has 129 bytes; use at most 128"},
		{"c", "", "CNI_IFNAME"},
		{"c", strings.Repeat("x", 16), "is longer than 15 bytes"},
		{"c", strings.Repeat("x", 250_000), "is longer than 15 bytes"},
		{"c", "a/b", "is not an interface name"},
	} {
		err := Attachment{ContainerID: tc.container, Interface: tc.ifname}.Validate()
		if (err == nil) != (tc.want == "") || err != nil && (!strings.Contains(err.Error(), tc.want) || len(err.Error()) > 200) {
			t.Errorf("%.40q, %.40q: got %.300v, want %q", tc.container, tc.ifname, err, tc.want)
		}
	}
}

// TestCodesFollowTheSpecification compares the codes with section 5 of the CNI specification 1.1.0. Codes below 100
// are reserved by it.
func TestCodesFollowTheSpecification(t *testing.T) {
	got := map[string]int{
		"invalid environment": CodeInvalidEnvironment, "decoding failure": CodeDecodingFailure, "invalid configuration": CodeInvalidConfig,
		"try again later": CodeTryAgainLater, "internal": CodeInternal, "no address": CodeNoAddress, "conflict": CodeConflict, "refused": CodeRefused,
	}
	want := map[string]int{
		"invalid environment": 4, "decoding failure": 6, "invalid configuration": 7,
		"try again later": 11, "internal": 999, "no address": 100, "conflict": 101, "refused": 102,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if MaxRequestBytes != 1048576 {
		t.Errorf("a request may have %d bytes, want 1 MiB", MaxRequestBytes)
	}
}

func TestErrorHasMessageDetailsAndCode(t *testing.T) {
	cause := errors.New("cause")
	for _, tt := range []struct {
		err  Error
		want string
	}{
		{Error{Code: 11, Msg: "agent away"}, "agent away (CNI code 11)"},
		{Error{Code: 100, Msg: "no address", Details: "a: full", Cause: cause}, "no address: a: full (CNI code 100)"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	if !errors.Is(&Error{Cause: cause}, cause) {
		t.Error("the cause is lost")
	}
}

func TestDNSWithAnyFieldIsKept(t *testing.T) {
	one := []string{"one"}
	if !(DNS{}).IsZero() {
		t.Error("an empty DNS is not zero")
	}
	for _, d := range []DNS{{Nameservers: one}, {Domain: "one"}, {Search: one}, {Options: one}} {
		if d.IsZero() {
			t.Errorf("%+v is zero", d)
		}
	}
}
