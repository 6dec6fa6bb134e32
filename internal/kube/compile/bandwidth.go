package compile

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/pool"
)

const (
	exampleRate      = "10M"
	exampleBandwidth = `[{"interface":"net1","ingress":"100M","egress":"50M"}]`
	// maxRateText bounds the text of a rate: parsing a long number takes quadratic time.
	maxRateText = 64
	// maxListText bounds an annotation with a list, and maxListEntries its entries.
	maxListText    = 8 << 10
	maxListEntries = 64
)

// The limits of a rate are those of Kubernetes (k8s.io/kubernetes/pkg/util/bandwidth),
// which containerd checks, too.
var minRate, maxRate = resource.MustParse("1k"), resource.MustParse("1P")

// BandwidthAnnotations are the annotations of pods that Bandwidth reads.
var BandwidthAnnotations = []string{names.AnnotationPodIngressBandwidth, names.AnnotationPodEgressBandwidth, names.AnnotationPodBandwidth}

// Bandwidth returns the rates in a pod's annotations by interface. Those of Kubernetes
// are for the first interface, and ours may replace them. interfaces are the pod's
// interfaces; nil means unknown. The error is a *pool.AnnotationError.
func Bandwidth(annotations map[string]string, interfaces []string) (map[string]netplan.Rates, error) {
	first, err := PodBandwidth(annotations)
	if err != nil {
		return nil, err
	}
	rates := map[string]netplan.Rates{}
	if first != (netplan.Rates{}) {
		rates[pool.FirstInterface] = first
	}
	if text, ok := annotations[names.AnnotationPodBandwidth]; ok {
		if reason := addLimits(rates, text, interfaces); reason != "" {
			return nil, &pool.AnnotationError{Annotation: names.AnnotationPodBandwidth, Value: text, Reason: reason, Example: exampleBandwidth}
		}
	}
	return rates, nil
}

// PodBandwidth returns the rates in the annotations of Kubernetes. The error is a
// *pool.AnnotationError.
func PodBandwidth(annotations map[string]string) (netplan.Rates, error) {
	var rates netplan.Rates
	for key, rate := range map[string]*uint64{
		names.AnnotationPodIngressBandwidth: &rates.Ingress, names.AnnotationPodEgressBandwidth: &rates.Egress,
	} {
		text, ok := annotations[key]
		if !ok {
			continue
		}
		var reason string
		if *rate, reason = parseRate(text); reason != "" {
			return netplan.Rates{}, &pool.AnnotationError{Annotation: key, Value: text, Reason: reason, Example: exampleRate}
		}
	}
	return rates, nil
}

// addLimits adds the entries of names.AnnotationPodBandwidth to rates, or returns the
// reason for refusing it.
func addLimits(rates map[string]netplan.Rates, text string, interfaces []string) (reason string) {
	type limit struct {
		Interface string `json:"interface"`
		Ingress   string `json:"ingress"`
		Egress    string `json:"egress"`
	}
	entries, reason := parseList[limit](text, "objects with the strings interface, ingress and egress")
	if reason != "" {
		return reason
	}
	var seen []string
	for i, e := range entries {
		if fault := netplan.InterfaceNameFault(e.Interface); fault != "" {
			return fmt.Sprintf("[%d].interface %q %s", i, e.Interface, fault)
		}
		if interfaces != nil && !slices.Contains(interfaces, e.Interface) {
			return fmt.Sprintf("[%d] is for interface %s, and the pod has only %s", i, e.Interface, strings.Join(interfaces, ", "))
		}
		if slices.Contains(seen, e.Interface) {
			return fmt.Sprintf("[%d].interface %q has an entry already", i, e.Interface)
		}
		seen = append(seen, e.Interface)
		if e.Ingress == "" && e.Egress == "" {
			return fmt.Sprintf("[%d] has neither ingress nor egress", i)
		}
		all := rates[e.Interface]
		if reason := cmp.Or(replaceRate(&all.Ingress, i, "ingress", e.Ingress), replaceRate(&all.Egress, i, "egress", e.Egress)); reason != "" {
			return reason
		}
		rates[e.Interface] = all
	}
	return ""
}

// parseList reads an annotation with a JSON list of what the second argument names, or
// returns the reason for refusing it.
func parseList[T any](text, of string) (entries []T, reason string) {
	if len(text) > maxListText {
		return nil, fmt.Sprintf("has %d bytes; write at most %d", len(text), maxListText)
	}
	if err := json.Unmarshal([]byte(text), &entries); err != nil {
		return nil, "is not a JSON list of " + of + ": " + err.Error()
	}
	if len(entries) > maxListEntries {
		return nil, fmt.Sprintf("has %d entries; write at most %d", len(entries), maxListEntries)
	}
	return entries, ""
}

func replaceRate(rate *uint64, entry int, key, text string) (reason string) {
	if text == "" {
		return ""
	}
	if *rate, reason = parseRate(text); reason != "" {
		return fmt.Sprintf("[%d].%s %.64q %s", entry, key, text, reason)
	}
	return ""
}

// parseRate reads a rate in bits per second, e.g. "10M", or returns the reason for
// refusing it.
func parseRate(text string) (rate uint64, reason string) {
	const form = `is not a number of bits per second in Kubernetes' form, with a suffix such as k, M or G and no unit`
	if len(text) > maxRateText {
		return 0, fmt.Sprintf("is longer than %d bytes", maxRateText)
	}
	quantity, err := resource.ParseQuantity(text)
	switch {
	case err != nil:
		return 0, form
	case quantity.Sign() < 0:
		return 0, "is negative"
	case quantity.Cmp(minRate) < 0:
		return 0, fmt.Sprintf("is less than %s, i.e. 1000 bits per second", &minRate)
	case quantity.Cmp(maxRate) > 0:
		return 0, fmt.Sprintf("is more than %s, i.e. 10^15 bits per second", &maxRate)
	}
	return uint64(quantity.Value()), ""
}
