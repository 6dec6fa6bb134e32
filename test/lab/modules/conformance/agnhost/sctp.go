package main

import (
	"log"

	"github.com/ishidawataru/sctp"
)

// serve answers each association on the port.
func serve(port, answer string) {
	addr, err := sctp.ResolveSCTPAddr("sctp", "0.0.0.0:"+port)
	if err != nil {
		log.Fatalf("SCTP port %q: %v", port, err)
	}
	listener, err := sctp.ListenSCTP("sctp", addr)
	if err != nil {
		log.Fatalf("listen on SCTP port %s: %v", port, err)
	}
	log.Printf("serving SCTP port %s", port)
	for {
		association, err := listener.AcceptSCTP()
		if err != nil {
			log.Fatalf("accept on SCTP port %s: %v", port, err)
		}
		go func() {
			defer association.Close()
			if _, err := association.Read(make([]byte, 1024)); err != nil {
				log.Printf("read on SCTP port %s: %v", port, err)
				return
			}
			if _, err := association.Write([]byte(answer)); err != nil {
				log.Printf("answer on SCTP port %s: %v", port, err)
			}
		}()
	}
}
