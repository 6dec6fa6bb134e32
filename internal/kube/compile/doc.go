// Package compile turns custom resources into values of the domain and back.
//
// Its functions are the only way from a custom resource to the domain. The
// agent, the reconcilers and admission all call them, so an invalid resource
// gives the same field errors everywhere.
package compile
