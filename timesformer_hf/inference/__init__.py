"""
Uses a trained model: the pipeline, labels and features of many files, faster models, exported models.

May import: `model`, `output` and `video`. Start with `pipeline_timesformer.py`, or with `folding.py` for
`optimize_for_inference`.
"""
