package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// badInput has the answers of a command where it cannot do its work. TestBadInputHasWayOut gets them.
type badInput struct {
	// call has the arguments of a usual call. WEB is a pod, DEAD the socket of an agent that does not run, and FILE a policy.
	call string
	// unknown has arguments with a wrong name or value, and says the answer.
	unknown, says string
	// local is whether the command asks no API server.
	local bool
	// noRights, half and unconfigured are the answers to a user without rights, without our definitions, and without the
	// ConfigMap, if they are not the usual ones. In a silent case, the command needs none of these.
	noRights, half, unconfigured string
	// agentless is the answer if node n1 has no agent, "" if the command does not depend on it.
	agentless string
}

const silent = "-"

// badInputs has every command that does something.
var badInputs = map[string]badInput{
	"capacity":           {call: "--pods 1", unknown: "--pods 1 -n nowhere", says: "there is no namespace nowhere: kubectl get namespaces prints all names"},
	"check":              {call: "--settle 0s", unknown: "-o xml", says: `--output "xml": write table, wide, json, yaml or name`, unconfigured: silent},
	"connectivity probe": {local: true, says: `standard input: EOF: write e.g. {"questions":`},
	"connectivity serve": {local: true, unknown: "--port 70000", says: `invalid argument "70000" for "--port"`},
	"connectivity test": {
		call: "--attachment kube-system/lan --image registry.example/agent --node n1 --timeout 1s", unknown: "--attachment lan", says: "write NAMESPACE/NAME, e.g. kube-system/macvlan-ens5",
		noRights: "ask an administrator of the cluster for the rights that docs/guides/connectivity.md lists",
		half:     silent, // TestConnectivityExplainsPodsThatWait has the answer without an agent
	},
	"ip list":     {unknown: "--pool nowhere", says: "there is no SpiderIPPool nowhere: spiderpoolctl pool list prints all names", unconfigured: silent},
	"ip who":      {call: "10.6.0.2", unknown: "10.6.0.300", says: "is neither an address nor a MAC address: write e.g. 10.6.0.21", unconfigured: silent},
	"node":        {local: true, call: "--socket DEAD", unknown: "-o name", says: `--output "name": write table, json or yaml`, agentless: "container runtime is silent, want answering"},
	"node show":   {call: "n1", unknown: "n9", says: "there is no node n9: kubectl get nodes prints all names", agentless: "node n1: it has no agent, so its pods get no address of Spiderpool. spiderpoolctl status tells why"},
	"observe":     {local: true, call: "--server unix://DEAD", unknown: "--server unix:///no/such", says: "no agent serves flows at /no/such", agentless: "is it running? kubectl -n kube-system get pods"},
	"pod explain": {call: "WEB", unknown: "default/nothing", says: "there is no pod default/nothing: kubectl get pods -n default prints all names", agentless: "node n1: it has no agent, so its pods get no address of Spiderpool"},
	"policy diff": {call: "--file FILE", unknown: "--file /no/such", says: "--file: open /no/such: no such file or directory: name a YAML file", unconfigured: silent},
	"policy show": {call: "WEB", unknown: "default/nothing", says: "there is no running pod default/nothing: kubectl get pods -n default prints all names", unconfigured: silent},
	"policy trace": {
		call: "--from 192.0.2.1 --to 192.0.2.2:80", unknown: "--from default/nothing --to 192.0.2.2:80", says: "there is no running pod default/nothing", unconfigured: silent,
	},
	"pool list": {unknown: "blue", says: `unknown command "blue"`, unconfigured: silent},
	"pool show": {call: "blue", unknown: "nowhere", says: "there is no SpiderIPPool nowhere: spiderpoolctl pool list prints all names", unconfigured: silent},
	"pool usage": {
		call: "blue", unknown: "nowhere", says: "there is no SpiderIPPool nowhere: spiderpoolctl pool list prints all names", unconfigured: silent,
	},
	"preflight":       {unknown: "-o wide", says: `--output "wide": write table, json or yaml`, noRights: "run the command as an administrator of the cluster", half: silent, unconfigured: silent},
	"reclaim":         {call: "--dry-run", says: "add --dry-run: agents and the controller reclaim by themselves"},
	"release":         {call: "10.6.0.2", unknown: "blue", says: `"blue" is no address: write e.g. 10.6.0.21 or fd00:6::15`},
	"service explain": {call: "default/kubernetes --node n1", unknown: "default/nothing --node n1", says: "there is no Service default/nothing: kubectl get services -n default", half: silent, unconfigured: silent},
	"service list":    {call: "--node n1", unknown: "--node n9", says: "there is no node n9: kubectl get nodes prints all names", half: silent, unconfigured: silent},
	"service watch":   {call: "--node n1", unknown: "--node n9", says: "there is no node n9: kubectl get nodes prints all names", half: silent, unconfigured: silent},
	"status": {
		unknown: "--output name", says: `--output "name": write table, json or yaml`, half: "the cluster lacks", unconfigured: "Spiderpool is not installed in this namespace. Name its namespace with --system-namespace",
		agentless: "there is no DaemonSet kube-system/spiderpool-agent. helm upgrade",
	},
	"support-bundle": {call: "--output NEW", unknown: "--output FILE", says: "exists: name another file with --output", noRights: "you may not read it", half: "this kind is not installed", unconfigured: "there is none"},
}

func TestEveryCommandHasBadInput(t *testing.T) {
	var commands []string
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Runnable() {
			_, path, _ := strings.Cut(cmd.CommandPath(), " ")
			commands = append(commands, path)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
	for _, command := range commands {
		if badInputs[command].says == "" {
			t.Errorf("%s has no bad input in badInputs", command)
		}
	}
	for command := range badInputs {
		if !slices.Contains(commands, command) {
			t.Errorf("there is no command %s", command)
		}
	}
}
