// Command spiderpool-init creates the default objects at installation and cleans
// up after an uninstallation.
package main

import (
	"spiderpool.dev/spiderpool/internal/install"
	"spiderpool.dev/spiderpool/internal/process"
)

func main() { process.Main(install.Command) }
