package lease

import "testing"

func TestOwnerTextIsKept(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Owner{
		"":                     {},
		"Pod/default/web-0":    {KindPod, "default", "web-0"},
		"VirtualMachine/ns/vm": {KindVirtualMachine, "ns", "vm"},
		"Rack/default/r1":      {"Rack", "default", "r1"},
		"Rack/default/r1/left": {"Rack", "default", "r1/left"},
		"Pod/default":          {KindPod, "default", ""},
		"Rack":                 {"Rack", "", ""},
	} {
		if got := ParseOwner(text); got != want || got.String() != text || got.IsZero() != (text == "") {
			t.Errorf("%q is %+v, in text %q; want %+v", text, got, got, want)
		}
	}
}

func TestPodKeyTextIsKept(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]PodKey{"": {}, "default/web-0": {"default", "web-0"}, "web-0": {"", "web-0"}, "a/b/c": {"a", "b/c"}} {
		if got := ParsePodKey(text); got != want || got.String() != text {
			t.Errorf("%q is %+v, in text %q; want %+v", text, got, got, want)
		}
	}
}

func TestPodNameGivesStatefulSet(t *testing.T) {
	t.Parallel()
	for pod, want := range map[string]struct {
		set     string
		ordinal int
	}{"web-0": {"web", 0}, "my-db-12": {"my-db", 12}, "web": {}, "web-": {}, "web-a": {}, "-1": {}, "web-01": {}, "web-+1": {}} {
		set, ordinal, ok := Owner{KindPod, "default", pod}.StatefulSet()
		if set != want.set || ordinal != want.ordinal || ok != (want.set != "") {
			t.Errorf("StatefulSet of pod %q: %q, %d, %t", pod, set, ordinal, ok)
		}
	}
	if _, _, ok := (Owner{KindVirtualMachine, "default", "vm-0"}).StatefulSet(); ok {
		t.Error("a virtual machine has a StatefulSet")
	}
}
