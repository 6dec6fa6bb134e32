package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
)

// mutant is one change of one file.
type mutant struct {
	file          string // from the root of the module
	line          int
	start, end    int // the replaced bytes
	replacement   string
	before, after string // the changed lines, with single spaces
}

func (m mutant) String() string {
	return fmt.Sprintf("%s:%d: %s → %s", m.file, m.line, m.before, m.after)
}

// key identifies a mutant in equivalent.txt. It has no line number, because lines move.
func (m mutant) key() string { return m.file + "\t" + m.before + "\t" + m.after }

// apply returns the mutated source.
func (m mutant) apply(source []byte) []byte {
	return bytes.Join([][]byte{source[:m.start], []byte(m.replacement), source[m.end:]}, nil)
}

// swaps are the binary and assignment operators with their replacements: a negation, and a shift of the boundary.
var swaps = map[token.Token][]token.Token{
	token.EQL: {token.NEQ}, token.NEQ: {token.EQL},
	token.LSS: {token.LEQ, token.GEQ}, token.LEQ: {token.LSS, token.GTR},
	token.GTR: {token.GEQ, token.LEQ}, token.GEQ: {token.GTR, token.LSS},
	token.LAND: {token.LOR}, token.LOR: {token.LAND},
	token.ADD: {token.SUB}, token.SUB: {token.ADD}, token.MUL: {token.QUO}, token.QUO: {token.MUL},
	token.AND: {token.OR}, token.OR: {token.AND}, token.SHL: {token.SHR}, token.SHR: {token.SHL},
	token.ADD_ASSIGN: {token.SUB_ASSIGN}, token.SUB_ASSIGN: {token.ADD_ASSIGN},
	token.INC: {token.DEC}, token.DEC: {token.INC},
}

// finder collects the mutants of a file.
type finder struct {
	file   string
	source []byte
	set    *token.FileSet
	found  []mutant
}

// mutants returns every mutant of a file. Some do not compile, because the operators know no types.
func mutants(file string, source []byte) ([]mutant, error) {
	f := finder{file: file, source: source, set: token.NewFileSet()}
	parsed, err := parser.ParseFile(f.set, file, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil || ast.IsGenerated(parsed) {
		return nil, err
	}
	ast.PreorderStack(parsed, nil, func(n ast.Node, stack []ast.Node) bool {
		f.visit(n, stack)
		return true
	})
	return f.found, nil
}

func (f *finder) visit(n ast.Node, stack []ast.Node) {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		f.swap(n.OpPos, n.Op)
	case *ast.AssignStmt:
		f.swap(n.TokPos, n.Tok)
	case *ast.IncDecStmt:
		f.swap(n.TokPos, n.Tok)
	case *ast.UnaryExpr:
		if n.Op == token.NOT {
			f.replace(n.OpPos, n.OpPos+1, "")
		}
	case *ast.Ident:
		if other := map[string]string{"true": "false", "false": "true"}[n.Name]; other != "" {
			f.replace(n.Pos(), n.End(), other)
		}
	case *ast.BasicLit:
		if value, err := strconv.ParseInt(n.Value, 0, 64); err == nil && n.Kind == token.INT {
			f.replace(n.Pos(), n.End(), strconv.FormatInt(value+1, 10))
		}
	case *ast.IfStmt:
		switch n.Cond.(type) {
		case *ast.Ident, *ast.SelectorExpr, *ast.CallExpr:
			f.replace(n.Cond.Pos(), n.Cond.Pos(), "!")
		}
	case *ast.ExprStmt:
		if _, ok := n.X.(*ast.CallExpr); ok {
			f.replace(n.Pos(), n.End(), "{}")
		}
	case *ast.ReturnStmt:
		if last := returnedError(n, stack); last != nil {
			f.replace(last.Pos(), last.End(), "nil")
		}
	}
}

func (f *finder) swap(at token.Pos, operator token.Token) {
	for _, other := range swaps[operator] {
		f.replace(at, at+token.Pos(len(operator.String())), other.String())
	}
}

func (f *finder) replace(from, to token.Pos, text string) {
	position := f.set.Position(from)
	start, end := position.Offset, f.set.Position(to).Offset
	first := bytes.LastIndexByte(f.source[:start], '\n') + 1
	last := end + bytes.IndexByte(append(f.source[end:len(f.source):len(f.source)], '\n'), '\n')
	f.found = append(f.found, mutant{
		file: f.file, line: position.Line, start: start, end: end, replacement: text,
		before: oneLine(string(f.source[first:last])),
		after:  oneLine(string(f.source[first:start]) + text + string(f.source[end:last])),
	})
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// returnedError returns the error of a return statement, nil where the function returns none, or nil.
func returnedError(statement *ast.ReturnStmt, stack []ast.Node) ast.Expr {
	for i := len(stack) - 1; i >= 0; i-- {
		var results *ast.FieldList
		switch f := stack[i].(type) {
		case *ast.FuncDecl:
			results = f.Type.Results
		case *ast.FuncLit:
			results = f.Type.Results
		default:
			continue
		}
		if results == nil || results.NumFields() != len(statement.Results) {
			return nil
		}
		last := statement.Results[len(statement.Results)-1]
		kind, ok := results.List[len(results.List)-1].Type.(*ast.Ident)
		value, _ := last.(*ast.Ident)
		if !ok || kind.Name != "error" || value != nil && value.Name == "nil" {
			return nil
		}
		return last
	}
	return nil
}
