"""Alert rules: `AlertRule` and `Bars` records in, fired alerts out. Pure.

`evaluator.AlertEvaluator` contains all rules of a partition. `watch_engine` computes the operands of the rules
(`rule_operands`). `rule_table` evaluates all rules of an interval at once, and `rule_state` decides whether one rule
fires. `fired_alerts` encodes the result. Begin with `evaluator`.
"""
