"""A cluster whose DaemonSets really roll: the control plane itself, and nodes on which the kubelet is played."""
