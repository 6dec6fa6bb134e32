// Package policytest evaluates policy documents, as AWS IAM and RAM of Alibaba Cloud do, for fakes of clouds.
package policytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Policy says what a principal may do. A deny wins over an allow, and no statement is a deny
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html).
type Policy struct {
	Version   string      `json:"Version"`
	Statement []statement `json:"Statement"`
}

type statement struct {
	Sid       string                           `json:"Sid"`
	Effect    string                           `json:"Effect"`
	Action    stringList                       `json:"Action"`
	Resource  stringList                       `json:"Resource"`
	Condition map[string]map[string]stringList `json:"Condition"`
}

// stringList is a string or a list of strings.
type stringList []string

func (l *stringList) UnmarshalJSON(content []byte) error {
	if bytes.HasPrefix(content, []byte(`"`)) {
		*l = make([]string, 1)
		return json.Unmarshal(content, &(*l)[0])
	}
	return json.Unmarshal(content, (*[]string)(l))
}

// operators are the condition operators that the fake evaluates. All values of a key are alternatives.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
var operators = map[string]func(have string, ok bool, want string) bool{
	"StringEquals": func(have string, ok bool, want string) bool { return ok && have == want },
	"StringLike":   func(have string, ok bool, want string) bool { return ok && Wildcard(want, have) },
	"Null":         func(_ string, ok bool, want string) bool { return ok == (want == "false") },
}

// Parse reads a document, e.g. {"Version":"1","Statement":[{"Effect":"Allow","Action":"ecs:Describe*","Resource":"*"}]}.
// The condition keys are those that a fake sets, e.g. "ec2:Region"; one that ends with a slash stands for all keys with that
// beginning, e.g. "aws:RequestTag/". An element that we cannot evaluate is an error.
func Parse(document string, conditionKeys []string) (*Policy, error) {
	decoder := json.NewDecoder(strings.NewReader(document))
	decoder.DisallowUnknownFields()
	p := &Policy{}
	if err := decoder.Decode(p); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	for i, s := range p.Statement {
		switch {
		case s.Effect != "Allow" && s.Effect != "Deny":
			return nil, fmt.Errorf("policy: Statement[%d].Effect is %q; write Allow or Deny", i, s.Effect)
		case len(s.Action) == 0 || len(s.Resource) == 0:
			return nil, fmt.Errorf("policy: Statement[%d] needs Action and Resource", i)
		}
		for operator, keys := range s.Condition {
			if operators[operator] == nil {
				return nil, fmt.Errorf("policy: Statement[%d]: the fake does not know the operator %s", i, operator)
			}
			for key := range keys {
				if !slices.ContainsFunc(conditionKeys, func(known string) bool {
					return key == known || strings.HasSuffix(known, "/") && strings.HasPrefix(key, known)
				}) {
					return nil, fmt.Errorf("policy: Statement[%d]: the fake does not know the condition key %s", i, key)
				}
			}
		}
	}
	return p, nil
}

// Use is an action on one resource.
type Use struct {
	Action   string            // e.g. ec2:CreateTags
	Resource string            // e.g. arn:aws:ec2:eu-central-1:123456789012:network-interface/eni-1, or *
	Keys     map[string]string // condition keys
}

// Allows reports whether the policy allows a use.
func (p *Policy) Allows(use Use) bool {
	allowed := false
	for _, s := range p.Statement {
		if s.covers(use) {
			if s.Effect == "Deny" {
				return false
			}
			allowed = true
		}
	}
	return allowed
}

func (s statement) covers(use Use) bool {
	like := func(value string) func(string) bool {
		return func(pattern string) bool { return Wildcard(pattern, value) }
	}
	// Actions are case-insensitive.
	if !slices.ContainsFunc(s.Action, func(a string) bool { return Wildcard(strings.ToLower(a), strings.ToLower(use.Action)) }) ||
		!slices.ContainsFunc(s.Resource, like(use.Resource)) {
		return false
	}
	for operator, keys := range s.Condition {
		for key, wants := range keys {
			have, ok := use.Keys[key]
			if !slices.ContainsFunc(wants, func(want string) bool { return operators[operator](have, ok, want) }) {
				return false
			}
		}
	}
	return true
}

// Wildcard reports whether a value matches a pattern with * and ?.
func Wildcard(pattern, value string) bool {
	if !strings.ContainsAny(pattern, `*?`) {
		return pattern == value
	}
	// path.Match's * stops at slashes, and [ begins a class.
	escape := strings.NewReplacer("/", "\x00", "[", `\[`)
	ok, err := path.Match(escape.Replace(pattern), strings.ReplaceAll(value, "/", "\x00"))
	return err == nil && ok
}
