// This module tests the pages of spiderpool-console in Chromium. It is a module of its own, so that the programs do not
// depend on chromedp.
module spiderpool.dev/spiderpool/test/console

go 1.26.6

require (
	github.com/chromedp/cdproto v0.159.0
	github.com/chromedp/chromedp v0.23.0
)

require github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect
