"""A CLIP in hand: loading it, the one walk through its vision tower, its texts.

`load` opens tags, files, archives and the embedded CLIP, `weights` reads the tensors of any container, `vit` walks
through the tower, `text` and `descriptions` hold what is said of a class and the classifiers made of it.
Nothing here knows a system, how one is tuned, or the suite.
"""
