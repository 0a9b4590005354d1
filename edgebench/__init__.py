"""edgebench: may this compressed model ship to that device?

Importing this package is cheap: the heavy libraries are imported by the parts that need them.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
