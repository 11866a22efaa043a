"""Alert rules: `rules` evaluates them, `rule_state` is one rule's state, `rule_operands` computes its sides."""
