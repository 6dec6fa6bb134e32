// Package stats has the parts of the benchmarks that are alike: medians, and results in a
// file.
package stats

import (
	"encoding/json"
	"os"
	"slices"
)

// Median returns the median of the values, the mean of the middle two if their number is
// even, and 0 without values. It does not change them.
func Median[T ~int64 | ~float64](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// WriteJSON writes the results to a file, indented.
func WriteJSON(path string, results any) error {
	raw, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}
