// Package status writes the controller's reports about an object: the condition
// Ready, and events.
//
// Writer is the only place that patches a status, so all kinds follow one rule:
// an object is written only if its status differs, and a Warning is recorded
// when the condition becomes False or changes while it is False. A kind may have
// further conditions that are True if something is wrong; they follow the same rule.
package status
