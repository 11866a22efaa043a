"""Verification: recompute the output of aggregation from raw records and compare it, byte for byte, with the log.

In come an event log and the time range of a request. Out comes a `PartitionResult` with the first difference, if any.
Begin with `replay_check`; `recorded_output` reads what the log has, `differences` describes how two records differ.
"""
