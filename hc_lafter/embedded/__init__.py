"""The shipped weights of the small CLIP and their cards; files only.

No code lives here: `hc_lafter.clip.load` reads these files, and `hc_lafter.pretrain`, beside this folder, makes them
again.
"""
