"""Verification: recompute the output of aggregation from raw records and compare it, byte for byte, with the log.

In: an event log and the time range of a request. Out: a `PartitionResult` with the first difference, if any. Begin with
`replay_check`; `recorded_output` reads the log, and `differences` describes how two records differ.
"""
