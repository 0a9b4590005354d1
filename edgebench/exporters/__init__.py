"""Exporters: from a module to the file that runs on a target."""
