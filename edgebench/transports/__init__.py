"""How the measuring agent is reached: one file for each transport."""
