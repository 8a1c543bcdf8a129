"""What all rooms share: blocks of columns, aliases of families, files, hub, settings, threads.

May import nothing of this package.
"""
