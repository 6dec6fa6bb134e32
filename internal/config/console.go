package config

import (
	"log/slog"
	"net"
)

// ConsoleProcess configures the web page.
type ConsoleProcess struct {
	// Enabled is whether the chart installs the console. The controller then issues its certificate.
	Enabled bool `json:"enabled"`
	// LogLevel is one of debug, info, warn and error.
	LogLevel slog.Level `json:"logLevel"`
	// Port serves the pages.
	Port int `json:"port"`
	// Address is the IP address of that port; empty for all addresses.
	Address string `json:"address"`
	// HealthPort serves /healthz and /readyz.
	HealthPort int `json:"healthPort"`
	// HealthAddress is the IP address of that port; empty for all addresses.
	HealthAddress string       `json:"healthAddress"`
	TLS           ConsoleTLS   `json:"tls"`
	Flows         ConsoleFlows `json:"flows"`
}

// ConsoleTLS configures the certificate of the pages.
type ConsoleTLS struct {
	// Enabled serves HTTPS instead of HTTP.
	Enabled bool `json:"enabled"`
	// Issued is whether the controller creates and renews the certificate, with the webhooks' method auto.
	Issued bool `json:"issued"`
	// SecretName is the Secret with tls.crt and tls.key.
	SecretName string `json:"secretName"`
	// ServiceName is the Service of the pages, the subject of an issued certificate.
	ServiceName string `json:"serviceName"`
	// CertDir is the mount path of that Secret.
	CertDir string `json:"certDir"`
}

// ConsoleFlows names the source of flows.
type ConsoleFlows struct {
	// Server is hubble-relay or an agent, as HOST:PORT; empty for none.
	Server string `json:"server"`
	// ServerName is the name in the certificate of the server; empty for HOST.
	ServerName string `json:"serverName"`
	// CertDir is the directory with the client certificate tls.crt and tls.key, and with ca.crt of the server.
	CertDir string `json:"certDir"`
}

// Console is the configuration of the web page.
type Console struct {
	Environment
	ConsoleProcess
	// File has the settings of the installation, which decide about the addresses of pods.
	File *File
	// AgentName is the DaemonSet of the agents.
	AgentName string
}

// Console returns the view of the web page. getenv is os.Getenv; it must return the name of the namespace.
func (f *File) Console(getenv func(string) string) (Console, error) {
	env, err := environment(getenv, EnvPodNamespace)
	if err != nil {
		return Console{}, err
	}
	return Console{Environment: env, ConsoleProcess: f.ConsoleProcess, File: f, AgentName: f.AgentProcess.TLS.ServiceName}, nil
}

// issues reports whether the controller issues the certificate of the console.
func (c ConsoleProcess) issues(method TLSMethod) bool {
	return c.Enabled && c.TLS.Enabled && c.TLS.Issued && method == TLSAuto
}

func (v *violations) console(c ConsoleProcess) {
	v.ports([]port{{"console.port", c.Port}, {"console.healthPort", c.HealthPort}})
	if c.TLS.Enabled {
		v.objectName("console.tls.secretName", c.TLS.SecretName)
		v.objectName("console.tls.serviceName", c.TLS.ServiceName)
		v.absolute("console.tls.certDir", c.TLS.CertDir)
	}
	if c.Flows.Server == "" {
		return
	}
	if _, _, err := net.SplitHostPort(c.Flows.Server); err != nil {
		v.add("console.flows.server", c.Flows.Server, "write HOST:PORT of hubble-relay, e.g. spiderpool-hubble-relay.kube-system.svc.cluster.local:443")
	}
	v.absolute("console.flows.certDir", c.Flows.CertDir)
}
