"""The shipped weights, their cards, and what makes both again.

`hc_lafter.clip.load` reads the weights and nothing else of this room. `pretrain` trains a CLIP like them, `fidelity`
says in what it resembles real ones, `measure` holds the readings that both take, `cards` and `figure` show what the
JSON files say. No other room imports from here.
"""
