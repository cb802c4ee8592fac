"""
Labels and features of many videos: on this machine, or on the machines of a Ray cluster; and shards for training.

May import: `data`, `evaluation`, `inference`, `model`, `output`, `shipped_models`, `timeline`, `version` and `video`.
Start with `corpus_run.py`, then see `video_worker.py` for what happens to a video and `ray_engine.py` for many machines.
`shards.py` stands by itself.
"""
