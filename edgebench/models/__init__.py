"""Networks: one file, one factory, registered by name; and the user's own."""
