"""
Video files to `pixel_values`: which frames, how they are decoded, resized, cropped and normalised.

May import: its own files, by `from .sibling import` alone, because transformers copies them beside the weights of a
saved model. Start with `video_processing_timesformer.py`; a file goes from `video_sources` through `video_packets`,
`decoding_plan` and `video_decoding` to `clip_processing`.
"""
