package config

// Version is the release of the program. The build sets it with the linker's -X.
var Version = "v0.0.0-dev"
