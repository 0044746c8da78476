"""A CLIP in hand: loading it, the one walk through its vision tower, its texts, and the cache of what they gave.

`load` opens tags, files, archives and the embedded CLIP, `weights` reads the tensors of any container, `vit` walks
through the tower, `text` and `descriptions` say what is said of a class, `cache` keeps what was costly to compute.
Nothing here knows a system, how one is tuned, or the suite.
"""
