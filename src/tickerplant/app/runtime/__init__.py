"""Running a plant: its services and their supervisor, locks, the embedded database, memory and cores.

In: the settings. Out: an opened `Plant`, whose services run in threads of this process. Begin with `plant`, then
`services` (what each service runs) and `supervisor` (threads, restarts, shutdown).
"""
