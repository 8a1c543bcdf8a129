"""What all rooms share: blocks of columns, aliases, files, the hub, settings, torch, threads.

May import nothing of this package.
"""
