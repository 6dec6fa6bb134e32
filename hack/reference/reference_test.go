package main

import "testing"

func TestSentenceDropsLeadingName(t *testing.T) {
	for doc, want := range map[string]string{
		"Port is the port of\nthe server.":        "The port of the server.",
		"CRISockets are unix sockets.":            "Unix sockets.",
		"Enable turns it on.":                     "Turns it on.",
		"EnableIPv4 and EnableIPv6 select these.": "EnableIPv4 and EnableIPv6 select these.",
		"One of several fields.":                  "One of several fields.",
	} {
		t.Run(doc, func(t *testing.T) {
			name := map[byte]string{'P': "Port", 'C': "CRISockets", 'E': "Enable", 'O': "Other"}[doc[0]]
			if got := sentence(doc, name); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestKeysReplaceGoNames(t *testing.T) {
	got := withKeys("It has no effect with Pools, see Names.", map[string]string{"Pools": "ipam/pools"})
	if want := "It has no effect with `ipam/pools`, see Names."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
