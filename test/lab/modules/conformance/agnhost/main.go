// Agnhost is Kubernetes' test server with another server for SCTP.
//
// The command porter of Kubernetes' program ends an association as soon as it is there, and the client (agnhost connect)
// then writes. SCTP knows no half-closed association (RFC 9260, section 9), so that write fails with EPIPE once the SHUTDOWN
// has arrived. On several processors the client is mostly faster. In User Mode Linux, which has one, it never is. The server
// here reads what the client writes before it answers and ends.
package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	auditproxy "k8s.io/kubernetes/test/images/agnhost/audit-proxy"
	"k8s.io/kubernetes/test/images/agnhost/connect"
	crdconvwebhook "k8s.io/kubernetes/test/images/agnhost/crd-conversion-webhook"
	"k8s.io/kubernetes/test/images/agnhost/dns"
	"k8s.io/kubernetes/test/images/agnhost/entrypoint-tester"
	externalmetrics "k8s.io/kubernetes/test/images/agnhost/external-metrics"
	"k8s.io/kubernetes/test/images/agnhost/fakegitserver"
	"k8s.io/kubernetes/test/images/agnhost/fakeregistryserver"
	grpchealthchecking "k8s.io/kubernetes/test/images/agnhost/grpc-health-checking"
	"k8s.io/kubernetes/test/images/agnhost/guestbook"
	"k8s.io/kubernetes/test/images/agnhost/inclusterclient"
	"k8s.io/kubernetes/test/images/agnhost/liveness"
	logsgen "k8s.io/kubernetes/test/images/agnhost/logs-generator"
	"k8s.io/kubernetes/test/images/agnhost/mounttest"
	"k8s.io/kubernetes/test/images/agnhost/mtlsclient"
	"k8s.io/kubernetes/test/images/agnhost/mtlsserver"
	"k8s.io/kubernetes/test/images/agnhost/net"
	"k8s.io/kubernetes/test/images/agnhost/netexec"
	"k8s.io/kubernetes/test/images/agnhost/nettest"
	nosnat "k8s.io/kubernetes/test/images/agnhost/no-snat-test"
	nosnatproxy "k8s.io/kubernetes/test/images/agnhost/no-snat-test-proxy"
	"k8s.io/kubernetes/test/images/agnhost/nonewprivs"
	"k8s.io/kubernetes/test/images/agnhost/openidmetadata"
	"k8s.io/kubernetes/test/images/agnhost/pause"
	"k8s.io/kubernetes/test/images/agnhost/podcertificatesigner"
	portforwardtester "k8s.io/kubernetes/test/images/agnhost/port-forward-tester"
	"k8s.io/kubernetes/test/images/agnhost/porter"
	resconsumerctrl "k8s.io/kubernetes/test/images/agnhost/resource-consumer-controller"
	servehostname "k8s.io/kubernetes/test/images/agnhost/serve-hostname"
	tcpreset "k8s.io/kubernetes/test/images/agnhost/tcp-reset"
	testwebserver "k8s.io/kubernetes/test/images/agnhost/test-webserver"
	"k8s.io/kubernetes/test/images/agnhost/webhook"
	"k8s.io/kubernetes/third_party/forked/vishhstress"
)

func main() {
	root := &cobra.Command{Use: "app"}
	root.AddCommand(
		auditproxy.CmdAuditProxy,
		connect.CmdConnect,
		crdconvwebhook.CmdCrdConversionWebhook,
		dns.CmdDNSSuffix,
		dns.CmdDNSServerList,
		dns.CmdEtcHosts,
		entrypoint.CmdEntrypointTester,
		fakegitserver.CmdFakeGitServer,
		fakeregistryserver.CmdFakeRegistryServer,
		guestbook.CmdGuestbook,
		inclusterclient.CmdInClusterClient,
		liveness.CmdLiveness,
		logsgen.CmdLogsGenerator,
		mounttest.CmdMounttest,
		net.CmdNet,
		netexec.CmdNetexec,
		nettest.CmdNettest,
		nosnat.CmdNoSnatTest,
		nosnatproxy.CmdNoSnatTestProxy,
		pause.CmdPause,
		porter.CmdPorter,
		portforwardtester.CmdPortForwardTester,
		resconsumerctrl.CmdResourceConsumerController,
		servehostname.CmdServeHostname,
		testwebserver.CmdTestWebserver,
		tcpreset.CmdTCPReset,
		webhook.CmdWebhook,
		openidmetadata.CmdTestServiceAccountIssuerDiscovery,
		grpchealthchecking.CmdGrpcHealthChecking,
		vishhstress.CmdStress,
		podcertificatesigner.CmdPodCertificateSigner,
		mtlsclient.CmdMtlsClient,
		mtlsserver.CmdMtlsServer,
		nonewprivs.CmdNoNewPrivs,
		externalmetrics.CmdExternalMetricsServer,
	)
	if len(os.Args) > 1 && os.Args[1] == porter.CmdPorter.Name() {
		serveAssociations()
	}
	os.Exit(cli.Run(root))
}

// sctpPorts is the prefix of the variables with ports for SCTP, e.g. SERVE_SCTP_PORT_80=foo.
const sctpPorts = "SERVE_SCTP_PORT_"

// serveAssociations takes the ports for SCTP away from the command porter, and serves them.
func serveAssociations() {
	for _, variable := range os.Environ() {
		name, answer, _ := strings.Cut(variable, "=")
		if port, ok := strings.CutPrefix(name, sctpPorts); ok {
			os.Unsetenv(name)
			go serve(port, answer)
		}
	}
}
