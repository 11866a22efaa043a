"""The attackers of `benchmarks/attack.py`: hostile clients (`clients`, `fuzzed`) and a hostile vendor (`vendor`)."""
