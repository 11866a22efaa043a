"""Running a plant: its services and their supervisor, logging, fault injection and cores.

In: the settings. Out: an opened `Plant`, whose services run in threads of this process. Begin with `plant`, then
`services` (what each service runs) and `supervisor` (threads, restarts, shutdown).
"""
