"""Scenarios: how queries arrive, and what a latency then means. Each result names its own.

As MLPerf Inference has them (Reddi et al., ISCA 2020): single-stream and multi-stream ask the next
query when the last one is answered, server lets queries arrive by chance, offline has them all at
once.
"""
