module spiderpool.dev/spiderpool/test/lab/modules/echoserver

go 1.26.0
