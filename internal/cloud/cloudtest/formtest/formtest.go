// Package formtest decodes the parameters of the query APIs of AWS and Alibaba Cloud, for fakes of clouds.
package formtest

import (
	"encoding"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Error is a parameter that a request must not have, or must have.
type Error struct {
	Code    string // UnknownParameter, MissingParameter or InvalidParameterValue
	Message string
}

// Decode reads a request into a struct. The tag of a field is the name of its parameter:
//
//	Interface string       `query:"NetworkInterfaceId,required"`  NetworkInterfaceId=eni-1
//	Addresses []netip.Addr `query:"PrivateIpAddress"`             PrivateIpAddress.1=10.0.0.5&PrivateIpAddress.2=10.0.0.6
//	Filters   []filter     `query:"Filter"`                       Filter.1.Name=vpc-id&Filter.1.Value.1=vpc-1
//
// A pointer is nil without its parameter. A parameter without a field is an error, but for the common ones, e.g. Action.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Query-Requests.html
func Decode(form url.Values, common []string, into any) *Error {
	d := decoder{form: form, used: map[string]bool{}}
	if err := d.structure("", reflect.ValueOf(into).Elem()); err != nil {
		return err
	}
	for name := range form {
		if !d.used[name] && !slices.Contains(common, name) {
			return refuse("UnknownParameter", "The parameter %s is not recognized", name)
		}
	}
	return nil
}

func refuse(code, format string, values ...any) *Error {
	return &Error{code, fmt.Sprintf(format, values...)}
}

type decoder struct {
	form url.Values
	used map[string]bool
}

// structure sets the fields of v from the parameters whose names begin with prefix.
func (d *decoder) structure(prefix string, v reflect.Value) *Error {
	for field, value := range v.Fields() {
		name, required, _ := strings.Cut(field.Tag.Get("query"), ",")
		if field.Anonymous {
			if err := d.structure(prefix, value); err != nil {
				return err
			}
			continue
		}
		if required != "" && !d.has(prefix+name) {
			return refuse("MissingParameter", "The request must contain the parameter %s", prefix+name)
		}
		if err := d.value(prefix+name, value); err != nil {
			return err
		}
	}
	return nil
}

// has reports whether there is a parameter with a name, or one below it.
func (d *decoder) has(name string) bool {
	for key := range d.form {
		if key == name || strings.HasPrefix(key, name+".") {
			return true
		}
	}
	return false
}

// value sets v from the parameters with a name.
func (d *decoder) value(name string, v reflect.Value) *Error {
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return d.scalar(name, func(s string) error { return text.UnmarshalText([]byte(s)) })
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !d.has(name) {
			return nil
		}
		v.Set(reflect.New(v.Type().Elem()))
		return d.value(name, v.Elem())
	case reflect.Slice:
		for _, index := range d.indices(name) {
			item := reflect.New(v.Type().Elem()).Elem()
			if err := d.value(name+"."+strconv.Itoa(index), item); err != nil {
				return err
			}
			v.Set(reflect.Append(v, item))
		}
		return nil
	case reflect.Struct:
		return d.structure(name+".", v)
	case reflect.Bool:
		return d.scalar(name, func(s string) error { b, err := strconv.ParseBool(s); v.SetBool(b); return err })
	case reflect.Int:
		return d.scalar(name, func(s string) error { n, err := strconv.Atoi(s); v.SetInt(int64(n)); return err })
	default:
		return d.scalar(name, func(s string) error { v.SetString(s); return nil })
	}
}

// scalar sets one value, if its parameter is there.
func (d *decoder) scalar(name string, set func(string) error) *Error {
	values, ok := d.form[name]
	if !ok {
		return nil
	}
	d.used[name] = true
	if err := set(values[0]); err != nil {
		return refuse("InvalidParameterValue", "Value (%s) for parameter %s is invalid.", values[0], name)
	}
	return nil
}

// indices returns the numbers behind a name, e.g. 1 and 2 for InstanceId.1 and InstanceId.2.
func (d *decoder) indices(name string) []int {
	var indices []int
	for key := range d.form {
		if rest, ok := strings.CutPrefix(key, name+"."); ok {
			number, _, _ := strings.Cut(rest, ".")
			if n, err := strconv.Atoi(number); err == nil {
				indices = append(indices, n)
			}
		}
	}
	slices.Sort(indices)
	return slices.Compact(indices)
}
