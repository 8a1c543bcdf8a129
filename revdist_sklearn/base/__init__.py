"""What all rooms share: blocks of columns, aliases, files, the hub, settings, torch.

May import nothing of this package.
"""
