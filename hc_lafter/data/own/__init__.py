"""Images of one's own: a folder with one folder per class, or a table of paths and labels.

`folder` lists them, `images` checks the files, divides them into splits and makes records of them, for the published
emotion sets as well. What a single file holds is the business of `hc_lafter.data.decode`; no model belongs in this
folder, and no layout of a published set.
"""
