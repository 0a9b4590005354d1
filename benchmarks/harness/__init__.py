"""The proof that the agent's latencies can be trusted: experiments with a known answer."""
