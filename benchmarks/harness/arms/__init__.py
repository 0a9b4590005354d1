"""The processes in which the rules of other tools time one model each."""
