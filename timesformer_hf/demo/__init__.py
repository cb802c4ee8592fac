"""
A page in the browser: drop a clip on it, and see its labels, what the model looks at, and what happens when.

May import: `explanation`, `inference`, `model`, `output`, `shipped_models`, `timeline` and `video`. Start with
`page.py`.
"""
