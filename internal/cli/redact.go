package cli

import (
	"encoding/json"
	"regexp"
	"strings"
)

// removed stands for a secret.
const removed = "REMOVED"

// patterns find secrets in texts. The group keep is left.
var patterns = []*regexp.Regexp{
	regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)`),
	regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/=]+`),                                                              // PEM in base64
	regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+`),                                  // JSON web tokens
	regexp.MustCompile(`(?i)(?P<keep>\b(?:bearer|authorization["']?\s*[:=]\s*["']?basic)\s+)[A-Za-z0-9._~+/=-]{6,}`), // of HTTP
	regexp.MustCompile(`\b(?:AKIA|ASIA)[0-9A-Z]{16}\b`),                                                              // access keys of AWS
	regexp.MustCompile(`\b(?:LTAI|STS\.)[0-9A-Za-z]{12,26}\b`),                                                       // access keys of Alibaba Cloud
	regexp.MustCompile(`(?P<keep>[a-z][a-z0-9+.-]*://)[^\s/@:"]+:[^\s/@"]+@`),                                        // users in URLs
	regexp.MustCompile(`(?i)(?P<keep>["']?[\w.-]*` + secretWord + `["']?\s*[:=]\s*)"(?:[^"\\]|\\.)+"`),               // "token": "…"
	regexp.MustCompile(`(?i)(?P<keep>["']?[\w.-]*` + secretWord + `["']?\s*[:=]\s*)[^\s"',;{}\[\]]+`),                // token=…
}

// secretWord ends the names of fields with secrets.
const secretWord = `(?:password|passwd|passphrase|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credentials?)`

// secretField matches names of such fields and of environment variables.
var secretField = regexp.MustCompile(`(?i)` + secretWord + `$`)

// redactor removes secrets, and counts them.
type redactor struct{ count int }

// text removes secrets from a text, e.g. a log.
func (r *redactor) text(in string) string {
	for _, pattern := range patterns {
		keep := pattern.SubexpIndex("keep")
		in = pattern.ReplaceAllStringFunc(in, func(found string) string {
			kept := ""
			if keep >= 0 {
				kept = pattern.FindStringSubmatch(found)[keep]
			}
			if strings.HasSuffix(strings.Trim(found, `"`), removed) {
				return found // an earlier pattern removed it
			}
			r.count++
			return kept + removed
		})
	}
	return in
}

// object removes secrets from JSON: the values of fields and environment variables with a telling name, and secrets in
// all other texts. It also removes managedFields and the last applied configuration, which repeat the object.
func (r *redactor) object(in []byte) ([]byte, error) {
	var value any
	if err := json.Unmarshal(in, &value); err != nil {
		return nil, err
	}
	return json.MarshalIndent(r.value(value), "", "  ")
}

func (r *redactor) value(in any) any {
	switch v := in.(type) {
	case string:
		return r.text(v)
	case []any:
		for i := range v {
			v[i] = r.value(v[i])
		}
	case map[string]any:
		delete(v, "managedFields")
		delete(v, "kubectl.kubernetes.io/last-applied-configuration")
		name, _ := v["name"].(string)
		for key, field := range v {
			text, isText := field.(string)
			if isText && text != "" && (secretField.MatchString(key) || key == "value" && secretField.MatchString(name)) {
				r.count++
				v[key] = removed
				continue
			}
			v[key] = r.value(field)
		}
	}
	return in
}
