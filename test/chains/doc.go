// Package chains tests the plugin chains compiled from SpiderMultusConfigs: libcni runs
// them in network namespaces, with the real plugins. It has only tests.
package chains
