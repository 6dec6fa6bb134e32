module spiderpool.dev/spiderpool/test/lab/modules/pause

go 1.26.0
