"""The measuring agent: runs a bundle's models on the device it stands on and writes raw results.

It imports nothing of the rest of edgebench and needs Python 3.8, numpy and the runtime. It is
shipped as one zipapp; docs/bundle.md in the repository specifies what it reads and writes.
"""
