"""Running a plant: its services and their supervisor, leadership, monitoring, logging, signals and CPU affinity.

In: the settings. Out: an opened `Plant`, whose services run in threads of this process. Begin with `plant`, then
`services` (the function of each service) and `supervisor` (threads, restarts, shutdown).
"""
