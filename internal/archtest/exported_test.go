package archtest

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	"golang.org/x/tools/go/packages"
)

// typed loads the packages of the module without their tests, with types and syntax.
var typed = sync.OnceValues(func() ([]*packages.Package, error) {
	return packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedImports | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedTypesSizes | packages.NeedSyntax,
		Dir:  filepath.Join("..", ".."),
	}, "./...")
})

func typedPackages(t *testing.T) []*packages.Package {
	t.Helper()
	loaded, err := typed()
	if err != nil {
		t.Fatal(err)
	}
	if packages.PrintErrors(loaded) > 0 {
		t.Fatal("the module has errors")
	}
	return loaded
}

// TestExportedNamesAreUsed finds exported functions, types, constants, variables and methods that only tests use.
//
// We do not use golang.org/x/tools/cmd/deadcode: it reports functions only, and builds the SSA form of the whole
// program with client-go. Reading the uses from go/types takes seconds and covers every kind of name.
func TestExportedNamesAreUsed(t *testing.T) {
	loaded := typedPackages(t)
	used, interfaces, embedders := uses(loaded), interfacesOf(loaded), embeddersOf(loaded)
	for _, p := range loaded {
		if isTestSupport(p) {
			continue
		}
		for _, file := range p.Syntax {
			if ast.IsGenerated(file) {
				continue
			}
			for _, object := range exportedNames(p, file) {
				if !used[object] && !isZeroOfEnum(object) && !implements(object, interfaces, embedders) && !readsTextForm(object) {
					t.Errorf("%s: %s is used by tests only, or by nothing", place(p, object), object.Name())
				}
			}
		}
	}
}

// isZeroOfEnum reports whether object is the zero value of an enumeration, which code uses by leaving a field out.
func isZeroOfEnum(object types.Object) bool {
	c, ok := object.(*types.Const)
	if !ok {
		return false
	}
	_, named := c.Type().(*types.Named)
	return named && c.Val().Kind() == constant.Int && constant.Sign(c.Val()) == 0
}

// place returns the file and line of an object, from the root of the module.
func place(p *packages.Package, object types.Object) string {
	at := p.Fset.Position(object.Pos())
	return fmt.Sprintf("%s/%s:%d", strings.TrimPrefix(p.PkgPath, module+"/"), filepath.Base(at.Filename), at.Line)
}

// isTestSupport reports whether all users of a package are tests or clients outside the module.
func isTestSupport(p *packages.Package) bool {
	relative := strings.TrimPrefix(p.PkgPath, module+"/")
	return strings.HasSuffix(p.Name, "test") || anyInside(relative, []string{"api", "test", "hack", "charts"})
}

// exportedNames returns the exported names that a file declares at package level, methods among them.
func exportedNames(p *packages.Package, file *ast.File) (objects []types.Object) {
	add := func(names ...*ast.Ident) {
		for _, name := range names {
			if name.IsExported() {
				objects = append(objects, p.TypesInfo.Defs[name])
			}
		}
	}
	for _, declaration := range file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			add(d.Name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.ValueSpec:
					add(s.Names...)
				case *ast.TypeSpec:
					add(s.Name)
					if i, ok := s.Type.(*ast.InterfaceType); ok {
						for _, method := range i.Methods.List {
							add(method.Names...)
						}
					}
				}
			}
		}
	}
	return objects
}

// uses returns every object that code outside test support uses, but for uses within its own declaration.
func uses(loaded []*packages.Package) map[types.Object]bool {
	used := map[types.Object]bool{}
	for _, p := range loaded {
		if isTestSupport(p) && !strings.HasPrefix(p.PkgPath, module+"/api") {
			continue
		}
		for _, file := range p.Syntax {
			for _, declaration := range file.Decls {
				var own types.Object
				f, isFunction := declaration.(*ast.FuncDecl)
				if isFunction {
					own = p.TypesInfo.Defs[f.Name]
				}
				ast.Inspect(declaration, func(n ast.Node) bool {
					if isFunction && n == f.Recv && n != ast.Node((*ast.FieldList)(nil)) {
						return false
					}
					if name, ok := n.(*ast.Ident); ok {
						if object := origin(p.TypesInfo.Uses[name]); object != nil && object != own {
							used[object] = true
						}
					}
					return true
				})
			}
		}
	}
	return used
}

// origin returns the generic object of an instance.
func origin(object types.Object) types.Object {
	switch o := object.(type) {
	case *types.Func:
		return o.Origin()
	case *types.Var:
		return o.Origin()
	}
	return object
}

