"""Emotions: the wheels and label distributions, and the published sets in the layouts in which they are handed out.

`sets` says what a spec names, the other files each list a kind of set. Nothing here decodes an image.
"""
