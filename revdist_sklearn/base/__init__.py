"""What all rooms share: blocks of columns, aliases of families, files, the hub,
settings, and what torch is told.

May import nothing of this package.
"""
