// Package chains has libcni execute the plugin chains that SpiderMultusConfigs
// are compiled to, in network namespaces, with the plugins that users have. It has
// no code of its own.
package chains
