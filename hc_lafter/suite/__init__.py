"""What the notebooks and the report need: study, profiles, places, the chain, figures, the claims ledger, the report.

This room may use every other, and none may use it. A number is made elsewhere: no model, no data set and no training
lives here.
"""
