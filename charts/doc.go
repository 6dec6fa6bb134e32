// Package charts tests the Helm chart in charts/spiderpool. The tests check the
// published values and their defaults, compare the rendered manifests with golden
// files, and apply them to a real API server. The package has no other code.
package charts
