"""Images of one's own: a folder with one folder per class, or a table of paths and labels.

How files are listed, checked, split and remembered. What a single file holds is told by `hc_lafter.data.decode`.
"""
