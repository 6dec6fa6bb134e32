// This module builds the documentation site. It is a module of its own, so that the programs do not depend on a
// Markdown parser.
module spiderpool.dev/spiderpool/hack/site

go 1.26.7

require github.com/yuin/goldmark v1.8.7
