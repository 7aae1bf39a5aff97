//! How placement, the map and reconfiguration grow with the cluster.
