package pool

// Source is where the names of the considered pools came from.
type Source string

// Sources, in their order of precedence. For each IP version the first that
// names a pool wins.
const (
	SourceNone       Source = ""
	SourceSubnet     Source = "annotation ipam.spidernet.io/subnet(s) of the pod"
	SourcePodIPPools Source = "annotation ipam.spidernet.io/ippools of the pod"
	SourcePodIPPool  Source = "annotation ipam.spidernet.io/ippool of the pod"
	SourceNamespace  Source = "annotation of the namespace"
	SourceConfigured Source = "CNI configuration"
	SourceDefault    Source = "default pools"
)

// Cause classifies a Drop.
type Cause string

// Causes of a Drop.
const (
	CauseUnknown     Cause = "unknown"     // no such pool
	CauseTerminating Cause = "terminating" // being deleted
	CauseDisabled    Cause = "disabled"    // spec.disable
	CauseVersion     Cause = "version"     // of the other IP version
	CauseNotDefault  Cause = "not-default" // nothing names it and spec.default is false
	CauseNode        Cause = "node"        // spec.nodeName, spec.nodeAffinity
	CauseNamespace   Cause = "namespace"   // spec.namespaceName, spec.namespaceAffinity
	CausePod         Cause = "pod"         // spec.podAffinity
	CauseMultus      Cause = "multus"      // spec.multusName
	CauseMaster      Cause = "master"      // match_master_subnet
	CauseEmpty       Cause = "empty"       // no address after exclusions and reservations
	CauseExhausted   Cause = "exhausted"   // every address is taken (found by the allocation)
)

// Drop says why a pool is not used.
type Drop struct {
	Pool   string
	Cause  Cause
	Reason string // "spec.nodeName [worker1] does not include this pod's node master"
}

// Selection is the outcome for one interface and one IP version.
type Selection struct {
	Version int
	Source  Source
	// Pools are the candidates, best first.
	Pools []*Pool
	// Drops are the others that were considered, in the order of their names as
	// given or, for default pools, sorted.
	Drops []Drop
	// CleanGateway: the interface gets no default route.
	CleanGateway bool
}

// Select returns the pools of one IP version that the interface may take an
// address from. The error is an *AnnotationError.
func Select(c *Catalog, req *Request, version int) (Selection, error) {
	return Selection{Version: version}, nil
}

// SelectAll selects for every one of the given IP versions, which are those that
// the installation enables. A version for which no source names a pool, and of
// which there is no default pool either, is not asked for and has no Selection,
// unless that leaves none. The error is an *AnnotationError, or a *NoPoolError
// where a version that is asked for has no candidate.
func SelectAll(c *Catalog, req *Request, versions []int) ([]Selection, error) {
	return nil, nil
}

// NoPoolError says that an interface cannot get an address, and what was wrong
// with every pool that was considered.
type NoPoolError struct {
	Interface string
	Version   int
	Source    Source
	Drops     []Drop
}

// Error names every pool and why it was dropped.
func (e *NoPoolError) Error() string { return Explain(e.Drops) }

// Explain returns the drops in one line, "pool a: reason; pool b: reason", cut
// after the first 20.
func Explain(drops []Drop) string { return "" }
