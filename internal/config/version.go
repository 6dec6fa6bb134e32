package config

// Version is the release that a program belongs to; the build sets it with the
// linker's -X.
var Version = "v0.0.0-dev"
