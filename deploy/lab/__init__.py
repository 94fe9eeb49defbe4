"""The cluster in network namespaces of one machine: real processes, real packets, nothing shared with the host."""
