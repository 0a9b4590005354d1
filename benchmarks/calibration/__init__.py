"""Where the protocol's numbers come from: each module measures or simulates one and prints it."""
