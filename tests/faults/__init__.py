"""Faults, by real processes: each scenario makes one happen, shows that it did, and asks the oracle what it cost."""