// interfacesOf returns the interfaces of the packages and of everything they import, by the names of their methods.
func interfacesOf(loaded []*packages.Package) map[string][]types.Type {
	byMethod := map[string][]types.Type{}
	add := func(t types.Type) {
		if i, ok := t.Underlying().(*types.Interface); ok {
			for m := range i.Methods() {
				byMethod[m.Name()] = append(byMethod[m.Name()], t)
			}
		}
	}
	add(types.Universe.Lookup("error").Type())
	seen := map[*types.Package]bool{}
	var visit func(p *types.Package)
	visit = func(p *types.Package) {
		if seen[p] {
			return
		}
		seen[p] = true
		for _, name := range p.Scope().Names() {
			if object, ok := p.Scope().Lookup(name).(*types.TypeName); ok {
				add(object.Type())
			}
		}
		for _, imported := range p.Imports() {
			visit(imported)
		}
	}
	for _, p := range loaded {
		visit(p.Types)
		for expr, tv := range p.TypesInfo.Types {
			if _, ok := expr.(*ast.InterfaceType); ok {
				add(tv.Type)
			}
		}
	}
	return byMethod
}

// optionalMethods are methods that libraries find by a type assertion, with an interface that we import nowhere.
var optionalMethods = []string{"Is", "As", "Unwrap", "NeedLeaderElection"}

// readsTextForm reports whether object is a Parse function. A text form with a String method needs a reader, even if
// only tests read it: kernel tests compare states by their text.
func readsTextForm(object types.Object) bool {
	_, isFunction := object.(*types.Func)
	return isFunction && object.Name() == "Parse"
}

// embeddersOf returns the struct types of the module by the name of an embedded type: methods of the embedded type are
// theirs too.
func embeddersOf(loaded []*packages.Package) map[*types.TypeName][]types.Type {
	embedders := map[*types.TypeName][]types.Type{}
	for _, p := range loaded {
		for _, name := range p.Types.Scope().Names() {
			object, ok := p.Types.Scope().Lookup(name).(*types.TypeName)
			if !ok {
				continue
			}
			s, ok := object.Type().Underlying().(*types.Struct)
			if !ok {
				continue
			}
			for field := range s.Fields() {
				if embedded := named(field.Type()); field.Embedded() && embedded != nil {
					embedders[embedded] = append(embedders[embedded], object.Type())
				}
			}
		}
	}
	return embedders
}

// named returns the name of a type, or of the type behind a pointer.
func named(t types.Type) *types.TypeName {
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	if n, ok := t.(*types.Named); ok {
		return n.Origin().Obj()
	}
	return nil
}

// implements reports whether object is a method of an interface that its receiver, or a struct embedding it, implements.
func implements(object types.Object, interfaces map[string][]types.Type, embedders map[*types.TypeName][]types.Type) bool {
	f, ok := object.(*types.Func)
	if !ok || f.Signature().Recv() == nil {
		return false
	}
	receiver := f.Signature().Recv().Type()
	if types.IsInterface(receiver) {
		return false
	}
	if slices.Contains(optionalMethods, f.Name()) {
		return true
	}
	receivers := append([]types.Type{receiver}, embedders[named(receiver)]...)
	return slices.ContainsFunc(interfaces[f.Name()], func(t types.Type) bool {
		if named, ok := t.(*types.Named); ok && named.TypeParams().Len() > 0 {
			return true // an instance may fit; the name decides
		}
		i := t.Underlying().(*types.Interface)
		return slices.ContainsFunc(receivers, func(r types.Type) bool {
			return types.Implements(r, i) || types.Implements(types.NewPointer(r), i)
		})
	})
}

// TestNoNameDiffersByCase finds an interface and a struct of one package with the names follower and Follower.
func TestNoNameDiffersByCase(t *testing.T) {
	for _, p := range typedPackages(t) {
		scope := p.Types.Scope()
		for _, name := range scope.Names() {
			lower := string(unicode.ToLower(rune(name[0]))) + name[1:]
			if !token.IsExported(name) || scope.Lookup(lower) == nil {
				continue
			}
			a, b := scope.Lookup(name), scope.Lookup(lower)
			if isInterface(a) && isStruct(b) || isStruct(a) && isInterface(b) {
				t.Errorf("%s: %s and %s are an interface and a struct; name them after their parts", place(p, a), name, lower)
			}
		}
	}
}

func isInterface(o types.Object) bool {
	_, isType := o.(*types.TypeName)
	return isType && types.IsInterface(o.Type())
}

func isStruct(o types.Object) bool {
	_, isType := o.(*types.TypeName)
	_, ok := o.Type().Underlying().(*types.Struct)
	return isType && ok
}
