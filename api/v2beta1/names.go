package v2beta1

// Finalizer keeps a deleted object until no other object depends on it.
const Finalizer = "spiderpool.spidernet.io"

// CoordinatorName is the name of a cluster's only SpiderCoordinator.
const CoordinatorName = "default"
