// Package archtest holds the architecture as tests: which package may import
// which, what the CNI binaries may link, and that every package says what it
// promises. It has no code of its own.
package archtest
